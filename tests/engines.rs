//! Both engines on small models built here: they agree, hand out taps, honour threads, and say clearly what they cannot do.
//!
//! ONNX Runtime takes part when its library is found. `make test` brings the library along and sets `BAKEHOUSE_REQUIRE_ORT=1`, which makes its absence a failure.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used)]

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::{Arc, Mutex};

use bakehouse::engine::tract::{NnefForm, TractEngine};
use bakehouse::engine::{Dataset, Engine, EngineError, Feed, LoadOptions, Watcher, dataset};
use bakehouse::model::build::Builder;
use bakehouse::model::edit::{float, int, ints, node};
use bakehouse::model::onnx::{NodeProto, type_proto};
use bakehouse::model::{DType, IntakeOptions, Model, Tensor};

/// Numbers in -1..1 without a random source.
fn wave(n: usize) -> Vec<f32> {
    (0..n).map(|i| (i as f32 * 0.7 + 0.3).sin()).collect()
}

fn feed(inputs: &[(&str, Tensor)]) -> Feed {
    Feed::new(inputs.iter().map(|(n, t)| ((*n).into(), t.clone())).collect())
}

#[cfg(feature = "ort")]
fn onnx_runtime() -> Option<bakehouse::engine::ort::OrtEngine> {
    match bakehouse::engine::ort::OrtEngine::open(None) {
        Ok(engine) => Some(engine),
        Err(error) if std::env::var_os("BAKEHOUSE_REQUIRE_ORT").is_some_and(|v| v == "1") => panic!("{error}"),
        Err(error) => {
            println!("SKIPPED on ONNX Runtime: {error}");
            None
        }
    }
}

/// Every engine at hand.
fn engines() -> Vec<Box<dyn Engine>> {
    let mut engines: Vec<Box<dyn Engine>> = vec![Box::new(TractEngine::new())];
    #[cfg(feature = "ort")]
    engines.extend(onnx_runtime().map(|e| Box::new(e) as Box<dyn Engine>));
    engines
}

fn run(engine: &dyn Engine, model: &Model, options: &LoadOptions, feed: &Feed) -> Vec<Tensor> {
    engine
        .load(model, options)
        .and_then(|mut session| session.run(feed))
        .unwrap_or_else(|e| panic!("{}: {e}", engine.id()))
}

fn assert_close(a: &Tensor, b: &Tensor, tolerance: f64, what: &str) {
    assert_eq!((a.dtype(), a.shape()), (b.dtype(), b.shape()), "{what}");
    for (i, (x, y)) in a.to_f64().iter().zip(b.to_f64().iter()).enumerate() {
        assert!((x - y).abs() <= tolerance, "{what}: element {i}: {x} against {y}");
    }
}

/// `x[N, 8] -> Gemm -> Relu (hidden) -> MatMul -> Softmax -> y[N, 3]`
fn mlp() -> Model {
    Builder::new(17)
        .input("x", DType::F32, &["N", "8"])
        .initializer("w1", Tensor::new(&[8, 16], &wave(128)))
        .initializer("b1", Tensor::new(&[16], &wave(16)))
        .initializer("w2", Tensor::new(&[16, 3], &wave(48)))
        .node("Gemm", &["x", "w1", "b1"], "pre", vec![])
        .node("Relu", &["pre"], "hidden", vec![])
        .node("MatMul", &["hidden", "w2"], "logits", vec![])
        .node("Softmax", &["logits"], "y", vec![int("axis", -1)])
        .output("y", DType::F32, &["N", "3"])
        .build()
}

