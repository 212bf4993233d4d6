//! What the package of phase 5 says of the training, carried along: how the model was trained, how good its trainer found it, and what became of those
//! figures when the bake measured them again.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::manifest::SourceClaim;
use crate::api::digest::sha256_hex;
use crate::package::{
    Environment, FinalMetric, Framework, Identity, Layout, Manifest, Quantization, Sparsity, Training,
};

/// A trainer's figure and the one that was measured again agree when they differ by no more: half of the last digit of a figure given in whole percent,
/// which also covers the few decisions that another runtime makes the other way.
pub const REPRODUCED_WITHIN: f64 = 0.005;

/// The most bytes of JSON that a trainer's own words take. A package for deployment is read by machines of little memory.
const MOST_BYTES: usize = 64 << 10;

/// What the package of phase 5 says. What is not known is absent.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Phase5Claim {
    /// How it was laid out.
    pub layout: Layout,
    /// SHA-256 of its manifest, which pins every file of it; absent in the trainer's own layout.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub manifest_sha256: Option<String>,
    /// Which model it was.
    pub identity: Identity,
    /// What trained and exported it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub framework: Option<Framework>,
    /// How it was trained.
    #[serde(default)]
    pub training: Training,
    /// What the trainer measured at the end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub metrics: Vec<FinalMetric>,
    /// Whether the weights were quantised already.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub quantization: Option<Quantization>,
    /// How many weights were zero.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sparsity: Option<Sparsity>,
    /// Where it was trained.
    #[serde(default)]
    pub environment: Environment,
    /// Graph, weights and data splits.
    pub files: Vec<Phase5File>,
    /// Those of the trainer's figures that can be measured again, and what the input model scored on the package's own validation split.
    pub baseline: Vec<FigureClaim>,
    /// Parts that are too large to be carried along. The manifest of phase 5 holds them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub left_out: Vec<LeftOut>,
}

/// A file of the package of phase 5.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Phase5File {
    /// The field of the manifest of phase 5 that names it, `splits.validation` for example.
    pub field: String,
    /// SHA-256, in hexadecimal.
    pub sha256: String,
    /// Bytes.
    pub bytes: u64,
    /// Whether the bake read this very file. A job may name data of its own instead.
    pub read: bool,
}

/// A figure of the trainer, measured again.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct FigureClaim {
    /// Its name.
    pub metric: String,
    /// What the trainer says.
    pub claimed: f64,
    /// What the input model scored; absent when it could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<f64>,
    /// Samples that it was measured on.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub samples: Option<usize>,
    /// Whether the two differ by no more than 0.005; absent when it could not be measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holds: Option<bool>,
}

/// A part of the manifest of phase 5 that is not carried along.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LeftOut {
    /// Its field, `training.metadata` for example.
    pub field: String,
    /// Bytes of its JSON without white space.
    pub bytes: usize,
    /// SHA-256 of that, in hexadecimal.
    pub sha256: String,
}

