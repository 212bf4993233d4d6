//! Rounding with the others in mind: the codes are those that every pass then finds, products gain by it, and a trained model does.

use bakehouse::engine::dataset::{Dataset, Limits};
use bakehouse::model::IntakeOptions;
use bakehouse::optimizer::int8::{BlockPlan, Grid, Int4Blocks, RoundWeights, Rounder, StaticInt8, block_sites};
use base64::Engine as _;

use super::*;

/// Feeds whose columns go together, as those of real activations do.
fn related(shape: &[usize], count: u64) -> Vec<Feed> {
    let width = *shape.last().unwrap();
    let one = |seed| {
        let rows = shape.iter().product::<usize>() / width;
        let (own, common) = (numbers(rows * width, seed), numbers(rows, seed + 1000));
        let values = own.iter().enumerate().map(|(at, v)| 0.3 * v + common[at / width] * (1.0 + (at % 5) as f32));
        feed("x", Tensor::new(shape, &values.collect::<Vec<_>>()))
    };
    (0..count).map(one).collect()
}

fn round(model: &Model, feeds: &[Feed], passes: &[Box<dyn Pass>]) -> RoundWeights {
    Rounder::new(&engines()[0], model, &Facts::default(), feeds).round(passes).unwrap()
}

/// All 8-bit codes, or halves of bytes with 4-bit ones, by the constants that hold them.
fn codes(model: &Model, four: bool) -> Vec<(String, Vec<i32>)> {
    let integers = model.graph().initializer.iter().filter(|t| t.dims.len() > 1);
    let of = |t: &Tensor| -> Option<Vec<i32>> {
        let wide = |v: &u8| if four { vec![i32::from(v & 15), i32::from(v >> 4)] } else { vec![i32::from(*v)] };
        t.values::<u8>()
            .map(|v| v.iter().flat_map(wide).collect())
            .or_else(|| Some(t.values::<i8>()?.iter().map(|v| i32::from(*v)).collect()))
    };
    integers.filter_map(|t| Some((t.name().to_owned(), of(&Tensor::from_proto(t).unwrap())?))).collect()
}

fn floats(model: &Model) -> Vec<(String, Tensor)> {
    let constants = model.graph().initializer.iter().map(|t| (t.name().to_owned(), Tensor::from_proto(t).unwrap()));
    constants.filter(|(_, t)| t.dtype() == DType::F32).collect()
}

/// Two-bit fields of the recipe's text.
fn moves(text: &str) -> Vec<i32> {
    let bytes = base64::engine::general_purpose::STANDARD.decode(text).unwrap();
    bytes.iter().flat_map(|b| [b & 3, b >> 2 & 3, b >> 4 & 3, b >> 6]).map(|f| [0, 1, -1][f as usize]).collect()
}

/// A name, a model with one weight, its feeds.
fn models() -> Vec<(&'static str, Model, Vec<Feed>)> {
    let one = |op: &str, shape: &[usize], dims: &[&str], out: &[&str], attributes| {
        Builder::new(17)
            .input("x", DType::F32, dims)
            .initializer("w", tensor(shape, 3))
            .node(op, &["x", "w"], "y", attributes)
            .output("y", DType::F32, out)
            .build()
    };
    vec![
        ("MatMul", product(17), related(&[2, 3, 48], 40)),
        (
            "Gemm transB",
            one("Gemm", &[40, 32], &["3", "32"], &["3", "40"], vec![int("transB", 1)]),
            related(&[3, 32], 60),
        ),
        (
            "grouped Conv",
            Builder::new(17)
                .input("x", DType::F32, &["1", "8", "6", "6"])
                .initializer("w", tensor(&[32, 4, 3, 3], 3))
                .node("Conv", &["x", "w"], "c", vec![int("group", 2)])
                // A static plan leaves alone what leaves the graph.
                .node("GlobalAveragePool", &["c"], "y", vec![])
                .output("y", DType::F32, &["1", "32", "1", "1"])
                .build(),
            related(&[1, 8, 6, 6], 40),
        ),
        ("behind a Transpose", product_behind_a_transpose(), related(&[2, 3, 48], 40)),
    ]
}

