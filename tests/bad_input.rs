//! Bad input through the program: what a person reads, the exit code that a script sees, and that nothing is left behind.
//!
//! `docs/bad-input.md` is written from what is really printed. Run with `UPDATE=1` to write it anew.
#![cfg(feature = "tract")]
#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "phase5/checkpoint.rs"]
mod made;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::fs;
use std::io::{Cursor, Write as _};
use std::path::Path;

use assert_cmd::Command;
use bakehouse::api::digest::sha256_hex;
use bakehouse::model::build::{Builder, value_info};
use bakehouse::model::onnx::{StringStringEntryProto, TensorProto, tensor_proto::DataLocation};
use bakehouse::model::{DType, Model, Tensor};
use made::{Raw, archive, dict, global, number, ordered, tensor, text, tuple};
use serde_json::{Value, json};

const DOCUMENT: &str = "docs/bad-input.md";

/// `y = Relu(x w)`, the model that each case breaks in its own way.
fn linear() -> Model {
    Builder::new(17)
        .input("x", DType::F32, &["N", "2"])
        .initializer("w", Tensor::new(&[2, 2], &[1.0_f32, 2.0, 3.0, 4.0]))
        .node("MatMul", &["x", "w"], "h", vec![])
        .node("Relu", &["h"], "y", vec![])
        .output("y", DType::F32, &["N", "2"])
        .build()
}

/// `y = x + z`, both of the same number of rows.
fn two_inputs() -> Model {
    Builder::new(17)
        .input("x", DType::F32, &["N", "2"])
        .input("z", DType::F32, &["N", "2"])
        .node("Add", &["x", "z"], "y", vec![])
        .output("y", DType::F32, &["N", "2"])
        .build()
}

fn edited(edit: impl FnOnce(&mut Model)) -> Vec<u8> {
    let mut model = linear();
    edit(&mut model);
    model.to_bytes()
}

/// The zip crate is npyz's own; its options type is reached by inference.
fn zip_options<T: Default>() -> T {
    T::default()
}

/// An archive of arrays: name, type, shape, bytes.
fn npz(arrays: &[(&str, &str, &str, Vec<u8>)]) -> Vec<u8> {
    let mut cursor = Cursor::new(Vec::new());
    let mut writer = npyz::npz::NpzWriter::new(&mut cursor);
    let zip = writer.zip_writer();
    for (name, descr, shape, data) in arrays {
        let header = format!("{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}");
        zip.start_file(format!("{name}.npy"), zip_options()).unwrap();
        zip.write_all(b"\x93NUMPY\x01\x00").unwrap();
        zip.write_all(&(header.len() as u16).to_le_bytes()).unwrap();
        zip.write_all(header.as_bytes()).unwrap();
        zip.write_all(data).unwrap();
    }
    drop(writer);
    cursor.into_inner()
}

fn floats(n: usize, seed: f32) -> Vec<u8> {
    (0..n).flat_map(|i| (i as f32 * 0.7 + seed).sin().to_le_bytes()).collect()
}

/// `n` samples of the input.
fn samples(n: usize, seed: f32) -> Vec<u8> {
    npz(&[("x", "<f4", &format!("({n}, 2)"), floats(2 * n, seed))])
}

fn external(location: &str) -> Vec<u8> {
    edited(|model| {
        let weight = &mut model.graph_mut().initializer[0];
        let entry = StringStringEntryProto { key: Some("location".to_owned()), value: Some(location.to_owned()) };
        let outside = Some(DataLocation::External as i32);
        *weight = TensorProto { raw_data: None, data_location: outside, external_data: vec![entry], ..weight.clone() };
    })
}

/// One bad input.
struct Case {
    what: &'static str,
    files: Vec<(&'static str, Vec<u8>)>,
    job: Value,
    environment: Vec<(&'static str, &'static str)>,
    code: i32,
    words: Vec<&'static str>,
}

fn good_job() -> Value {
    json!({
        "apiVersion": "bakehouse.dev/v1alpha1",
        "kind": "BakeJob",
        "metadata": {"name": "bad"},
        "spec": {"source": {"uri": "model.onnx"}, "data": {"validation": {"uri": "validation.npz"}}, "output": {"uri": "out"}},
    })
}

fn case(what: &'static str, code: i32, words: &[&'static str]) -> Case {
    Case { what, files: Vec::new(), job: good_job(), environment: Vec::new(), code, words: words.to_vec() }
}

