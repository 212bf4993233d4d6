//! What each site of a variant harms: measured where there was time and need for it, estimated elsewhere. For the report, and for whoever decides by it.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::search::Variant;

/// The harm of every site of a variant that computes in fewer bits.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Scan {
    /// Harm with none of them in fewer bits; absent where nothing was measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub without: Option<f64>,
    /// Harm with all of them; absent where nothing was measured, or where the outputs broke.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub together: Option<f64>,
    /// The sites, the most harmful first.
    pub sites: Vec<SiteHarm>,
}

/// The harm of one site.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct SiteHarm {
    /// First output of the node.
    pub site: String,
    /// What it is: the operator of a product, or `Between` for what lies between products.
    pub part: String,
    /// Multiplications of one run; of a site without weights, values that it gives; of a product whose number of rows is not known, weights.
    pub work: usize,
    /// Measured: how far the outputs are off (1 - concordance, of probabilities on their logits) and the share of features that is lost, together, on a few
    /// samples of the search split; 0 unchanged. Estimated: the
    /// squared relative error of what the site gives, in the unit of the measured ones where there are some. Absent where the outputs broke: no number says that.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub harm: Option<f64>,
    /// How the harm is known.
    pub how: How,
}

/// How a harm is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub enum How {
    /// The model was run with this site alone in fewer bits.
    Alone,
    /// It only acts where its neighbours do: the model was run with all sites and with all but this one, and the harm is the difference.
    LeftOut,
    /// From calibration data and weights, without a run.
    Estimated,
}

impl Scan {
    /// What was measured: the harm with none and with all, and of each site where there is one; `harms` has a number for every site, by which they are ordered.
    pub(super) fn measured(
        variant: &Variant,
        [without, together]: [Option<f64>; 2],
        measured: &[Option<f64>],
        harms: &[f64],
    ) -> Self {
        let finite = |harm: Option<f64>| harm.filter(|h| h.is_finite());
        let mut order: Vec<usize> = (0..variant.tunable.min(harms.len())).collect();
        order.sort_by(|&a, &b| harms[b].total_cmp(&harms[a]).then(a.cmp(&b)));
        let site = |at: usize| {
            let info = &variant.sites[at];
            let how = match measured.get(at) {
                Some(Some(_)) if info.follows => How::LeftOut,
                Some(Some(_)) => How::Alone,
                _ => How::Estimated,
            };
            SiteHarm {
                site: info.name.clone(),
                part: info.part.to_owned(),
                work: info.elements,
                harm: finite(Some(harms[at])),
                how,
            }
        };
        Self { without: finite(without), together: finite(together), sites: order.into_iter().map(site).collect() }
    }

    /// Estimates alone: the variant was good enough as a whole, or was given up before any site was looked at. `None` for one without sites that compute.
    pub(super) fn estimated(variant: &Variant) -> Option<Self> {
        let harms: Vec<f64> = variant.sites.iter().map(|site| site.error.powi(2)).collect();
        (variant.tunable > 0).then(|| Self::measured(variant, [None; 2], &[], &harms))
    }

    /// How many sites were measured.
    pub fn measured_sites(&self) -> usize {
        self.sites.iter().filter(|s| s.how != How::Estimated).count()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::optimizer::search::SiteInfo;

    fn variant() -> Variant {
        let site = |name: &str, follows| SiteInfo { name: name.into(), part: "Conv", elements: 7, error: 0.1, follows };
        Variant {
            name: "v".into(),
            kind: "k",
            sites: vec![site("a", false), site("b", true), site("c", false), site("stored", false)],
            build: Box::new(|_| Vec::new()),
            probe: None,
            tunable: 3,
            smallest: false,
            only_whole: false,
            repairs: Vec::new(),
            begun: None,
            measured: true,
        }
    }

    #[test]
    fn sites_that_compute_are_listed_by_harm_with_how_it_is_known_and_what_broke_has_no_number() {
        let harms = [0.2, f64::INFINITY, 0.3, 9.0];
        let measured = [Some(0.2), Some(f64::INFINITY), None, None];
        let scan = Scan::measured(&variant(), [Some(0.0), Some(f64::INFINITY)], &measured, &harms);
        let found: Vec<_> = scan.sites.iter().map(|s| (s.site.as_str(), s.harm, s.how)).collect();
        let expected = [("b", None, How::LeftOut), ("c", Some(0.3), How::Estimated), ("a", Some(0.2), How::Alone)];
        assert_eq!(found, expected);
        assert_eq!((scan.without, scan.together, scan.measured_sites()), (Some(0.0), None, 2));
    }

    #[test]
    fn what_was_not_measured_says_that_it_is_an_estimate_and_what_only_stores_has_no_scan() {
        let scan = Scan::estimated(&variant()).unwrap();
        assert!(scan.sites.iter().all(|s| s.how == How::Estimated && s.harm.is_some_and(|h| (h - 0.01).abs() < 1e-12)));
        assert_eq!((scan.sites.len(), scan.without, scan.measured_sites()), (3, None, 0));
        assert_eq!(Scan::estimated(&Variant { tunable: 0, ..variant() }), None);
    }

    #[test]
    fn a_scan_is_the_same_after_it_was_written_and_read() {
        let scan = Scan::measured(&variant(), [Some(0.1), Some(0.7)], &[Some(1.0 / 3.0)], &[1.0 / 3.0, 0.2, 0.1, 0.0]);
        let text = serde_json::to_string(&scan).unwrap();
        assert_eq!(serde_json::from_str::<Scan>(&text).unwrap(), scan);
    }
}
