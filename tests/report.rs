//! `report.json` against its published schema, and the page that is made of it: nothing of a user's model becomes markup, nothing is fetched, nothing is
//! wider than a phone.
#![cfg(feature = "engine")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "report/browser.rs"]
mod browser;
#[path = "report/made_up.rs"]
mod made_up;

use std::collections::BTreeSet;
use std::path::Path;

use bakehouse::bake::Report;
use bakehouse::bake::html::page;
use bakehouse::bake::report::report_schema;
use bakehouse::optimizer::Speed;
use bakehouse::quality::{Concern, Figure};

const SCHEMA: &str = "docs/report-v1.schema.json";

fn all() -> [(&'static str, Report); 3] {
    [("full", made_up::report()), ("unchanged", made_up::unchanged()), ("bare", made_up::bare())]
}

#[test]
fn the_committed_schema_is_the_one_of_the_code() {
    let made = serde_json::to_string_pretty(&report_schema()).unwrap() + "\n";
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(SCHEMA);
    if std::env::var_os("UPDATE_SCHEMA").is_some() {
        std::fs::write(&path, &made).unwrap();
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == made,
        "{SCHEMA} is not what the code says. Write it again with: UPDATE_SCHEMA=1 cargo test --test report"
    );
}

#[test]
fn every_report_keeps_the_schema_and_reads_back_as_it_was() {
    let schema = jsonschema::validator_for(&report_schema()).unwrap();
    for (name, report) in all() {
        let json = serde_json::to_value(&report).unwrap();
        let problems: Vec<String> = schema.iter_errors(&json).map(|e| format!("{}: {e}", e.instance_path())).collect();
        assert!(problems.is_empty(), "{name}: {problems:#?}");
        let back: Report = serde_json::from_value(json.clone()).unwrap();
        assert_eq!(serde_json::to_value(&back).unwrap(), json, "{name}");
    }
}

/// A real bake on the embedded engine, so that it needs nothing that a machine may lack.
#[cfg(feature = "tract")]
#[test]
fn a_real_bake_writes_a_report_that_keeps_the_schema_and_a_page_of_it() {
    let out = tempfile::tempdir().unwrap();
    let job = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/mlp/bakejob.yaml");
    let mut bake = assert_cmd::Command::new(env!("CARGO_BIN_EXE_bakehouse"));
    let ended = bake
        .args(["bake", "--quiet", "--runtime", "bakehouse", "--out"])
        .arg(out.path())
        .arg("-f")
        .arg(job)
        .output()
        .unwrap();
    let read = |name: &str| {
        std::fs::read_to_string(out.path().join(name))
            .unwrap_or_else(|e| panic!("{name}: {e}: {}", String::from_utf8_lossy(&ended.stderr)))
    };
    let json: serde_json::Value = serde_json::from_str(&read("report.json")).unwrap();
    let schema = jsonschema::validator_for(&report_schema()).unwrap();
    let problems: Vec<String> = schema.iter_errors(&json).map(|e| format!("{}: {e}", e.instance_path())).collect();
    assert!(problems.is_empty(), "{problems:#?}");
    let html = read("report.html");
    assert_balanced("real", &html);
    keep("real", &html);
    let report: Report = serde_json::from_value(json).unwrap();
    assert!(html.contains(&format!("<h1>{}</h1>", report.job.name)));
    assert!(html.contains(&report.artifacts[0].sha256));
    if let Some(browser) = browser::find() {
        let seen = browser::measure(&browser, &html, 390);
        assert!(seen.scroll_width <= 390, "{seen:?}");
    }
}

#[test]
fn the_schema_refuses_a_report_that_lacks_a_field_or_holds_another_type() {
    let schema = jsonschema::validator_for(&report_schema()).unwrap();
    let whole = serde_json::to_value(made_up::report()).unwrap();
    let mut without = whole.clone();
    without.as_object_mut().unwrap().remove("machine");
    let mut wrong = whole;
    wrong["baseline"]["bytes"] = "many".into();
    assert!(!schema.is_valid(&without));
    assert!(!schema.is_valid(&wrong));
}

#[test]
fn nothing_of_a_model_becomes_markup() {
    let html = page(&made_up::report());
    assert!(html.contains("&lt;script&gt;document.title"), "the name is shown");
    let tags: BTreeSet<&str> = html
        .split('<')
        .skip(1)
        .map(|t| t.split(|c: char| !c.is_ascii_alphanumeric() && c != '/' && c != '!').next().unwrap())
        .collect();
    for tag in ["script", "img", "iframe", "object", "link", "a href=http"] {
        assert!(!tags.contains(tag), "<{tag}> on the page");
    }
    assert!(!html.to_lowercase().contains("<script"));
}

#[test]
fn the_page_fetches_nothing() {
    for (name, report) in all() {
        let html = page(&report);
        for reference in ["http://", "https://", "url(", "@import", " src=", "srcset"] {
            let found = html.replace("img src=x", "").contains(reference);
            assert!(!found, "{name}: {reference}");
        }
        assert!(html.contains("default-src &#39;none&#39;"), "{name}: the policy");
    }
}

/// Elements that are opened are closed, in order.
fn assert_balanced(name: &str, html: &str) {
    let style_end = html.find("</style>").unwrap();
    let style_begin = html.find("<style>").unwrap();
    let html = format!("{}{}", &html[..style_begin], &html[style_end + "</style>".len()..]);
    let mut open = Vec::new();
    for part in html.split('<').skip(1) {
        let tag = part.split('>').next().unwrap();
        if tag.starts_with('!') || tag.starts_with("meta") {
            continue;
        }
        if let Some(closed) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(closed), "{name}: …<{}", &part[..part.len().min(80)]);
        } else {
            open.push(tag.split(' ').next().unwrap());
        }
    }
    assert!(open.is_empty(), "{name}: {open:?}");
}