/// `x[N, 2, H, W] -> Conv -> BatchNormalization -> Relu -> MaxPool -> GlobalAveragePool -> y`
fn cnn() -> Model {
    Builder::new(17)
        .input("x", DType::F32, &["N", "2", "H", "W"])
        .initializer("w", Tensor::new(&[4, 2, 3, 3], &wave(72)))
        .initializer("scale", Tensor::new(&[4], &[1.0_f32, 0.5, 2.0, 1.5]))
        .initializer("bias", Tensor::new(&[4], &wave(4)))
        .initializer("mean", Tensor::new(&[4], &wave(4)))
        .initializer("var", Tensor::new(&[4], &[1.0_f32, 2.0, 0.5, 0.25]))
        .node("Conv", &["x", "w"], "a", vec![ints("pads", &[1, 1, 1, 1])])
        .node("BatchNormalization", &["a", "scale", "bias", "mean", "var"], "b", vec![float("epsilon", 1e-5)])
        .node("Relu", &["b"], "d", vec![])
        .node("MaxPool", &["d"], "e", vec![ints("kernel_shape", &[2, 2]), ints("strides", &[2, 2])])
        .node("GlobalAveragePool", &["e"], "y", vec![])
        .output("y", DType::F32, &["N", "4", "1", "1"])
        .build()
}

#[test]
fn engines_agree_with_each_other_and_with_themselves_unoptimised_and_on_two_threads() {
    let cases = [
        ("mlp", mlp(), feed(&[("x", Tensor::new(&[1, 8], &wave(8)))])),
        ("mlp, a batch", mlp(), feed(&[("x", Tensor::new(&[5, 8], &wave(40)))])),
        ("cnn", cnn(), feed(&[("x", Tensor::new(&[2, 2, 6, 10], &wave(240)))])),
    ];
    for (name, model, feed) in cases {
        let reference =
            run(&TractEngine::new(), &model, &LoadOptions { optimise: false, ..LoadOptions::default() }, &feed);
        for engine in engines() {
            for (optimise, threads) in [(true, 1), (false, 1), (true, 2)] {
                let outputs =
                    run(&*engine, &model, &LoadOptions { optimise, threads, ..LoadOptions::default() }, &feed);
                assert_eq!(outputs.len(), 1);
                assert_close(
                    &outputs[0],
                    &reference[0],
                    1e-5,
                    &format!("{name} on {}, optimise {optimise}, {threads} threads", engine.id()),
                );
            }
        }
    }
}

#[test]
fn a_session_runs_feeds_of_changing_shapes_one_after_the_other() {
    for engine in engines() {
        let mut session = engine.load(&cnn(), &LoadOptions::default()).unwrap();
        for (n, h) in [(1, 4), (3, 8), (1, 4), (2, 12)] {
            let x = Tensor::new(&[n, 2, h, 6], &wave(n * 2 * h * 6));
            assert_eq!(session.run(&feed(&[("x", x)])).unwrap()[0].shape(), [n, 4, 1, 1], "{}", engine.id());
        }
    }
}

#[test]
fn taps_come_behind_the_outputs_in_the_order_asked_for() {
    let taps = ["logits", "x", "w2", "y", "hidden"].map(str::to_owned).to_vec();
    let x = Tensor::new(&[2, 8], &wave(16));
    for engine in engines() {
        for optimise in [true, false] {
            let options = LoadOptions { taps: taps.clone(), optimise, ..LoadOptions::default() };
            let outputs = run(&*engine, &mlp(), &options, &feed(&[("x", x.clone())]));
            let shapes: Vec<&[usize]> = outputs.iter().map(Tensor::shape).collect();
            assert_eq!(shapes, [&[2, 3][..], &[2, 3], &[2, 8], &[16, 3], &[2, 3], &[2, 16]], "{}", engine.id());
            assert_eq!((&outputs[2], &outputs[4]), (&x, &outputs[0]), "{}", engine.id());
            assert!(outputs[5].to_f32().iter().all(|&h| h >= 0.0), "{}", engine.id());
        }
        let unknown = LoadOptions { taps: vec!["nowhere".to_owned()], ..LoadOptions::default() };
        let error = engine.load(&mlp(), &unknown).err().unwrap().to_string();
        assert!(error.contains("'nowhere'"), "{error}");
    }
}