/// Every pass that quantises weights by largest magnitudes, for all of a model.
fn schemes(model: &Model, feeds: &[Feed]) -> Vec<(String, Box<dyn Pass>)> {
    let mut all: Vec<(String, Box<dyn Pass>)> = Vec::new();
    for scheme in [WeightScheme::Int8, WeightScheme::Int8Reduced, WeightScheme::Uint8] {
        all.push((format!("dynamic {scheme:?}"), Box::new(all_products(model, scheme))));
        let mut plan = fixed::everything(model, feeds, &[]);
        plan.nodes.iter_mut().for_each(|n| n.weights = scheme);
        all.push((format!("static {scheme:?}"), Box::new(plan)));
    }
    for encoding in [Encoding::CastMul, Encoding::Dequantize] {
        all.push((format!("stored {encoding:?}"), Box::new(all_weights(model, encoding, Range::MaxAbs))));
    }
    for size in [16, 32, 64] {
        let sites = block_sites(model, &Facts::default(), &Exclude::default());
        let nodes: Vec<BlockPlan> = sites.into_iter().map(|s| BlockPlan { output: s.output, size }).collect();
        if !nodes.is_empty() {
            all.push((format!("blocks of {size}"), Box::new(Int4Blocks { nodes, accuracy_level: 1 })));
        }
    }
    all
}

#[test]
fn every_pass_finds_exactly_the_codes_that_were_chosen_and_the_same_scales() {
    for (name, model, feeds) in models() {
        for (scheme, pass) in schemes(&model, &feeds) {
            let context = format!("{name}, {scheme}");
            let passes = vec![pass];
            let rounding = round(&model, &feeds, &passes);
            assert_eq!((rounding.weights.len(), rounding.left.len()), (1, 0), "{context}: {:?}", rounding.left);
            let weight = &rounding.weights[0];
            assert!(weight.error < weight.nearest_error, "{context}");
            let moved = moves(&weight.moves);
            assert!(moved.contains(&1) && moved.contains(&-1), "{context}");

            let rounded = applied(&model, &rounding);
            let (before, after) = (applied(&model, passes[0].as_ref()), applied(&rounded, passes[0].as_ref()));
            let four = matches!(weight.grid, Grid::Blocks { .. });
            let (nearest, chosen) = (codes(&before, four), codes(&after, four));
            assert_eq!((nearest.len(), &nearest[0].0), (1, &chosen[0].0), "{context}");
            let mut by: Vec<i32> = chosen[0].1.iter().zip(&nearest[0].1).map(|(a, b)| a - b).collect();
            let mut listed = moved.clone();
            // The recipe lists channel by channel; blocks are filled up. How often each move occurs is the same anyway.
            by.retain(|v| *v != 0);
            listed.retain(|v| *v != 0);
            by.sort_unstable();
            listed.sort_unstable();
            assert_eq!(by, listed, "{context}");
            // Scales, biases: every float but the weight itself has its bits.
            assert_eq!(floats(&before), floats(&after), "{context}");
        }
    }
}

#[test]
fn a_convolution_and_a_product_gain_on_an_input_that_nothing_was_fitted_to() {
    for (name, model, feeds) in models() {
        let (fitted, unseen) = feeds.split_at(feeds.len() - 8);
        let grid: Vec<Box<dyn Pass>> = vec![Box::new(all_products(&model, WeightScheme::Int8Reduced))];
        let rounded = applied(&model, &round(&model, fitted, &grid));
        // Activations exact: what differs is the weights alone.
        let stored = |model: &Model| {
            let sites = quantizable_weights(model, &Exclude::default(), 512);
            let plan = sites.iter().map(|s| s.plan(Encoding::CastMul, Range::MaxAbs)).collect();
            applied(model, &WeightInt8 { tensors: plan, min_elements: 512 })
        };
        let dynamic = |model: &Model| applied(model, grid[0].as_ref());
        let error = |model_of: &dyn Fn(&Model) -> Model, of: &Model| {
            unseen.iter().map(|feed| difference(&model, &model_of(of), feed).powi(2)).sum::<f64>()
        };
        let (before, after) = (error(&dynamic, &model), error(&dynamic, &rounded));
        assert!(after < before, "{name}: {before} {after}");
        assert!(error(&stored, &model) < before, "{name}: 127 codes are finer than 64");
    }
}

