//! Every kind of bad model file: what a person reads, and the exit code that a script sees.
#![cfg(feature = "engine")]

use std::fs;
use std::os::unix::fs::symlink;
use std::path::Path;

use bakehouse::api::Reason;
use bakehouse::model::build::{Builder, value_info};
use bakehouse::model::onnx::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use bakehouse::model::{DType, IntakeOptions, Limits, Model, Tensor};

/// `y = Relu(x w)`, the model that each case breaks in its own way.
fn linear() -> Builder {
    Builder::new(17)
        .input("x", DType::F32, &["N", "2"])
        .initializer("w", Tensor::new(&[2, 2], &[1.0_f32, 2.0, 3.0, 4.0]))
        .node("MatMul", &["x", "w"], "h", vec![])
        .node("Relu", &["h"], "y", vec![])
        .output("y", DType::F32, &["N", "2"])
}

fn edited(edit: impl FnOnce(&mut Model)) -> Vec<u8> {
    let mut model = linear().build();
    edit(&mut model);
    model.to_bytes()
}

/// The model with its weight in another file.
fn external(entries: &[(&str, &str)]) -> Vec<u8> {
    edited(|model| {
        let weight = &mut model.graph_mut().initializer[0];
        let entry = |(key, value): &(&str, &str)| StringStringEntryProto {
            key: Some((*key).to_owned()),
            value: Some((*value).to_owned()),
        };
        *weight = TensorProto {
            raw_data: None,
            data_location: Some(DataLocation::External as i32),
            external_data: entries.iter().map(entry).collect(),
            ..weight.clone()
        };
    })
}

fn weight(values: [f32; 4]) -> Vec<u8> {
    edited(|m| m.graph_mut().initializer[0] = Tensor::new(&[2, 2], &values).to_proto("w"))
}

fn png() -> Vec<u8> {
    [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &[0; 40]].concat()
}

const BROKEN_END: &str = "Export the model again, or check it with the exporter's own checker.";
const EXTERNAL_END: &str = "External files must lie beside the model, inside its folder.";