fn model(what: &'static str, bytes: Vec<u8>, words: &[&'static str]) -> Case {
    Case { files: vec![("model.onnx", bytes)], ..case(what, 10, words) }
}

fn data(what: &'static str, bytes: Vec<u8>, words: &[&'static str]) -> Case {
    Case { files: vec![("validation.npz", bytes)], ..case(what, 12, words) }
}

fn spec(what: &'static str, pointer: &str, value: Value, code: i32, words: &[&'static str]) -> Case {
    let mut case = case(what, code, words);
    let (parent, field) = pointer.rsplit_once('/').unwrap();
    let mut at = &mut case.job["spec"];
    for part in parent.split('/').filter(|p| !p.is_empty()) {
        at = &mut at[part];
    }
    at[field] = value;
    case
}

fn models() -> Vec<Case> {
    let whole = linear().to_bytes();
    let weight =
        |values: [f32; 4]| edited(|m| m.graph_mut().initializer[0] = Tensor::new(&[2, 2], &values).to_proto("w"));
    vec![
        model("an empty model file", vec![], &["is empty"]),
        model("a truncated model", whole[..whole.len() - 9].to_vec(), &["truncated or damaged"]),
        model(
            "an image that was renamed to .onnx",
            [b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR".as_slice(), &[0; 40]].concat(),
            &["PNG image"],
        ),
        model("a web page that was saved as .onnx", b"<html>not found</html>".to_vec(), &["HTML or XML"]),
        model(
            "a cyclic graph",
            edited(|m| "y".clone_into(&mut m.graph_mut().node[0].input[0])),
            &["waits for its own result"],
        ),
        model(
            "a node that reads what nothing produces",
            edited(|m| "ghost".clone_into(&mut m.graph_mut().node[0].input[0])),
            &["'ghost', which nothing produces"],
        ),
        model(
            "a weight of a huge shape",
            edited(|m| m.graph_mut().initializer[0].dims = vec![1 << 40, 1 << 40]),
            &["fits in no memory"],
        ),
        model(
            "an input of a huge shape",
            edited(|m| m.graph_mut().input[0] = value_info("x", DType::F32, &["4611686018427387904", "2"])),
            &["fits in no memory"],
        ),
        model("external data by a path that leaves the folder", external("../secret"), &["leaves the model's folder"]),
        model("external data by an absolute path", external("/etc/hostname"), &["leaves the model's folder"]),
        model("a weight that is not a number", weight([f32::NAN, 1.0, 1.0, 1.0]), &["holds 1 NaN"]),
        model("a weight that is infinite", weight([f32::INFINITY, 1.0, 1.0, 1.0]), &["infinite values"]),
        model("an opset older than 7", edited(|m| m.proto_mut().opset_import[0].version = Some(5)), &["opset 5"]),
        spec("a model that is not there", "/source/uri", json!("gone.onnx"), 10, &["cannot read", "gone.onnx"]),
    ]
}

fn datasets() -> Vec<Case> {
    let calibration = |what, bytes, words: &[&'static str]| {
        let mut case = spec(what, "/data/calibration", json!({"uri": "calibration.npz"}), 12, words);
        case.files.push(("calibration.npz", bytes));
        case
    };
    let nan: Vec<u8> = floats(120, 0.3)
        .chunks(4)
        .enumerate()
        .flat_map(|(i, b)| if i == 7 { f32::NAN.to_le_bytes() } else { b.try_into().unwrap() })
        .collect();
    vec![
        data(
            "an array of another name",
            npz(&[("image", "<f4", "(60, 2)", floats(120, 0.3))]),
            &["array 'image' is no input of the model", "'x'"],
        ),
        data(
            "an array of another shape",
            npz(&[("x", "<f4", "(60, 3)", floats(180, 0.3))]),
            &["validation.npz: sample 0 of array 'x' has the shape [1, 3]", "declares this input as [N, 2]"],
        ),
        data(
            "an array with an axis too many",
            npz(&[("x", "<f4", "(60, 1, 1, 2)", floats(120, 0.3))]),
            &["validation.npz: array 'x' has the shape [60, 1, 1, 2]", "[N, 2]"],
        ),
        Case {
            files: vec![
                ("model.onnx", two_inputs().to_bytes()),
                (
                    "validation.npz",
                    npz(&[("x", "<f4", "(60, 2, 2)", floats(240, 0.3)), ("z", "<f4", "(60, 3, 2)", floats(360, 0.7))]),
                ),
            ],
            ..case(
                "two arrays that make one symbol two numbers",
                12,
                &["validation.npz: sample 0 of array 'z' has the shape [3, 2]", "'N'", "but array 'x' makes it 2"],
            )
        },
        data("an array of text", npz(&[("x", "<U5", "(60, 2)", vec![0; 60 * 2 * 20])]), &["not a number"]),
        data("an array of Python objects", npz(&[("x", "|O", "(60, 2)", vec![0; 960])]), &["pickle"]),
        data("no sample", npz(&[("x", "<f4", "(0, 2)", vec![])]), &["holds no sample"]),
        data("samples that are not numbers", npz(&[("x", "<f4", "(60, 2)", nan)]), &["NaN"]),
        data(
            "labels of another number",
            npz(&[("x", "<f4", "(60, 2)", floats(120, 0.3)), ("labels", "<i8", "(59,)", vec![0; 472])]),
            &["one label per sample"],
        ),
        data("a file that is no archive", b"x,y\n1,2\n".to_vec(), &["validation.npz"]),
        data("a damaged archive", samples(60, 0.3)[..200].to_vec(), &["not a readable .npz"]),
        data("one sample", samples(1, 0.3), &["too few samples (1)"]),
        calibration(
            "calibration data that is the validation data",
            samples(60, 0.3),
            &["spec.data.validation and spec.data.calibration share 60 of 60 samples"],
        ),
        Case {
            job: {
                let mut job = good_job();
                job["spec"]["data"]["calibration"] = json!({"uri": "gone.npz"});
                job["spec"]["optimization"] = json!({"level": "Medium"});
                job
            },
            ..case("calibration data that is not there, at Medium", 12, &["gone.npz: cannot be read"])
        },
        calibration(
            "calibration data of another shape",
            npz(&[("x", "<f4", "(60, 3)", floats(180, 0.3))]),
            &["calibration.npz: sample 0 of array 'x' has the shape [1, 3]", "declares this input as [N, 2]"],
        ),
        Case {
            job: {
                let mut job = good_job();
                job["spec"]["data"]["calibration"] = json!({"uri": "calibration.npz"});
                job
            },
            files: vec![
                ("validation.npz", npz(&[("x", "<f4", "(60, 3)", floats(180, 0.3))])),
                ("calibration.npz", samples(60, 0.9)),
            ],
            ..case(
                "validation data of another shape beside calibration data that fits",
                12,
                &["validation.npz: sample 0 of array 'x' has the shape [1, 3]", "declares this input as [N, 2]"],
            )
        },
        spec("validation data that is not there", "/data/validation/uri", json!("gone.npz"), 12, &["gone.npz"]),
    ]
}

fn jobs() -> Vec<Case> {
    vec![
        spec(
            "an unknown field",
            "/optimization",
            json!({"levle": "Light"}),
            2,
            &["spec.optimization.levle: unknown field; did you mean 'level'?"],
        ),
        spec(
            "a value that does not exist",
            "/optimization",
            json!({"goal": "Speed"}),
            2,
            &["spec.optimization.goal", "Latency, Size, Balanced"],
        ),
        spec("no validation data", "/data", json!({}), 2, &["spec.data.validation.uri: is required"]),
        spec(
            "a level that is not built",
            "/optimization",
            json!({"level": "Aggressive"}),
            2,
            &["Aggressive", "use Conservative, Light or Medium"],
        ),
        spec(
            "a store that is not built",
            "/source/uri",
            json!("oci://models/m.onnx"),
            2,
            &["oci://", "use a path, file://, s3://, gs:// or az://; promotion alone goes to a registry"],
        ),
        spec(
            "a folder of a bucket as data",
            "/data/validation/uri",
            json!("s3://data/v/"),
            2,
            &["spec.data.validation.uri: s3://data/v/ is no location", "name one object"],
        ),
        Case {
            environment: vec![("AWS_ACCESS_KEY_ID", "half"), ("AWS_SECRET_ACCESS_KEY", "")],
            ..spec(
                "half of the credentials of object storage",
                "/source/uri",
                json!("s3://models/m.onnx"),
                13,
                &["spec.source.uri: there are no credentials for s3://models/m.onnx", "AWS_SECRET_ACCESS_KEY"],
            )
        },
        spec("a device that is not built", "/hardware", json!({"device": "CUDA"}), 2, &["CUDA", "use CPU or Auto"]),
        spec(
            "a pass that does not exist",
            "/optimization",
            json!({"passes": ["constant-foldin"]}),
            2,
            &["constant-foldin"],
        ),
        spec(
            "a digest that the model does not have",
            "/source/digest",
            json!(format!("sha256:{}", "0".repeat(64))),
            2,
            &["spec.source.digest"],
        ),
        spec(
            "a recipe that is not there",
            "/optimization",
            json!({"recipe": {"uri": "gone.json"}}),
            2,
            &["spec.optimization.recipe", "gone.json"],
        ),
    ]
}

fn surroundings() -> Vec<Case> {
    vec![
        spec("an output below a file", "/output/uri", json!("model.onnx/out"), 14, &["cannot write", "model.onnx/out"]),
        spec(
            "an output where nothing can be written",
            "/output/uri",
            json!("/proc/bakehouse-out"),
            14,
            &["cannot write /proc/bakehouse-out"],
        ),
        Case {
            files: vec![("phase7", b"mine".to_vec())],
            job: {
                let mut job = good_job();
                job["spec"]["exports"] = json!(["ONNX", "Phase7"]);
                job["spec"]["output"] = json!({"uri": "."});
                job
            },
            ..case(
                "something of one's own where the package would go",
                14,
                &["phase7", "is no package, so it is not replaced"],
            )
        },
        Case {
            environment: vec![("BAKEHOUSE_MEMORY_LIMIT", "100000000")],
            ..case(
                "a memory limit below the smallest plan",
                22,
                &["memory limit of 100000000 bytes", "Raise the limit"],
            )
        },
        Case {
            environment: vec![("BAKEHOUSE_MEMORY_LIMIT", "4Gi")],
            ..case("a memory limit that is no number", 2, &["BAKEHOUSE_MEMORY_LIMIT", "number of bytes"])
        },
    ]
}

/// A job whose source is the folder `package`, which names its own data.
fn of_package(what: &'static str, code: i32, words: &[&'static str], files: Vec<(&'static str, Vec<u8>)>) -> Case {
    let mut case = case(what, code, words);
    case.job["spec"]["source"]["uri"] = json!("package");
    case.job["spec"]["data"] = json!({});
    Case { files, ..case }
}

fn packaged_file(path: &str, bytes: &[u8]) -> Value {
    json!({"path": path, "sha256": sha256_hex(bytes), "bytes": bytes.len()})
}

/// A good package whose manifest was edited.
fn manifest(what: &'static str, code: i32, words: &[&'static str], edit: impl FnOnce(&mut Value)) -> Case {
    let (model, validation) = (linear().to_bytes(), samples(60, 0.3));
    let mut manifest = json!({
        "apiVersion": "bakehouse.dev/phase5/v1",
        "identity": {"name": "linear"},
        "model": {"graph": packaged_file("model.onnx", &model)},
        "splits": {"validation": packaged_file("validation.npz", &validation)},
    });
    edit(&mut manifest);
    let files = vec![
        ("package/manifest.json", manifest.to_string().into_bytes()),
        ("package/model.onnx", model),
        ("package/validation.npz", validation),
    ];
    of_package(what, code, words, files)
}