#[test]
fn what_is_lent_is_what_a_run_gives_and_outlives_further_runs_and_the_session() {
    let feeds = [8, 16, 40].map(|n| feed(&[("x", Tensor::new(&[n / 8, 8], &wave(n)))]));
    for engine in engines() {
        let options = || LoadOptions { taps: vec!["hidden".to_owned(), "x".to_owned()], ..LoadOptions::default() };
        let mut session = engine.load(&mlp(), &options()).unwrap();
        let lent: Vec<Vec<Tensor>> = feeds.iter().map(|feed| session.lend(feed).unwrap()).collect();
        let given: Vec<Vec<Tensor>> = feeds.iter().map(|feed| session.run(feed).unwrap()).collect();
        drop(session);
        assert_eq!(lent, given, "{}", engine.id());
    }
}

#[test]
fn a_watcher_is_shown_what_taps_would_hand_out() {
    let taps = ["logits", "x", "w2", "y", "hidden"].map(str::to_owned).to_vec();
    let given = feed(&[("x", Tensor::new(&[2, 8], &wave(16)))]);
    for engine in engines() {
        let handed_out = run(&*engine, &mlp(), &LoadOptions { taps: taps.clone(), ..LoadOptions::default() }, &given);
        // Several at once: ONNX Runtime is told of the operator by the first.
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    let shown = Arc::new(Mutex::new(BTreeMap::new()));
                    let keep = shown.clone();
                    let watcher = Watcher::new(move |tap, shape, values| {
                        keep.lock().unwrap().insert(tap, Tensor::new(shape, values));
                    });
                    let mut session = engine.watch(&mlp(), taps.clone(), watcher).unwrap();
                    for _ in 0..3 {
                        let outputs = session.run(&given).unwrap();
                        let shown: Vec<Tensor> = std::mem::take(&mut *shown.lock().unwrap()).into_values().collect();
                        assert_eq!([outputs, shown].concat(), handed_out, "{}", engine.id());
                    }
                });
            }
        });
    }
}

#[test]
fn what_is_no_float_is_not_shown_and_a_watcher_that_fails_fails_the_run() {
    let model = Builder::new(17)
        .input("x", DType::F32, &["2", "8"])
        .node("Shape", &["x"], "shape", vec![])
        .node("Abs", &["x"], "y", vec![])
        .output("y", DType::F32, &["2", "8"])
        .build();
    let given = feed(&[("x", Tensor::new(&[2, 8], &wave(16)))]);
    for engine in engines() {
        let shown = Arc::new(Mutex::new(Vec::new()));
        let keep = shown.clone();
        let watcher = Watcher::new(move |tap, _, _| keep.lock().unwrap().push(tap));
        let taps = ["shape", "y"].map(str::to_owned).to_vec();
        engine.watch(&model, taps, watcher).unwrap().run(&given).unwrap();
        assert_eq!(*shown.lock().unwrap(), [1], "{}", engine.id());
        let unknown = engine.watch(&model, vec!["nowhere".to_owned()], Watcher::new(|_, _, _| ()));
        assert!(unknown.err().unwrap().to_string().contains("'nowhere'"));
    }
    #[cfg(feature = "ort")]
    if let Some(engine) = onnx_runtime() {
        let mut session =
            engine.watch(&model, vec!["y".to_owned()], Watcher::new(|_, _, _| panic!("on purpose"))).unwrap();
        let error = session.run(&given).unwrap_err().to_string();
        assert!(error.contains("whoever looked at a tensor failed"), "{error}");
    }
}