#[test]
fn every_element_is_closed_and_every_drawing_says_what_it_shows() {
    for (name, report) in all() {
        let html = page(&report);
        assert_balanced(name, &html);
        for drawing in html.split("<svg").skip(1) {
            let head = drawing.split("</title>").next().unwrap();
            assert!(
                head.contains("role=\"img\"") && head.contains("<title>"),
                "{name}: {}",
                &drawing[..drawing.len().min(120)]
            );
            assert!(head.split("<title>").nth(1).is_some_and(|t| !t.is_empty()), "{name}: an empty title");
        }
        assert!(!html.contains("NaN") && !html.contains("inf\""), "{name}: a number that is none");
    }
}

#[test]
fn what_is_absent_says_why_and_is_never_zero() {
    let html = page(&made_up::unchanged());
    assert!(html.contains("Not claimed: the artifact is the input"));
    assert!(html.contains("Unchanged: the artifact is the input"));
    let mut report = made_up::report();
    let quality = report.quality.as_mut().unwrap();
    quality.accuracy_retention = Figure { n: 12, ..Figure::default() }
        .with_concern(Concern::BaselineAtChance("the input is no better than guessing".to_owned()));
    let html = page(&report);
    assert!(html.contains("No data: the input is no better than guessing"));
    assert!(page(&made_up::bare()).contains("No gates were decided, so nothing passed."));
}

#[test]
fn figures_that_no_measurement_gives_do_not_break_the_page() {
    let mut report = made_up::report();
    report.candidates[0].speed = Some(Speed { ratio: 0.0, lower: f64::NAN, upper: f64::INFINITY, n: 0 });
    report.candidates[1].quality[0].estimate = f64::NAN;
    report.speedup[0].paired.ratios.clear();
    report.speedup[1].paired.ratios = vec![f64::NAN, f64::INFINITY, 1.0];
    report.baseline.latency[0].samples.seconds = vec![0.0; 3];
    report.baseline.bytes = 0;
    report.gates[0].observed = Some(f64::NAN);
    report.stages[0].start_time = "yesterday".to_owned();
    let html = page(&report);
    assert_balanced("odd", &html);
    assert!(!html.contains("=\"NaN\"") && !html.contains("=\"inf\""));
}

/// Writes the pages where `KEEP_PAGES` says, to be looked at with `scripts/screenshot.sh`.
fn keep(name: &str, html: &str) {
    if let Some(folder) = std::env::var_os("KEEP_PAGES") {
        std::fs::write(Path::new(&folder).join(name).with_extension("html"), html).unwrap();
    }
}

#[test]
fn the_page_is_no_wider_than_a_phone() {
    all().iter().for_each(|(name, report)| keep(name, &page(report)));
    let Some(browser) = browser::find() else {
        println!("skipped: no Chromium on this machine (set CHROMIUM, or install the package chromium)");
        return;
    };
    for (name, report) in all() {
        for width in [360, 390, 1400] {
            let seen = browser::measure(&browser, &page(&report), width);
            assert!(!seen.script_ran, "{name}: a script of the page ran");
            assert!(
                seen.scroll_width <= width,
                "{name}: {} px of content in a window of {width} px, widest: {}",
                seen.scroll_width,
                seen.widest
            );
        }
    }
}