/// A part that may be left out: its field, and how it is taken away.
type Part = (&'static str, fn(&mut Phase5Claim) -> Value);

/// Whatever a trainer may make as long as he likes.
const PARTS: [Part; 13] = [
    ("identity.version", |c| taken(&mut c.identity.version)),
    ("identity.run", |c| taken(&mut c.identity.run)),
    ("identity.created", |c| taken(&mut c.identity.created)),
    ("identity.description", |c| taken(&mut c.identity.description)),
    ("framework", |c| taken(&mut c.framework)),
    ("training.config", |c| taken(&mut c.training.config)),
    ("training.hyperParameters", |c| taken(&mut c.training.hyper_parameters)),
    ("training.results", |c| taken(&mut c.training.results)),
    ("training.metadata", |c| taken(&mut c.training.metadata)),
    ("metrics", |c| taken(&mut c.metrics)),
    ("quantization", |c| taken(&mut c.quantization)),
    ("sparsity", |c| taken(&mut c.sparsity)),
    ("environment", |c| taken(&mut c.environment)),
];

fn taken<T: Default + Serialize>(part: &mut T) -> Value {
    serde_json::to_value(std::mem::take(part)).unwrap_or_default()
}

impl Phase5Claim {
    /// What is carried along of a manifest. `sources` are the files that the bake read.
    pub fn of(
        layout: Layout,
        manifest_sha256: Option<&str>,
        manifest: &Manifest,
        sources: &[SourceClaim],
        baseline: Vec<FigureClaim>,
    ) -> Self {
        let files = manifest.files().into_iter().filter(|(field, _)| role(field).is_some());
        let files = files.map(|(field, file)| Phase5File {
            read: is_read(&field, &file.sha256, sources),
            field,
            sha256: file.sha256.to_ascii_lowercase(),
            bytes: file.bytes,
        });
        let claim = Self {
            layout,
            manifest_sha256: manifest_sha256.map(str::to_owned),
            identity: manifest.identity.clone(),
            framework: manifest.framework.clone(),
            training: manifest.training.clone(),
            metrics: manifest.metrics.clone(),
            quantization: manifest.quantization.clone(),
            sparsity: manifest.sparsity.clone(),
            environment: manifest.environment.clone(),
            files: files.collect(),
            baseline,
            left_out: Vec::new(),
        };
        claim.bounded()
    }

    /// Without its largest parts, as far as it takes.
    fn bounded(mut self) -> Self {
        let mut whole = self.clone();
        let mut parts: Vec<(Part, String)> = PARTS.iter().map(|part| (*part, part.1(&mut whole).to_string())).collect();
        parts.sort_by_key(|(_, text)| std::cmp::Reverse(text.len()));
        let mut bytes: usize = parts.iter().map(|(_, text)| text.len()).sum();
        for ((field, take), text) in parts {
            if bytes <= MOST_BYTES {
                break;
            }
            take(&mut self);
            bytes -= text.len();
            let (field, sha256) = (field.to_owned(), sha256_hex(text.as_bytes()));
            self.left_out.push(LeftOut { field, bytes: text.len(), sha256 });
        }
        self
    }

    /// What it says against the files that the bake read, or against itself.
    pub(super) fn misstated(&self, sources: &[SourceClaim], validation_sha256: &str) -> Option<String> {
        let manifest = sources.iter().find(|s| s.role == "Manifest").map(|s| &s.sha256);
        if self.manifest_sha256.as_ref() != manifest || (self.layout == Layout::Phase5) != manifest.is_some() {
            return Some("manifestSha256 is not that of the manifest that the bake read".to_owned());
        }
        if !self.files.iter().any(|f| f.field == "model.graph" && f.read) {
            return Some("files: model.graph is not the model that was baked".to_owned());
        }
        if let Some(file) = self.files.iter().find(|f| f.read != is_read(&f.field, &f.sha256, sources)) {
            let was = if file.read { "was not" } else { "was" };
            return Some(format!("files: {} is said to be read: {}, and it {was}", file.field, file.read));
        }
        let own = self.files.iter().find(|f| f.field == "splits.validation" && f.read);
        if own.is_some_and(|own| own.sha256 != validation_sha256) {
            return Some("files: splits.validation is not the split of evidence.samples".to_owned());
        }
        if let Some(part) = self.left_out.iter().find(|left| self.holds_part(&left.field)) {
            return Some(format!("leftOut: {} is there all the same", part.field));
        }
        let all_there = self.left_out.iter().all(|left| left.field != "metrics");
        self.baseline.iter().find_map(|figure| {
            let listed = self.metrics.iter().any(|m| m.name == figure.metric && m.value == figure.claimed);
            let why = figure.misstated(own.is_some()).or((all_there && !listed).then_some("it is none of metrics"))?;
            Some(format!("baseline: {}: {why}", figure.metric))
        })
    }

    /// Whether a part that may be left out is there; an unknown one counts as there.
    fn holds_part(&self, field: &str) -> bool {
        let known = PARTS.iter().find(|(name, _)| *name == field);
        known.is_none_or(|(_, take)| !matches!(take(&mut self.clone()).to_string().as_str(), "null" | "[]" | "{}"))
    }
}

impl FigureClaim {
    /// What its verdict must not say with these figures. `own`: the bake read the package's own validation split, the only one that tells.
    fn misstated(&self, own: bool) -> Option<&'static str> {
        match (self.measured, self.holds) {
            (None, None) => None,
            (None, Some(_)) => Some("it is judged without being measured"),
            (Some(_), _) if !own => Some("it is measured on another split than the trainer's"),
            (Some(_), _) if self.samples.unwrap_or(0) == 0 => Some("it is measured without a sample"),
            (Some(measured), holds) => {
                let follows = (measured - self.claimed).abs() <= REPRODUCED_WITHIN;
                (holds != Some(follows)).then_some("whether it holds does not follow from its figures")
            }
        }
    }
}

/// What the bake calls a file of the package of phase 5; `None` for those that are not carried along.
fn role(field: &str) -> Option<&'static str> {
    match field {
        "model.graph" => Some("Model"),
        "model.weights" => Some("Weights"),
        "splits.validation" => Some("Validation"),
        "splits.calibration" => Some("Calibration"),
        "splits.training" => Some("Training"),
        _ => None,
    }
}