#[test]
fn tensors_of_every_type_go_in_and_come_out() {
    let half = |v: &[f32]| v.iter().map(|&x| half::f16::from_f32(x)).collect::<Vec<_>>();
    for tensor in [
        Tensor::new(&[2, 2], &[1.5_f32, -2.0, 0.0, 3.0]),
        Tensor::new(&[2], &[1.5_f64, -2.0]),
        Tensor::new(&[2], &half(&[1.5, -2.0])),
        Tensor::new(&[3], &[-1_i8, 0, 127]),
        Tensor::new(&[3], &[-1_i16, 0, 127]),
        Tensor::new(&[3], &[-1_i32, 0, 127]),
        Tensor::new(&[3], &[-1_i64, 0, i64::MAX]),
        Tensor::new(&[3], &[0_u8, 1, 255]),
        Tensor::new(&[3], &[0_u16, 1, 65535]),
        Tensor::new(&[3], &[0_u32, 1, u32::MAX]),
        Tensor::new(&[3], &[0_u64, 1, u64::MAX]),
        Tensor::from_bools(&[2], &[true, false]),
        Tensor::new::<f32>(&[0, 4], &[]),
    ] {
        let axes: Vec<String> = (0..tensor.shape().len()).map(|i| format!("d{i}")).collect();
        let axes: Vec<&str> = axes.iter().map(String::as_str).collect();
        let dtype = tensor.dtype();
        let shape = [1].iter().chain(tensor.shape()).map(|&d| d as i64).collect::<Vec<_>>();
        let model = Builder::new(17)
            .input("x", dtype, &axes)
            .initializer("axes", Tensor::new(&[1], &[0_i64]))
            .node("Unsqueeze", &["x", "axes"], "y", vec![])
            .output("y", dtype, &vec!["?"; shape.len()])
            .build();
        for engine in engines() {
            let outputs = run(&*engine, &model, &LoadOptions::default(), &feed(&[("x", tensor.clone())]));
            assert_eq!(outputs[0].bytes(), tensor.bytes(), "{dtype} on {}", engine.id());
            assert_eq!(
                outputs[0].shape().iter().map(|&d| d as i64).collect::<Vec<_>>(),
                shape,
                "{dtype} on {}",
                engine.id()
            );
        }
    }
}

#[test]
fn an_operator_that_an_engine_lacks_is_named() {
    let levitate =
        NodeProto { domain: Some("com.nowhere".to_owned()), ..node("Levitate", "up", &["a"], &["y"], vec![]) };
    let model = Builder::new(17)
        .opset("com.nowhere", 1)
        .input("x", DType::F32, &["N"])
        .node("Relu", &["x"], "a", vec![])
        .push_node(levitate)
        .output("y", DType::F32, &["N"])
        .build();
    for engine in engines() {
        let error = engine.load(&model, &LoadOptions::default()).err().unwrap();
        assert!(matches!(error, EngineError::Unsupported { .. }), "{error:?}");
        assert!(error.to_string().contains("com.nowhere:Levitate"), "{error}");
        assert_eq!(error.reason().exit_code(), 11);
    }
}

#[test]
fn a_missing_input_and_a_wrong_shape_are_errors_of_the_data() {
    for engine in engines() {
        let mut session = engine.load(&mlp(), &LoadOptions::default()).unwrap();
        let missing = session.run(&feed(&[("pixels", Tensor::new(&[1, 8], &wave(8)))])).unwrap_err();
        assert!(matches!(&missing, EngineError::Data(m) if m.contains("'x'")), "{missing:?}");
        let wrong = session.run(&feed(&[("x", Tensor::new(&[1, 9], &wave(9)))])).unwrap_err();
        assert!(matches!(&wrong, EngineError::Data(m) if m.contains('x') && m.contains('9')), "{wrong:?}");
        assert!(
            session.run(&feed(&[("x", Tensor::new(&[1, 8], &wave(8)))])).is_ok(),
            "the session is usable afterwards"
        );
    }
}

