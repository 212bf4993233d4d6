//! What calibration saw, and which sites harm most in fewer bits.

use super::facts::list;
use super::markup::{Node, el, text};
use super::table::{
    Cell,
    Column::{Number, Words},
    Table,
};
use super::text::{bytes, count, percent, plural, scientific, seconds, significant};
use crate::bake::Report;
use crate::bake::calibrated::CalibrationFigures;
use crate::bake::report::CandidateFigures;
use crate::optimizer::calibration::Shift;
use crate::optimizer::{How, Scan, SiteHarm};

/// Sites of one candidate that are shown; the rest is in the JSON.
const SHOWN: usize = 12;

/// The section of calibration and sensitivity.
pub(super) fn section(report: &Report) -> Node {
    let lead = "Harm is what the outputs lose when a site computes in 8 bits: measured on a few samples of the search split where the budget was at stake, \
        estimated from calibration data and weights elsewhere.";
    let section = super::section("sensitivity", "Calibration and sensitivity").push(text("p", lead).class("lead"));
    let section = match &report.calibration {
        Some(figures) => section.push(calibration(figures)),
        None => {
            section.push(text("p", "Nothing was calibrated at this level, goal and choice of passes.").class("absent"))
        }
    };
    let scans: Vec<Node> =
        report.candidates.iter().filter_map(|c| c.scan.as_ref().map(|scan| sites(c, scan))).collect();
    if scans.is_empty() {
        return section.push(text("p", "No candidate has sites that compute in 8 bits.").class("absent"));
    }
    section.extend(scans)
}

fn calibration(figures: &CalibrationFigures) -> Node {
    let took = if figures.from_cache { "Seconds, read from the cache" } else { "Seconds of the pass" };
    let methods: Vec<String> =
        figures.methods.iter().filter(|(_, n)| **n > 0).map(|(method, n)| format!("{method} {n}")).collect();
    let compared = if figures.compared_with == 0 {
        "not compared".to_owned()
    } else {
        format!("{} of {} on {}", figures.off, figures.compared, plural(figures.compared_with, "sample"))
    };
    let facts = [
        ("Samples", format!("{} from {}", count(figures.samples as u64), figures.source)),
        ("Tensors", count(figures.tensors as u64)),
        (took, seconds(figures.seconds)),
        ("Held in memory", bytes(figures.held_bytes as f64)),
        ("Ranges by method", if methods.is_empty() { "none".to_owned() } else { methods.join(", ") }),
        ("Tensors off on the search split", compared),
    ];
    let shifts = (!figures.shifts.is_empty()).then(|| {
        let columns = [
            Words("Tensor"),
            Words("Calibrated on"),
            Words("Search split"),
            Number("Beyond"),
            Number("Means apart"),
            Number("Width"),
        ];
        Table::new(&columns).caption("Other values than calibrated").rows(&figures.shifts, shift_row).node()
    });
    let left_out = (!figures.left_out.is_empty()).then(|| {
        let columns = [Words("Tensor"), Words("No range because"), Words("In float for that")];
        let table = Table::new(&columns).caption("Left in float").rows(&figures.left_out, |u| -> [Cell; 3] {
            [u.tensor.as_str().into(), u.reason.as_str().into(), u.sites.join(", ").into()]
        });
        table.node()
    });
    el("div").push(list(&facts)).maybe(shifts).maybe(left_out)
}

fn shift_row(shift: &Shift) -> [Cell; 6] {
    let ends = |[low, high]: [f32; 2]| format!("{} to {}", significant(f64::from(low)), significant(f64::from(high)));
    let name = if shift.input { format!("{} (input)", shift.tensor) } else { shift.tensor.clone() };
    [
        name.into(),
        ends(shift.calibrated).into(),
        ends(shift.seen).into(),
        percent(shift.beyond).into(),
        format!("{} sd", significant(shift.mean)).into(),
        format!("{}×", significant(shift.width)).into(),
    ]
}

fn sites(candidate: &CandidateFigures, scan: &Scan) -> Node {
    let measured = scan.measured_sites();
    let known = match measured {
        0 => "all by estimate".to_owned(),
        n if n == scan.sites.len() => "all measured".to_owned(),
        n => format!("{n} measured"),
    };
    let ends = match (scan.without, scan.together) {
        (Some(without), Some(together)) => {
            format!("; harm {} with none in 8 bits, {} with all", harm(Some(without)), harm(Some(together)))
        }
        (_, None) if measured > 0 => "; the outputs broke with all in 8 bits".to_owned(),
        _ => String::new(),
    };
    let caption = format!("{}: {}, {known}{ends}", candidate.name, plural(scan.sites.len(), "site"));
    let columns = [Words("Site"), Words("What"), Number("Work"), Number("Harm"), Words("Known by"), Words("Now")];
    let row = |site: &SiteHarm| -> [Cell; 6] {
        let float = candidate.left_out.contains(&site.site);
        [
            site.site.as_str().into(),
            site.part.as_str().into(),
            count(site.work as u64).into(),
            harm(site.harm).into(),
            match site.how {
                How::Alone => "measured alone",
                How::LeftOut => "measured by leaving it out",
                How::Estimated => "estimate",
            }
            .into(),
            if float { "in float" } else { "in 8 bits" }.into(),
        ]
    };
    let table = Table::new(&columns).caption(&caption).rows(scan.sites.iter().take(SHOWN), row).node();
    let rest = scan.sites.len().saturating_sub(SHOWN);
    el("div").push(table).maybe(
        (rest > 0)
            .then(|| text("p", &format!("{} with less harm are in report.json.", plural(rest, "site"))).class("note")),
    )
}

/// A harm; a word for outputs that broke.
fn harm(value: Option<f64>) -> String {
    match value {
        None => "broke".to_owned(),
        Some(v) if v.abs() < 1e-3 => scientific(v),
        Some(v) => significant(v),
    }
}
