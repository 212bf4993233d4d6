//! What one statically quantised candidate costs from file to file, as other tools make one: load, graph passes, one pass of calibration, ranges, the file.
//!
//! ```text
//! cargo bench --bench candidate -- MODEL CALIBRATION OUT
//! ```
//! prints seconds per stage and peak memory as JSON. Start of the process and load of the runtime's library are stages of their own. Nothing is compared and no
//! gate is asked: `bakehouse bake` does that. Without arguments (`cargo test --benches`) the cnn example is baked into the target folder.

use std::path::{Path, PathBuf};
use std::time::Instant;

use bakehouse::accelerator::conservative_passes;
use bakehouse::engine::dataset::Limits;
use bakehouse::engine::{Dataset, Engines, facts};
use bakehouse::hardware::{advise, detect};
use bakehouse::model::opset::OpsetUpgrade;
use bakehouse::model::{IntakeOptions, Model, Pass};
use bakehouse::optimizer::calibration::{Policy, calibrate};
use bakehouse::optimizer::int8::{Exclude, Region, WeightScheme};
use bakehouse::optimizer::{Driver, Work};
use bakehouse::profiler::clock::peak_rss_bytes;
use serde_json::{Map, Value, json};

/// Seconds since the last stage ended, by name.
struct Stages {
    since: Instant,
    seconds: Map<String, Value>,
}

impl Stages {
    fn end(&mut self, name: &str) {
        self.seconds.insert(name.to_owned(), json!(self.since.elapsed().as_secs_f64()));
        self.since = Instant::now();
    }
}

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files: Vec<PathBuf> = std::env::args().skip(1).filter(|a| !a.starts_with("--")).map(PathBuf::from).collect();
    let [model, data, out] = files.try_into().unwrap_or_else(|_| {
        let example = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/cnn");
        let out = std::env::temp_dir().join("bakehouse-candidate.onnx");
        [example.join("model.onnx"), example.join("calibration.npz"), out]
    });
    let mut stages = Stages { since: Instant::now(), seconds: Map::new() };
    let engines = Engines::discover(None);
    stages.end("library");
    let peak_before = peak_rss_bytes();

    let (model, _) = Model::intake(&model, &IntakeOptions::default())?;
    let samples = Dataset::load(&data, &model, Limits::default())?.dataset;
    let bytes = model.encoded_len();
    stages.end("load");
    let selected = engines.select(&model, &samples.feeds[..1], None)?;
    let engine = selected.engine;
    let facts = facts::observe(&engine, &model, &samples.feeds)?;
    stages.end("observe");

    let driver = Driver::new(engine.clone(), &model, samples.feeds.iter().take(2).cloned().collect())?;
    let mut work = Work { model: model.clone(), facts, steps: Vec::new() };
    let passes: Vec<Box<dyn Pass>> =
        std::iter::once(Box::new(OpsetUpgrade::default()) as Box<dyn Pass>).chain(conservative_passes()).collect();
    driver.run_lossless(&mut work, &passes);
    stages.end("graph");

    let region = Region::of(&work.model, &work.facts, &Exclude::default());
    let spreads = calibrate(&engine, &work.model, region.watches(), &samples.feeds)?;
    stages.end("calibrate");
    let ranged = region.ranged(&spreads, Policy::LeastHarm);
    stages.end("ranges");
    let saturates = advise::advise(&detect::detect()).u8s8_saturates;
    let scheme = if saturates { WeightScheme::Int8Reduced } else { WeightScheme::Int8 };
    let chosen = ranged.choices().map(|site| site.output.as_str()).collect();
    ranged.plan(&chosen, scheme).apply(&mut work.model, &mut work.facts)?;
    work.model.sort()?;
    work.model.save(&out)?;
    stages.end("write");

    println!(
        "{}",
        json!({
            "engine": engine.id(),
            "modelBytes": bytes,
            "outputBytes": std::fs::metadata(&out)?.len(),
            "samples": samples.feeds.len(),
            "tensors": spreads.len(),
            "seconds": stages.seconds,
            "peakBytesBefore": peak_before,
            "peakBytes": peak_rss_bytes(),
        })
    );
    Ok(())
}