#[test]
fn a_wrongly_declared_extent_does_not_stop_tract() {
    let mut wrong = mlp();
    wrong.graph_mut().input = Builder::new(17).input("x", DType::F32, &["1", "8"]).build().graph().input.clone();
    let x = Tensor::new(&[4, 8], &wave(32));
    let outputs = run(&TractEngine::new(), &wrong, &LoadOptions::default(), &feed(&[("x", x)]));
    assert_eq!(outputs[0].shape(), [4, 3]);
}

/// x -> Q -> DQ -> Softmax -> Q -> DQ -> y: what static quantisation makes of an attention block's softmax.
fn quantised_softmax() -> Model {
    Builder::new(17)
        .input("x", DType::F32, &["N", "6"])
        .initializer("in_scale", Tensor::scalar(0.05_f32))
        .initializer("in_zero", Tensor::scalar(128_u8))
        .initializer("out_scale", Tensor::scalar(1.0_f32 / 255.0))
        .initializer("out_zero", Tensor::scalar(0_u8))
        .node("QuantizeLinear", &["x", "in_scale", "in_zero"], "a", vec![])
        .node("DequantizeLinear", &["a", "in_scale", "in_zero"], "b", vec![])
        .node("Softmax", &["b"], "c", vec![int("axis", -1)])
        .node("QuantizeLinear", &["c", "out_scale", "out_zero"], "d", vec![])
        .node("DequantizeLinear", &["d", "out_scale", "out_zero"], "y", vec![])
        .output("y", DType::F32, &["N", "6"])
        .build()
}

#[test]
fn the_known_tract_fault_on_a_quantised_softmax_is_seen_by_the_canary_and_avoided_by_the_engine() {
    let x: Vec<f32> = vec![1.0, -0.5, 0.25, 2.0, -1.0, 0.0];
    let sum: f32 = x.iter().map(|v| v.exp()).sum();
    let expected: Vec<f32> = x.iter().map(|v| v.exp() / sum).collect();
    let feed = feed(&[("x", Tensor::new(&[1, 6], &x))]);
    let tract = TractEngine::new();

    let agreement = tract.canary(&quantised_softmax(), &feed).unwrap();
    assert!(
        !agreement.agrees() && agreement.max_abs > 0.3,
        "tract's own optimiser is right now: drop the guard. {agreement:?}"
    );

    for engine in engines() {
        let outputs = run(&*engine, &quantised_softmax(), &LoadOptions::default(), &feed);
        // One step of the output's 255; ONNX Runtime's integer softmax rounds its input's table too.
        assert_close(&outputs[0], &Tensor::new(&[1, 6], &expected), 1.0 / 255.0 + 1e-6, &engine.id().to_string());
    }
}

#[test]
fn the_canary_trusts_a_quantised_graph_that_the_optimiser_leaves_right() {
    let mut sigmoid = quantised_softmax();
    let softmax = &mut sigmoid.graph_mut().node[2];
    softmax.op_type = Some("Sigmoid".to_owned());
    softmax.attribute.clear();
    let agreement = TractEngine::new().canary(&sigmoid, &feed(&[("x", Tensor::new(&[2, 6], &wave(12)))])).unwrap();
    assert!(agreement.agrees(), "{agreement:?}");
}

#[cfg(feature = "ort")]
#[test]
fn a_library_that_is_not_there_is_unavailable_and_the_message_says_where_it_was_looked_for() {
    use bakehouse::engine::ort::OrtEngine;
    let error = OrtEngine::open(Some(Path::new("/nowhere/libonnxruntime.so"))).unwrap_err();
    assert!(matches!(error, EngineError::Unavailable { .. }), "{error:?}");
    assert!(
        error.to_string().contains("ONNX Runtime is not available")
            && error.to_string().contains("loaded already") | error.to_string().contains("/nowhere"),
        "{error}"
    );
}

