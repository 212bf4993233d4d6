//! How long quality takes: the full evaluation, and the estimates that a search asks for.

use bakehouse::model::Tensor;
use bakehouse::quality::{Evaluation, OutputPair, Rows, TapPair, evaluate, quick};
use criterion::{Criterion, criterion_group, criterion_main};
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::{Rng, SeedableRng};

fn noise(rng: &mut ChaCha8Rng) -> f32 {
    rng.next_u32() as f32 / u32::MAX as f32 - 0.5
}

fn input(n: usize, width: usize, taps: usize, features: usize) -> Evaluation<'static> {
    let mut rng = ChaCha8Rng::seed_from_u64(1);
    let mut near = |a: &[f32]| -> Vec<f32> { a.iter().map(|v| v + 0.1 * noise(&mut rng)).collect() };
    let mut other = ChaCha8Rng::seed_from_u64(2);
    let mut fresh = |len: usize| -> Vec<f32> { (0..len).map(|_| noise(&mut other)).collect() };
    let rows: Vec<Vec<f32>> = (0..n).map(|_| fresh(width)).collect();
    let tensors = |rows: &[Vec<f32>]| rows.iter().map(|r| Tensor::new(&[1, width], r)).collect::<Vec<_>>();
    let baked: Vec<Vec<f32>> = rows.iter().map(|r| near(r)).collect();
    let taps = (0..taps).map(|k| {
        let values = fresh(n * features);
        let baked = Rows { width: features, values: near(&values) };
        TapPair { name: format!("tap {k}"), baseline: Rows { width: features, values }, baked }
    });
    Evaluation {
        outputs: vec![OutputPair { name: "y".into(), baseline: tensors(&rows), baked: tensors(&baked) }],
        taps: taps.collect(),
        ..Evaluation::default()
    }
}

fn quality(c: &mut Criterion) {
    let mut group = c.benchmark_group("quality");
    group.sample_size(10);
    for (name, n, width, taps, features) in [
        ("1000 samples, 10 values, 6 taps of 4096", 1000, 10, 6, 4096),
        ("1000 samples, 10 values", 1000, 10, 0, 0),
        ("1000 samples, 10000 values", 1000, 10_000, 0, 0),
        ("85 samples, 2 values, 6 taps of 4096", 85, 2, 6, 4096),
    ] {
        let input = input(n, width, taps, features);
        group.bench_function(format!("evaluate {name}"), |b| b.iter(|| evaluate(&input).expect("the input is whole")));
    }
    for (name, taps) in [("no taps", 0), ("6 taps of 1024", 6)] {
        let input = input(300, 10, taps, 1024);
        group.bench_function(format!("quick 300 samples, 10 values, {name}"), |b| {
            b.iter(|| quick(&input).expect("the input is whole"));
        });
    }
    group.finish();
}

criterion_group!(benches, quality);
criterion_main!(benches);