/// A package with these weights beside its graph.
fn weights(what: &'static str, words: &[&'static str], weights: Vec<u8>) -> Case {
    let mut case = manifest(what, 10, words, |m| m["model"]["weights"] = packaged_file("weights.pt", &weights));
    case.files.push(("package/weights.pt", weights));
    case
}

/// A weight of the graph, by a name and of a shape, with its numbers.
fn checkpoint(name: &str, shape: &[u64]) -> (Vec<u8>, Raw) {
    let elements: u64 = shape.iter().product();
    let raw = Raw { class: "FloatStorage", bytes: floats(elements as usize, 0.3), elements: elements as usize };
    (ordered(&[(name, tensor("0", "FloatStorage", elements, shape))]), raw)
}

/// A checkpoint that calls a function beside its weights.
fn calling(module: &str, name: &str) -> Vec<u8> {
    let (state, raw) = checkpoint("w", &[2, 2]);
    let call = [global(module, name), tuple(&[text("touch ran")]), b"R".to_vec()].concat();
    archive(&dict(&[("model_state_dict", state), ("config", call)]), &[raw])
}

fn packages() -> Vec<Case> {
    let zeros = "0".repeat(64);
    vec![
        of_package(
            "a folder that is no package",
            10,
            &["holds neither manifest.json nor trained_model.pt"],
            vec![("package/notes.txt", b"x".to_vec())],
        ),
        manifest("another major version", 10, &["apiVersion: 'bakehouse.dev/phase5/v2' is not known"], |m| {
            m["apiVersion"] = json!("bakehouse.dev/phase5/v2");
        }),
        of_package(
            "a manifest that is no JSON",
            10,
            &["manifest.json: is no JSON"],
            vec![("package/manifest.json", b"identity: x".to_vec())],
        ),
        manifest("a manifest with an unknown field", 10, &["manifest.json: spilts: is no field"], |m| {
            m["spilts"] = json!({"test": 1});
        }),
        manifest(
            "a model that was changed",
            10,
            &["model.graph: 'model.onnx' has sha256", "the manifest says 0000"],
            |m| {
                m["model"]["graph"]["sha256"] = json!(zeros);
            },
        ),
        manifest("a split that was cut off", 12, &["splits.validation: 'validation.npz' has", "says 9999"], |m| {
            m["splits"]["validation"]["bytes"] = json!(9999);
        }),
        manifest("a split that is named and not there", 12, &["splits.validation: 'v.npz' is not there"], |m| {
            m["splits"]["validation"]["path"] = json!("v.npz");
        }),
        manifest("no validation split", 2, &["spec.data.validation.uri: is required: the package"], |m| {
            m["splits"] = json!({});
        }),
        manifest(
            "a path that leaves the package",
            10,
            &["splits.validation.path: '../v.npz' leaves the package"],
            |m| {
                m["splits"]["validation"]["path"] = json!("../v.npz");
            },
        ),
        manifest(
            "another signature than the graph's",
            10,
            &["signature.inputs: says 'z' (float32), but the graph has 'x'"],
            |m| {
                let named = |name: &str| json!([{"name": name, "dtype": "float32"}]);
                m["signature"] = json!({"inputs": named("z"), "outputs": named("y")});
            },
        ),
    ]
}