fn is_read(field: &str, sha256: &str, sources: &[SourceClaim]) -> bool {
    sources.iter().any(|s| Some(s.role.as_str()) == role(field) && s.sha256.eq_ignore_ascii_case(sha256))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::package::PHASE5_VERSION;

    fn source(role: &str, digit: &str) -> SourceClaim {
        SourceClaim { role: role.to_owned(), uri: "/x".to_owned(), sha256: digit.repeat(64) }
    }

    fn sources() -> Vec<SourceClaim> {
        vec![source("Manifest", "a"), source("Model", "b"), source("Validation", "c")]
    }

    fn manifest(metadata: &str) -> Manifest {
        let file = |path: &str, digit: &str| json!({"path": path, "sha256": digit.repeat(64), "bytes": 7});
        serde_json::from_value(json!({
            "apiVersion": PHASE5_VERSION,
            "identity": {"name": "digits"},
            "model": {"graph": file("model.onnx", "b")},
            "training": {"hyperParameters": {"lr": 0.001}, "metadata": {"log": metadata}},
            "metrics": [{"name": "Top1", "value": 0.979}, {"name": "loss", "value": 0.08}],
            "splits": {"validation": file("v.npz", "c"), "training": file("t.npz", "d")},
        }))
        .unwrap()
    }

    fn figure(measured: Option<f64>) -> FigureClaim {
        let holds = measured.map(|m| (m - 0.979_f64).abs() <= REPRODUCED_WITHIN);
        FigureClaim { metric: "Top1".to_owned(), claimed: 0.979, measured, samples: measured.map(|_| 769), holds }
    }

    fn claim(metadata: &str) -> Phase5Claim {
        let digest = "a".repeat(64);
        Phase5Claim::of(Layout::Phase5, Some(&digest), &manifest(metadata), &sources(), vec![figure(Some(0.9785))])
    }

    #[test]
    fn what_the_trainer_says_is_carried_along_with_the_digests_of_what_was_read() {
        let claim = claim("short");
        assert_eq!(claim.training.hyper_parameters["lr"], json!(0.001));
        let files: Vec<_> = claim.files.iter().map(|f| (f.field.as_str(), f.read)).collect();
        assert_eq!(files, [("model.graph", true), ("splits.validation", true), ("splits.training", false)]);
        assert_eq!((claim.left_out.len(), claim.misstated(&sources(), &"c".repeat(64))), (0, None));
        let text = serde_json::to_string(&claim).unwrap();
        assert_eq!(serde_json::from_str::<Phase5Claim>(&text).unwrap(), claim);
    }

    #[test]
    fn what_is_too_large_is_left_out_and_named() {
        let large = claim(&"x".repeat(MOST_BYTES));
        assert!(large.training.metadata.is_empty());
        assert_eq!((large.left_out.len(), large.left_out[0].field.as_str()), (1, "training.metadata"));
        assert_eq!(large.training.hyper_parameters["lr"], json!(0.001), "the rest stays");
        assert!(serde_json::to_string(&large).unwrap().len() < MOST_BYTES);
        let sealed = "c".repeat(64);
        assert_eq!(large.misstated(&sources(), &sealed), None);
        let mut back = large;
        back.training.metadata.insert("log".to_owned(), json!("mine"));
        assert!(back.misstated(&sources(), &sealed).unwrap().contains("leftOut: training.metadata"));
    }

    #[test]
    fn a_claim_that_does_not_fit_the_files_that_were_read_is_misstated() {
        let cases: [(fn(&mut Phase5Claim), &str); 9] = [
            (|c| c.manifest_sha256 = Some("0".repeat(64)), "manifestSha256"),
            (|c| c.layout = Layout::Trainer, "manifestSha256"),
            (|c| c.files[0].read = false, "model.graph"),
            (|c| c.files[1].sha256 = "0".repeat(64), "splits.validation"),
            (|c| c.files[2].read = true, "splits.training"),
            (|c| c.baseline[0].holds = Some(false), "does not follow"),
            (|c| c.baseline[0].measured = None, "without being measured"),
            (|c| c.baseline[0].samples = None, "without a sample"),
            (|c| c.baseline[0].metric = "F1".to_owned(), "none of metrics"),
        ];
        for (damage, said) in cases {
            let mut claim = claim("");
            damage(&mut claim);
            let why = claim.misstated(&sources(), &"c".repeat(64)).unwrap_or_default();
            assert!(why.contains(said), "{said}: {why}");
        }
    }
}