#[test]
fn what_a_weight_becomes_hangs_neither_on_what_is_asked_with_it_nor_on_the_number_of_threads() {
    // The second product is deep: it needs more feeds than the first.
    let model = Builder::new(17)
        .input("x", DType::F32, &["2", "3", "48"])
        .initializer("w", tensor(&[48, 200], 1))
        .initializer("v", tensor(&[200, 16], 2))
        .node("MatMul", &["x", "w"], "h", vec![])
        .node("Relu", &["h"], "r", vec![])
        .node("MatMul", &["r", "v"], "y", vec![])
        .output("y", DType::F32, &["2", "3", "16"])
        .build();
    let feeds = related(&[2, 3, 48], 80);
    let of = |outputs: &[&str]| {
        let mut plan = all_products(&model, WeightScheme::Int8Reduced);
        plan.nodes.retain(|n| outputs.contains(&n.output.as_str()));
        let passes: Vec<Box<dyn Pass>> = vec![Box::new(plan)];
        round(&model, &feeds, &passes).weights
    };
    let together = of(&["h", "y"]);
    assert_eq!(together.len(), 2);
    let mut alone = [of(&["h"]), of(&["y"])].concat();
    alone.sort_by(|a, b| a.tensor.cmp(&b.tensor));
    assert_eq!(alone, together);
    for threads in [1, 3] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        assert_eq!(pool.install(|| of(&["h", "y"])), together, "{threads} threads");
    }
}

#[test]
fn where_columns_know_nothing_of_each_other_nothing_is_gained_and_it_says_so() {
    let model = product(17);
    // One column at a time: its error is its own, and no other weight can make up for it.
    let single = |at: usize| {
        let mut values = vec![0.0_f32; 2 * 3 * 48];
        (0..6).for_each(|row| values[row * 48 + (at * 6 + row) % 48] = 1.5);
        feed("x", Tensor::new(&[2, 3, 48], &values))
    };
    let feeds: Vec<Feed> = (0..64).map(single).collect();
    let passes: Vec<Box<dyn Pass>> = vec![Box::new(all_products(&model, WeightScheme::Int8))];
    let rounding = round(&model, &feeds, &passes);
    assert_eq!(rounding.weights, []);
    assert_eq!(skipped(&model, &rounding), "'w': its products are nearest with the nearest codes");
}

#[test]
fn weights_that_are_read_in_other_ways_too_or_sum_too_much_keep_their_codes() {
    let (_, tied, ..) = every_operator().pop().unwrap();
    let feeds: Vec<Feed> = (0..8).map(|_| feed("ids", ids(&[1, 6], 50))).collect();
    let passes: Vec<Box<dyn Pass>> = vec![Box::new(all_products(&tied, WeightScheme::Int8))];
    let rounding = round(&tied, &feeds, &passes);
    assert!(rounding.weights.is_empty() && rounding.left == ["'table' is read in other ways too"], "{rounding:?}");

    let deep = Builder::new(17)
        .input("x", DType::F32, &["2", "2400"])
        .initializer("w", tensor(&[2400, 4], 3))
        .node("MatMul", &["x", "w"], "y", vec![])
        .output("y", DType::F32, &["2", "4"])
        .build();
    let passes: Vec<Box<dyn Pass>> = vec![Box::new(all_products(&deep, WeightScheme::Int8))];
    let rounding = round(&deep, &related(&[2, 2400], 2), &passes);
    assert!(rounding.left[0].starts_with("'w' sums 2400 products"), "{:?}", rounding.left);
}

#[test]
fn two_products_of_one_weight_are_rounded_for_both() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["6", "48"])
        .initializer("w", tensor(&[48, 48], 1))
        .node("MatMul", &["x", "w"], "m", vec![])
        .node("Relu", &["m"], "r", vec![])
        .node("MatMul", &["r", "w"], "y", vec![])
        .output("y", DType::F32, &["6", "48"])
        .build();
    let feeds = related(&[6, 48], 40);
    let both = all_products(&model, WeightScheme::Int8Reduced);
    let one = DynamicInt8 { nodes: both.nodes[..1].to_vec(), ..DynamicInt8::default() };
    let rounding = round(&model, &feeds, &[Box::new(both)]);
    assert_eq!((rounding.weights.len(), rounding.weights[0].tensor.as_str()), (1, "w"));
    let rounding = round(&model, &feeds, &[Box::new(one)]);
    assert_eq!(
        rounding.left,
        ["'w' is read in other ways too"],
        "the other product stays in float and would see the moves"
    );
}