#[cfg(feature = "ort")]
#[test]
fn the_graph_that_onnx_runtime_runs_can_be_read_back() {
    let Some(engine) = onnx_runtime() else { return };
    let optimised = engine.optimised_graph(&cnn()).unwrap();
    let ops: Vec<&str> = optimised.graph().node.iter().map(NodeProto::op_type).collect();
    assert!(!ops.contains(&"BatchNormalization"), "folded into the convolution: {ops:?}");
    assert!(engine.id().version.split('.').count() == 3, "{}", engine.id());
}

#[cfg(feature = "ort")]
#[test]
fn a_model_that_returns_text_is_refused_when_it_is_loaded() {
    let Some(engine) = onnx_runtime() else { return };
    let cast = Builder::new(17).input("x", DType::F32, &["N"]).node("Cast", &["x"], "y", vec![int("to", 8)]);
    let mut text = cast.output("y", DType::F32, &["N"]).build();
    if let Some(type_proto::Value::TensorType(t)) =
        text.graph_mut().output[0].r#type.as_mut().and_then(|t| t.value.as_mut())
    {
        t.elem_type = Some(8);
    }
    let error = engine.load(&text, &LoadOptions::default()).err().unwrap().to_string();
    assert!(error.contains("output 'y' is text"), "{error}");
}

/// Activations that are rounded to 8 bits around a softmax, which tract takes for a table when it simplifies; weights by channel.
fn quantised() -> Model {
    let weights: Vec<i8> = (0..24).map(|i| (i * 37 % 255 - 127) as i8).collect();
    Builder::new(17)
        .input("x", DType::F32, &["N", "8"])
        .initializer("sx", Tensor::scalar(0.01_f32))
        .initializer("zx", Tensor::scalar(128_u8))
        .initializer("w", Tensor::new(&[8, 3], &weights))
        .initializer("sw", Tensor::new(&[3], &[0.01_f32, 0.02, 0.005]))
        .initializer("zw", Tensor::new(&[3], &[0_i8, 0, 0]))
        .initializer("sp", Tensor::scalar(1.0_f32 / 255.0))
        .initializer("zp", Tensor::scalar(0_u8))
        .node("QuantizeLinear", &["x", "sx", "zx"], "q", vec![])
        .node("DequantizeLinear", &["q", "sx", "zx"], "d", vec![])
        .node("DequantizeLinear", &["w", "sw", "zw"], "dw", vec![int("axis", 1)])
        .node("MatMul", &["d", "dw"], "h", vec![])
        .node("QuantizeLinear", &["h", "sx", "zx"], "qh", vec![])
        .node("DequantizeLinear", &["qh", "sx", "zx"], "dh", vec![])
        .node("Softmax", &["dh"], "p", vec![int("axis", -1)])
        .node("QuantizeLinear", &["p", "sp", "zp"], "qp", vec![])
        .node("DequantizeLinear", &["qp", "sp", "zp"], "y", vec![])
        .output("y", DType::F32, &["N", "3"])
        .build()
}

/// Writes a model as NNEF in the first form that tract has for it; the archive, or what tract says of the best form.
fn nnef(model: &Model, sample: &Feed) -> Result<(NnefForm, Vec<u8>), String> {
    let engine = TractEngine::new();
    let mut refused = None;
    for form in NnefForm::ALL {
        let mut archive = Vec::new();
        match engine.write_nnef(model, sample, form, &mut archive) {
            Ok(()) => return Ok((form, archive)),
            Err(why) => refused = refused.or(Some(why)),
        }
    }
    Err(refused.unwrap())
}

