//! Whole bakes as a user starts them: 100 jobs made of the six examples, one at a time and four at a time, and the start of the program.
//!
//! `cargo bench --bench bakes` prints a table of its own; percentiles of whole processes are no criterion measurement.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use serde_json::Value;

const EXAMPLES: [&str; 6] = ["mlp", "cnn", "resnet", "lstm", "gru", "encoder"];
const BAKES: usize = 100;

fn main() {
    // `cargo test --benches` must stay quick.
    if std::env::args().any(|a| a == "--test") {
        return;
    }
    let program = Path::new(env!("CARGO_BIN_EXE_bakehouse"));
    start_up(program);
    let folder = tempfile::tempdir().expect("a temporary folder");
    let files = jobs(folder.path());
    for parallel in [1, 4] {
        let started = Instant::now();
        let output = Command::new(program)
            .args(["bake", "--json", "--jobs", &parallel.to_string()])
            .args(&files)
            .output()
            .expect("the program starts");
        let wall = started.elapsed().as_secs_f64();
        let summaries: Vec<Value> = serde_json::from_slice(&output.stdout)
            .unwrap_or_else(|e| panic!("no summaries ({e}): {}", String::from_utf8_lossy(&output.stderr)));
        report(parallel, wall, &summaries);
    }
}

fn start_up(program: &Path) {
    let mut seconds: Vec<f64> = (0..50)
        .map(|_| {
            let started = Instant::now();
            assert!(Command::new(program).arg("--version").output().expect("the program starts").status.success());
            started.elapsed().as_secs_f64()
        })
        .collect();
    seconds.sort_by(f64::total_cmp);
    println!(
        "bakehouse --version: median {:.1} ms, max {:.1} ms, n={}",
        seconds[25] * 1e3,
        seconds[49] * 1e3,
        seconds.len()
    );
}

/// One job file per bake, round robin over the examples, each with an output folder of its own.
fn jobs(folder: &Path) -> Vec<PathBuf> {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples");
    (0..BAKES)
        .map(|i| {
            let example = EXAMPLES[i % EXAMPLES.len()];
            let source = examples.join(example);
            let text = std::fs::read_to_string(source.join("bakejob.yaml")).expect("an example's job");
            let text = text.replace("uri: out/", &format!("uri: {}", folder.join(format!("out-{i}")).display()));
            let text =
                ["model.onnx", "calibration.npz", "training.npz", "validation.npz"].iter().fold(text, |text, file| {
                    text.replace(&format!("uri: {file}"), &format!("uri: {}", source.join(file).display()))
                });
            let file = folder.join(format!("{i:03}-{example}.yaml"));
            std::fs::write(&file, text).expect("a job file");
            file
        })
        .collect()
}

fn report(parallel: usize, wall: f64, summaries: &[Value]) {
    let ended_well =
        summaries.iter().filter(|s| matches!(s["reason"].as_str(), Some("Baked" | "NoImprovement"))).count();
    let seconds: Vec<f64> = summaries.iter().filter_map(|s| s["seconds"].as_f64()).collect();
    let mut sorted = seconds.clone();
    sorted.sort_by(f64::total_cmp);
    let at = |q: f64| sorted[((q * sorted.len() as f64).ceil() as usize).clamp(1, sorted.len()) - 1];
    println!(
        "--jobs {parallel}: {} bakes, {ended_well} ended well, {:.1} a minute; mean {:.2} s, p95 {:.2} s, p99 {:.2} s",
        summaries.len(),
        summaries.len() as f64 / wall * 60.0,
        mean(&seconds),
        at(0.95),
        at(0.99)
    );
    let mut by_example: BTreeMap<&str, Vec<f64>> = BTreeMap::new();
    for (i, s) in seconds.iter().enumerate() {
        by_example.entry(EXAMPLES[i % EXAMPLES.len()]).or_default().push(*s);
    }
    for (example, seconds) in by_example {
        println!(
            "    {example:<8} mean {:.2} s, CV {:.1} %, n={}",
            mean(&seconds),
            cv(&seconds) * 100.0,
            seconds.len()
        );
    }
    let peaks: Vec<f64> = summaries.iter().filter_map(|s| s["peakRssBytes"].as_f64()).collect();
    if peaks.len() == BAKES {
        let most = |range: &[f64]| range.iter().copied().fold(0.0, f64::max) / 1e6;
        println!(
            "    peak memory of a bake: {:.0} MB over bakes 1-20, {:.0} MB over bakes 21-100",
            most(&peaks[..20]),
            most(&peaks[20..])
        );
    }
}

fn mean(values: &[f64]) -> f64 {
    values.iter().sum::<f64>() / values.len().max(1) as f64
}

fn cv(values: &[f64]) -> f64 {
    let m = mean(values);
    (values.iter().map(|v| (v - m).powi(2)).sum::<f64>() / (values.len().max(2) - 1) as f64).sqrt() / m
}