#[test]
fn a_recipe_whose_moves_do_not_fit_is_refused() {
    let (_, model, feeds) = models().remove(0);
    let passes: Vec<Box<dyn Pass>> = vec![Box::new(all_products(&model, WeightScheme::Int8))];
    let good = round(&model, &feeds, &passes);
    let all_up = base64::engine::general_purpose::STANDARD.encode(vec![0x55_u8; 48 * 64 / 4]);
    for (moves, reason) in [("AAAA".to_owned(), "not those of so many weights"), (all_up, "may not move")] {
        let mut bad = good.clone();
        bad.weights[0].moves = moves;
        let error = bad.apply(&mut model.clone(), &mut Facts::default()).unwrap_err().to_string();
        assert!(error.contains(reason) && error.contains("Bake again"), "{error}");
    }
    let mut bad = good.clone();
    bad.weights[0].grid = Grid::Blocks { size: 0 };
    let error = bad.apply(&mut model.clone(), &mut Facts::default()).unwrap_err().to_string();
    assert!(error.contains("its grid no blocks"), "{error}");
}

/// Relative squared errors of the outputs of two models, per sample.
fn errors(engine: &SharedEngine, models: [&Model; 3], feeds: &[Feed]) -> [Vec<f64>; 2] {
    let run = |model: &Model| -> Vec<Vec<f64>> {
        let mut session = engine.load(model, &LoadOptions { optimise: false, ..LoadOptions::default() }).unwrap();
        feeds.iter().map(|feed| session.run(feed).unwrap()[0].to_f64().into_owned()).collect()
    };
    let [exact, first, second] = models.map(run);
    [first, second].map(|baked| {
        let one = |(a, b): (&Vec<f64>, &Vec<f64>)| {
            a.iter().zip(b).map(|(x, y)| (x - y).powi(2)).sum::<f64>() / a.iter().map(|x| x * x).sum::<f64>()
        };
        exact.iter().zip(&baked).map(one).collect()
    })
}

#[test]
fn a_trained_encoder_in_4_bits_is_nearer_to_itself_by_more_than_the_interval_of_the_gain() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("examples/encoder");
    let model = Model::load(&folder.join("model.onnx")).unwrap().prepare(&IntakeOptions::default()).unwrap().0;
    let split = |name: &str| Dataset::load(&folder.join(name), &model, Limits::default()).unwrap().dataset.feeds;
    let (calibration, held_out) = (split("calibration.npz"), split("validation.npz"));
    let engine = &engines()[0];
    let facts = bakehouse::engine::facts::observe(engine, &model, &calibration[..4]).unwrap();
    let sites = block_sites(&model, &facts, &Exclude::default());
    assert!(sites.len() > 4, "{sites:?}");
    let nodes = sites.into_iter().map(|s| BlockPlan { output: s.output, size: s.size }).collect();
    let passes: Vec<Box<dyn Pass>> = vec![Box::new(Int4Blocks { nodes, accuracy_level: 1 })];
    let rounding = Rounder::new(engine, &model, &facts, &calibration).round(&passes).unwrap();
    let nearest = applied(&model, passes[0].as_ref());
    let rounded = applied(&applied(&model, &rounding), passes[0].as_ref());
    let feeds = &held_out[..held_out.len().min(256)];
    let [before, after] = errors(engine, [&model, &nearest, &rounded], feeds);
    let gains: Vec<f64> = before.iter().zip(&after).map(|(b, a)| b - a).collect();
    let n = gains.len() as f64;
    let mean = gains.iter().sum::<f64>() / n;
    let half = 1.96 * (gains.iter().map(|g| (g - mean).powi(2)).sum::<f64>() / (n - 1.0) / n).sqrt();
    let share = |errors: &[f64]| errors.iter().sum::<f64>() / n;
    assert!(mean > half, "mean {mean}, half of the interval {half}");
    assert!(share(&after) < 0.7 * share(&before), "{} {}", share(&before), share(&after));
}

#[test]
fn a_static_plan_rounds_activations_by_its_own_ranges() {
    let (_, model, feeds) = models().remove(0);
    let plan = |scale: f64| {
        let mut plan: StaticInt8 = fixed::everything(&model, &feeds, &[]);
        plan.activations.iter_mut().for_each(|a| a.scale *= scale);
        vec![Box::new(plan) as Box<dyn Pass>]
    };
    let rounder = Rounder::new(&engines()[0], &model, &Facts::default(), &feeds);
    let [fitting, coarse] = [1.0, 20.0].map(|scale| rounder.round(&plan(scale)).unwrap());
    assert_ne!(fitting.weights[0].moves, coarse.weights[0].moves, "other codes of the activation, other products");
    assert_eq!(rounder.round(&plan(1.0)).unwrap(), fitting, "what was found is kept");
}