#[test]
fn nnef_is_the_same_archive_each_time_and_computes_what_the_model_does() {
    let folder = tempfile::tempdir().unwrap();
    let names = |model: &Model| model.input_names().into_iter().map(str::to_owned).collect::<Vec<_>>();
    // Names that NNEF cannot spell, and that are the same once they can.
    let named = Builder::new(17)
        .input("in/x", DType::F32, &["N", "4"])
        .initializer("w/0", Tensor::new(&[4, 4], &wave(16)))
        .initializer("w.0", Tensor::new(&[4, 4], &wave(32)[16..]))
        .node("MatMul", &["in/x", "w/0"], "h/0", vec![])
        .node("MatMul", &["h/0", "w.0"], "h.0", vec![])
        .node("Add", &["h/0", "h.0"], "h_0", vec![])
        .output("h_0", DType::F32, &["N", "4"])
        .output("h.0", DType::F32, &["N", "4"])
        .build();
    let mut cases = vec![
        ("mlp", mlp(), feed(&[("x", Tensor::new(&[5, 8], &wave(40)))])),
        ("cnn", cnn(), feed(&[("x", Tensor::new(&[2, 2, 6, 10], &wave(240)))])),
        ("quantised", quantised(), feed(&[("x", Tensor::new(&[3, 8], &wave(24)))])),
        ("names", named, feed(&[("in/x", Tensor::new(&[3, 4], &wave(12)))])),
    ];
    for example in ["mlp", "cnn", "resnet", "lstm", "gru", "encoder"] {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("examples").join(example);
        let model = Model::intake(&root.join("model.onnx"), &IntakeOptions::default()).unwrap().0;
        let data = Dataset::load(&root.join("validation.npz"), &model, dataset::Limits::default()).unwrap().dataset;
        let sample = data.feeds[0].clone();
        cases.push((example, model, sample));
    }
    for (name, model, sample) in cases {
        let (form, archive) = nnef(&model, &sample).unwrap_or_else(|why| panic!("{name}: {why}"));
        println!("{name}: {form:?}, {} bytes", archive.len());
        assert!(form.declared, "{name} keeps its symbols");
        assert!(nnef(&model, &sample).unwrap().1 == archive, "{name} is not the same archive twice");
        let path = folder.path().join(format!("{name}.nnef.tar"));
        std::fs::write(&path, &archive).unwrap();
        let engine = TractEngine::new();
        let mut loaded = engine.load_nnef(&path, names(&model)).unwrap_or_else(|e| panic!("{name}: {e}"));
        let expected = run(&engine, &model, &LoadOptions { optimise: false, ..LoadOptions::default() }, &sample);
        let found = loaded.run(&sample).unwrap_or_else(|e| panic!("{name}: {e}"));
        assert_eq!(found.len(), expected.len());
        for (expected, found) in expected.iter().zip(&found) {
            // A difference in the last digit may flip a step of 1/255.
            assert_close(found, expected, if name == "quantised" { 5e-3 } else { 1e-5 }, name);
        }
    }
}

#[test]
fn what_has_no_form_in_nnef_is_named() {
    let weights: Vec<i8> = (0..12).collect();
    let model = Builder::new(17)
        .input("x", DType::F32, &["4", "4"])
        .initializer("w", Tensor::new(&[4, 3], &weights))
        .node_with_outputs("DynamicQuantizeLinear", &["x"], &["q", "s", "z"], vec![])
        .node("MatMulInteger", &["q", "w", "z"], "i", vec![])
        .node("Cast", &["i"], "f", vec![int("to", 1)])
        .node("Mul", &["f", "s"], "y", vec![])
        .output("y", DType::F32, &["4", "3"])
        .build();
    let sample = feed(&[("x", Tensor::new(&[4, 4], &wave(16)))]);
    assert_eq!(run(&TractEngine::new(), &model, &LoadOptions::default(), &sample)[0].shape(), [4, 3]);
    let why = nnef(&model, &sample).unwrap_err();
    assert!(why.starts_with("tract has no form for node ") && why.ends_with("DynamicQuantizeLinearU8"), "{why}");
    let unknown = Builder::new(17).input("x", DType::F32, &["4"]).node("Unheard", &["x"], "y", vec![]);
    let why = nnef(&unknown.output("y", DType::F32, &["4"]).build(), &sample).unwrap_err();
    assert!(why.contains("operator Unheard of node 'Unheard_0'"), "{why}");
}