fn checkpoints() -> Vec<Case> {
    let (state, raw) = checkpoint("w", &[2, 2]);
    let good = archive(&state, &[raw]);
    let of = |name: &str, shape: &[u64]| {
        let (state, raw) = checkpoint(name, shape);
        archive(&state, &[raw])
    };
    let beside = |files: &[(&'static str, &[u8])]| files.iter().map(|(name, bytes)| (*name, bytes.to_vec())).collect();
    let graph = linear().to_bytes();
    vec![
        weights(
            "a checkpoint that asks for os.system",
            &["weights.pt: cannot be read without running it", "'os.system'", "Nothing of it was run"],
            calling("os", "system"),
        ),
        weights(
            "a checkpoint that calls a function of its own",
            &["'__main__.Config'", "Nothing of it was run"],
            calling("__main__", "Config"),
        ),
        weights(
            "a checkpoint that was cut off",
            &["weights.pt: is not a readable archive of torch.save"],
            good[..good.len() / 2].to_vec(),
        ),
        weights(
            "a checkpoint of before version 1.6",
            &["before version 1.6"],
            b"\x80\x02\x8a\x0al\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.".to_vec(),
        ),
        weights(
            "weights of another shape",
            &["tensor 'w' has the shape [3, 2], but the initializer 'w' of the graph has [2, 2]"],
            of("w", &[3, 2]),
        ),
        weights(
            "weights of another name",
            &["'fc.weight', and no tensor has the name of the graph's 'w'"],
            of("fc.weight", &[2, 2]),
        ),
        weights(
            "a checkpoint without weights",
            &["holds 'epochs', which is no tensor"],
            archive(&dict(&[("epochs", number(3))]), &[]),
        ),
        of_package(
            "a checkpoint without a graph beside it",
            10,
            &["model.graph: 'model.onnx' is not there"],
            beside(&[("package/trained_model.pt", &good)]),
        ),
        of_package(
            "a trainer's folder without data",
            2,
            &["is required: the package", "has no validation split"],
            beside(&[("package/trained_model.pt", &good), ("package/model.onnx", &graph)]),
        ),
    ]
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_bad_input_is_refused_by_name_and_leaves_nothing_behind() {
    let mut document = String::from(
        "# What is refused, and how\n\n\
         Each row is what the program really printed: `tests/bad_input.rs` runs every one of them and fails when this page differs. Nothing is left in the output \
         folder. `DIR` stands for the folder of the job.\n",
    );
    let mut wrong = Vec::new();
    let sections = [
        ("Models", models()),
        ("Packages", packages()),
        ("Weights of a package", checkpoints()),
        ("Data", datasets()),
        ("Jobs, output, memory", jobs().into_iter().chain(surroundings()).collect()),
    ];
    for (title, cases) in sections {
        let _ = write!(document, "\n## {title}\n\n| Given | Printed | Exit code |\n|---|---|---|\n");
        for case in cases {
            let root = tempfile::tempdir().unwrap();
            let folder = root.path().join("job");
            fs::create_dir(&folder).unwrap();
            fs::write(root.path().join("secret"), [0; 16]).unwrap();
            fs::write(folder.join("model.onnx"), linear().to_bytes()).unwrap();
            fs::write(folder.join("validation.npz"), samples(60, 0.3)).unwrap();
            for (name, bytes) in &case.files {
                fs::create_dir_all(folder.join(name).parent().unwrap()).unwrap();
                fs::write(folder.join(name), bytes).unwrap();
            }
            fs::write(folder.join("bakejob.yaml"), case.job.to_string()).unwrap();
            let before = names(&folder);
            let mut command = Command::new(env!("CARGO_BIN_EXE_bakehouse"));
            command
                .args(["bake", "-f"])
                .arg(folder.join("bakejob.yaml"))
                .env_remove("BAKEHOUSE_MEMORY_LIMIT")
                .env("BAKEHOUSE_ORT_LIB", "none");
            let output = command.envs(case.environment.iter().copied()).output().unwrap();
            let printed = String::from_utf8(output.stderr).unwrap().replace(folder.to_str().unwrap(), "DIR");
            let code = output.status.code();
            let lacking: Vec<_> = case.words.iter().filter(|w| !printed.contains(**w)).collect();
            if code != Some(case.code) || !lacking.is_empty() || !output.stdout.is_empty() {
                wrong.push(format!(
                    "{}: exit code {code:?}, expected {}; lacks {lacking:?}; printed: {printed}",
                    case.what, case.code
                ));
            }
            if names(&folder) != before {
                wrong.push(format!(
                    "{}: left behind {:?}",
                    case.what,
                    names(&folder).difference(&before).collect::<Vec<_>>()
                ));
            }
            let cell = printed
                .trim()
                .trim_start_matches("error: ")
                .replace('|', "\\|")
                .replace('<', "&lt;")
                .replace('\n', "<br>");
            let _ = writeln!(document, "| {} | {cell} | {} |", case.what, case.code);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join(DOCUMENT);
    if std::env::var_os("UPDATE").is_some() {
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, &document).unwrap();
    }
    let committed = fs::read_to_string(&path).unwrap_or_default();
    assert!(
        committed == document,
        "{DOCUMENT} is not what is printed: run this test with UPDATE=1 and look at the difference"
    );
}