#[test]
fn every_bad_model_is_refused_with_a_message_and_exit_code_10() {
    let root = tempfile::tempdir().unwrap();
    let folder = root.path().join("model");
    fs::create_dir_all(folder.join("parts")).unwrap();
    fs::write(root.path().join("secret"), [0; 16]).unwrap();
    fs::write(folder.join("short.bin"), [0; 8]).unwrap();
    symlink(root.path().join("secret"), folder.join("link.bin")).unwrap();
    symlink(root.path(), folder.join("up")).unwrap();

    let whole = linear().build().to_bytes();
    let graph = |place: &str, detail: &str| format!("PATH: the graph is broken at {place}: {detail}. {BROKEN_END}");
    let outside = |detail: &str| format!("external data of tensor 'w': {detail}. {EXTERNAL_END}");
    let cases: Vec<(&str, Vec<u8>, String)> = vec![
        ("empty", vec![], "PATH is empty. Export the model again.".to_owned()),
        ("cyclic", edited(|m| m.graph_mut().node[0].input[0] = "y".to_owned()), graph("node 'Relu_1'", "it waits for its own result ('Relu_1' -> 'MatMul_0' -> 'Relu_1')")),
        ("self loop", edited(|m| m.graph_mut().node[0].input[0] = "h".to_owned()), graph("node 'MatMul_0'", "it waits for its own result ('MatMul_0' -> 'MatMul_0')")),
        ("dangling input", edited(|m| m.graph_mut().node[0].input[0] = "ghost".to_owned()), graph("node 'MatMul_0'", "it reads 'ghost', which nothing produces")),
        ("duplicate output", edited(|m| m.graph_mut().node[1].output[0] = "h".to_owned()), graph("node 'Relu_1'", "its output 'h' is already the output of node 'MatMul_0'")),
        ("output over an initializer", edited(|m| m.graph_mut().node[1].output[0] = "w".to_owned()), graph("node 'Relu_1'", "its output 'w' is also an initializer")),
        ("output over an input", edited(|m| m.graph_mut().node[1].output[0] = "x".to_owned()), graph("node 'Relu_1'", "its output 'x' is also an input of the graph")),
        ("output that nothing produces", edited(|m| m.graph_mut().output[0] = value_info("z", DType::F32, &["N"])), graph("output 'z'", "no node produces it")),
        ("no nodes", edited(|m| m.graph_mut().node.clear()), graph("the graph", "it has no nodes")),
        ("no outputs", edited(|m| m.graph_mut().output.clear()), graph("the graph", "it has no outputs")),
        ("no op_type", edited(|m| m.graph_mut().node[1].op_type = None), graph("node 'Relu_1'", "it has no op_type")),
        ("no opset", edited(|m| m.proto_mut().opset_import.clear()), graph("node 'MatMul_0'", "'MatMul' is an operator of ONNX, but the model imports no opset of it")),
        ("opset 5", edited(|m| m.proto_mut().opset_import[0].version = Some(5)), "opset 5 of domain 'ai.onnx' is not supported: it is older than 7; export the model again with opset 17 or so.".to_owned()),
        ("opset 99", edited(|m| m.proto_mut().opset_import[0].version = Some(99)), "opset 99 of domain 'ai.onnx' is not supported: it is newer than 25; export the model again with that or an earlier one.".to_owned()),
        ("huge initializer", edited(|m| m.graph_mut().initializer[0].dims = vec![1 << 40, 1 << 40]), graph("tensor 'w'", "its shape [1099511627776, 1099511627776] fits in no memory")),
        ("overflowing initializer", edited(|m| m.graph_mut().initializer[0].dims = vec![i64::MAX, i64::MAX, i64::MAX]), graph("tensor 'w'", "its shape [9223372036854775807, 9223372036854775807, 9223372036854775807] fits in no memory")),
        ("negative initializer", edited(|m| m.graph_mut().initializer[0].dims = vec![-2, -2]), graph("tensor 'w'", "its shape [-2, -2] fits in no memory")),
        ("huge input", edited(|m| m.graph_mut().input[0] = value_info("x", DType::F32, &["4611686018427387904", "2"])), graph("'x'", "its declared shape [4611686018427387904, 2] fits in no memory")),
        ("huge fill", Builder::new(17).input("x", DType::F32, &["N"]).initializer("s", Tensor::new(&[2], &[1_i64 << 40, 1 << 40])).node("ConstantOfShape", &["s"], "c", vec![]).node("Add", &["x", "c"], "y", vec![]).output("y", DType::F32, &["N"]).build().to_bytes(), graph("node 'ConstantOfShape_0'", "the shape [1099511627776, 1099511627776] that it asks for fits in no memory")),
        ("initializer of another size", edited(|m| m.graph_mut().initializer[0].dims = vec![3, 2]), "tensor 'w': its data does not match its shape. The file is truncated or damaged; export it again.".to_owned()),
        ("NaN weight", weight([f32::NAN, 1.0, f32::NAN, 1.0]), "tensor 'w' holds 2 NaN among its 4 values, so the model computes nothing. Train or export it again.".to_owned()),
        ("infinite weight", weight([f32::INFINITY, 1.0, 1.0, 1.0]), "weight 'w' of node 'MatMul_0' holds 1 infinite values among its 4. Train or export the model again.".to_owned()),
        ("external data by a path upwards", external(&[("location", "../secret")]), outside("its location '../secret' leaves the model's folder")),
        ("external data by an absolute path", external(&[("location", "/etc/hostname")]), outside("its location '/etc/hostname' leaves the model's folder")),
        ("external data by a link", external(&[("location", "link.bin")]), outside("its location 'link.bin' is a link that leaves the model's folder")),
        ("external data by a linked folder", external(&[("location", "up/secret")]), outside("its location 'up/secret' is a link that leaves the model's folder")),
        ("external data that is not there", external(&[("location", "gone.bin")]), outside("cannot open 'gone.bin': No such file or directory (os error 2)")),
        ("external data that is a folder", external(&[("location", "parts")]), outside("cannot open 'parts': it is a folder")),
        ("external data without a location", external(&[("offset", "0")]), outside("it names no location")),
        ("external data with a bad offset", external(&[("location", "short.bin"), ("offset", "-8")]), outside("its offset '-8' is not a number of bytes")),
        ("external data that is too short", external(&[("location", "short.bin")]), outside("bytes 0 to 16 of 'short.bin' are needed, but the file has 8")),
        ("external data of another size", external(&[("location", "short.bin"), ("length", "8")]), outside("its shape needs 16 bytes, but 8 are given")),
        ("external data beyond any file", external(&[("location", "short.bin"), ("offset", "18446744073709551615"), ("length", "16")]), outside("bytes 18446744073709551615 to 18446744073709551631 of 'short.bin' are needed, but the file has 8")),
    ];
    let path = folder.join("m.onnx");
    let refusal = |bytes: &[u8]| {
        fs::write(&path, bytes).unwrap();
        let error = Model::intake(&path, &IntakeOptions::default()).expect_err("it is bad");
        assert_eq!((error.reason(), error.reason().exit_code()), (Reason::InvalidModel, 10), "{error}");
        error.to_string().replace(path.to_str().unwrap(), "PATH")
    };
    for (what, bytes, message) in cases {
        assert_eq!(refusal(&bytes), message, "{what}");
    }
    // The decoder's own words come first here, so only ours are compared.
    for (what, bytes, end) in [
        (
            "truncated",
            whole[..whole.len() - 9].to_vec(),
            "it starts like ONNX, but is truncated or damaged). Give an .onnx file as written by an exporter.",
        ),
        ("renamed image", png(), "it starts like a PNG image). Give an .onnx file as written by an exporter."),
        (
            "renamed text",
            b"<html>not found</html>".to_vec(),
            "it starts like HTML or XML). Give an .onnx file as written by an exporter.",
        ),
    ] {
        let message = refusal(&bytes);
        assert!(message.starts_with("PATH is not an ONNX model (") && message.ends_with(end), "{what}: {message}");
    }
}

#[test]
fn no_cut_of_a_model_file_is_taken_for_a_model() {
    let whole = linear().build().to_bytes();
    for end in 0..whole.len() {
        let model = Model::from_bytes(whole[..end].to_vec().into(), Path::new("cut"));
        assert!(
            model.and_then(|m| m.prepare(&IntakeOptions::default())).is_err(),
            "cut after {end} of {} bytes",
            whole.len()
        );
    }
}

#[test]
fn external_data_over_the_limit_is_refused_and_the_limit_can_be_raised() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("m.onnx");
    fs::write(&path, external(&[("location", "w.bin")])).unwrap();
    fs::write(folder.path().join("w.bin"), [0; 16]).unwrap();
    let with = |external_bytes| {
        Model::intake(&path, &IntakeOptions { limits: Limits { external_bytes }, ..IntakeOptions::default() })
    };
    let error = with(15).unwrap_err();
    assert_eq!(
        error.to_string(),
        "the external data of this model is 16 bytes, over the limit of 15. Raise the limit if the model really is that large."
    );
    with(16).unwrap();
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = Model::intake(Path::new("no/such.onnx"), &IntakeOptions::default()).unwrap_err();
    assert_eq!(
        error.to_string(),
        "cannot read no/such.onnx: No such file or directory (os error 2). Check the path and its permissions."
    );
}
