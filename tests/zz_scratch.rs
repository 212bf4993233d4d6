use std::time::Instant;
use bakehouse::engine::{*, dataset::Limits};
use bakehouse::model::Model;
#[test] fn scratch() {
    let home = std::env::var("HOME").unwrap();
    let base = std::path::PathBuf::from(format!("{home}/.cache/bakehouse/scoreboard"));
    let ort = bakehouse::engine::ort::OrtEngine::open(None).unwrap();
    let tract = bakehouse::engine::tract::TractEngine::new();
    for name in ["mlp_mnist","ppocr_cls","silero_seq","magika","opennsfw","minilm"] {
        let model = Model::load(&base.join(format!("models/{name}.onnx"))).unwrap();
        let data = Dataset::load(&base.join(format!("data/{name}.calibration.npz")), &model, Limits::default()).unwrap().dataset;
        let all: Vec<String> = model.graph().node.iter().flat_map(|n| n.output.iter().cloned()).filter(|o| !o.is_empty()).collect();
        let mut reference: Option<Vec<bakehouse::model::Tensor>> = None;
        for e in [&ort as &dyn Engine, &tract] { for (opt, taps) in [(true, vec![]), (false, vec![]), (false, all.clone())] {
            let t = Instant::now();
            let mut s = match e.load(&model, &LoadOptions { optimise: opt, taps: taps.clone(), ..Default::default() }) { Ok(s) => s, Err(err) => { println!("{name} {} opt {opt}: LOAD {err}", e.id()); continue } };
            let tl = t.elapsed();
            let t = Instant::now();
            let out = match s.run(&data.feeds[0]) { Ok(s) => s, Err(err) => { println!("{name} {} opt {opt}: load {tl:?} RUN {err}", e.id()); continue } };
            let first = t.elapsed();
            let mut best = std::time::Duration::MAX; for i in 0..8 { let t = Instant::now(); s.run(&data.feeds[i % data.len()]).unwrap(); best = best.min(t.elapsed()); }
            let r = reference.get_or_insert_with(|| out.clone());
            let d: f32 = r.iter().zip(&out).flat_map(|(a,b)| a.to_f32().iter().zip(b.to_f32().iter()).map(|(a,b)| (a-b).abs()).collect::<Vec<_>>()).fold(0., f32::max);
            println!("{name} {} opt {opt} taps {}: load {tl:?} first {first:?} best {best:?} outputs {} max diff to ort {d}", e.id(), taps.len(), out.len());
        }}
    }
}
