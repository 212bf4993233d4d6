//! A model as one file, written piece by piece: the bytes that encoding it at once would give, without a copy of the weights.

use std::io::{self, Write};

use prost::Message;
use prost::encoding::{WireType, encode_key, encode_varint};
use sha2::{Digest, Sha256};

use super::onnx::{GraphProto, ModelProto, TensorProto};
use super::{Model, mapped};
use crate::api::digest::hex;

/// Weights of fewer bytes are encoded like everything else.
const LARGE: usize = 64 << 10;

impl Model {
    /// Writes what [`Model::to_bytes`] gives, in memory that does not grow with the weights.
    ///
    /// # Errors
    /// Those of `out`.
    pub fn write_to(&self, out: &mut dyn Write) -> io::Result<()> {
        match &self.source {
            Some(source) => mapped::pour(source, out),
            None => model(&self.proto, out),
        }
    }

    /// SHA-256 of what [`Model::to_bytes`] gives, in hexadecimal.
    pub fn sha256(&self) -> String {
        sha256_of(|out| self.write_to(out))
    }
}

/// SHA-256 of bytes, in hexadecimal; of a map, they take no memory.
pub fn sha256(bytes: &[u8]) -> String {
    sha256_of(|out| mapped::pour(bytes, out))
}

fn sha256_of(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
    struct Hash(Sha256);
    impl Write for Hash {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.update(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }
    let mut hash = Hash(Sha256::new());
    write(&mut hash).expect("a hash takes whatever it is given");
    hex(&hash.0.finalize())
}

// Fields stand in the order of their numbers in a file. Each message is taken apart by name, so that a field which another version of ONNX brings does not
// go missing here.

fn model(proto: &ModelProto, out: &mut dyn Write) -> io::Result<()> {
    let ModelProto {
        ir_version,
        producer_name,
        producer_version,
        domain,
        model_version,
        doc_string,
        graph,
        opset_import,
        metadata_props,
        training_info,
        functions,
        configuration,
    } = proto;
    let head = ModelProto {
        ir_version: *ir_version,
        producer_name: producer_name.clone(),
        producer_version: producer_version.clone(),
        domain: domain.clone(),
        model_version: *model_version,
        doc_string: doc_string.clone(),
        ..ModelProto::default()
    };
    out.write_all(&head.encode_to_vec())?;
    if let Some(inner) = graph {
        begin(7, inner.encoded_len(), out)?;
        self::graph(inner, out)?;
    }
    let tail = ModelProto {
        opset_import: opset_import.clone(),
        metadata_props: metadata_props.clone(),
        training_info: training_info.clone(),
        functions: functions.clone(),
        configuration: configuration.clone(),
        ..ModelProto::default()
    };
    out.write_all(&tail.encode_to_vec())
}

fn graph(proto: &GraphProto, out: &mut dyn Write) -> io::Result<()> {
    let GraphProto {
        node,
        name,
        initializer,
        doc_string,
        input,
        output,
        value_info,
        quantization_annotation,
        sparse_initializer,
        metadata_props,
    } = proto;
    // One by one: a node may hold a weight too.
    for node in node {
        begin(1, node.encoded_len(), out)?;
        out.write_all(&node.encode_to_vec())?;
    }
    out.write_all(&GraphProto { name: name.clone(), ..GraphProto::default() }.encode_to_vec())?;
    for initializer in initializer {
        begin(5, initializer.encoded_len(), out)?;
        tensor(initializer, out)?;
    }
    let tail = GraphProto {
        doc_string: doc_string.clone(),
        input: input.clone(),
        output: output.clone(),
        value_info: value_info.clone(),
        quantization_annotation: quantization_annotation.clone(),
        sparse_initializer: sparse_initializer.clone(),
        metadata_props: metadata_props.clone(),
        ..GraphProto::default()
    };
    out.write_all(&tail.encode_to_vec())
}

fn tensor(proto: &TensorProto, out: &mut dyn Write) -> io::Result<()> {
    let Some(raw) = proto.raw_data.as_ref().filter(|raw| raw.len() >= LARGE) else {
        return out.write_all(&proto.encode_to_vec());
    };
    let TensorProto {
        dims,
        data_type,
        segment,
        float_data,
        int32_data,
        string_data,
        int64_data,
        name,
        raw_data: _,
        double_data,
        uint64_data,
        doc_string,
        external_data,
        data_location,
        metadata_props,
    } = proto;
    let head = TensorProto {
        dims: dims.clone(),
        data_type: *data_type,
        segment: *segment,
        float_data: float_data.clone(),
        int32_data: int32_data.clone(),
        string_data: string_data.clone(),
        int64_data: int64_data.clone(),
        name: name.clone(),
        ..TensorProto::default()
    };
    out.write_all(&head.encode_to_vec())?;
    begin(9, raw.len(), out)?;
    mapped::pour(raw, out)?;
    let tail = TensorProto {
        double_data: double_data.clone(),
        uint64_data: uint64_data.clone(),
        doc_string: doc_string.clone(),
        external_data: external_data.clone(),
        data_location: *data_location,
        metadata_props: metadata_props.clone(),
        ..TensorProto::default()
    };
    out.write_all(&tail.encode_to_vec())
}

/// The number of a field and the length of what follows.
fn begin(field: u32, length: usize, out: &mut dyn Write) -> io::Result<()> {
    let mut head = Vec::with_capacity(16);
    encode_key(field, WireType::LengthDelimited, &mut head);
    encode_varint(length as u64, &mut head);
    out.write_all(&head)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::digest::sha256_hex;
    use crate::model::build::Builder;
    use crate::model::onnx::{
        DeviceConfigurationProto, FunctionProto, SparseTensorProto, StringStringEntryProto, TensorAnnotation,
        TrainingInfoProto, ValueInfoProto, tensor_proto,
    };
    use crate::model::{DType, Tensor};

    /// A model in which every field of every message that is taken apart is set.
    fn full() -> Model {
        let large: Vec<f32> = (0..LARGE as u32 / 2).map(|i| i as f32).collect();
        let entry = || vec![StringStringEntryProto { key: Some("k".into()), value: Some("v".into()) }];
        let mut model = Builder::new(17)
            .input("x", DType::F32, &["N", "2"])
            .initializer("small", Tensor::new(&[1], &[0.5_f32]))
            .initializer("large", Tensor::new(&[large.len()], &large))
            .node("Add", &["x", "small"], "y", vec![])
            .node("Relu", &["y"], "z", vec![])
            .output("z", DType::F32, &["N", "2"])
            .build();
        let text = |text: &str| Some(text.to_owned());
        let proto = model.proto_mut();
        proto.producer_name = text("p");
        proto.producer_version = text("1");
        proto.domain = text("d");
        proto.model_version = Some(3);
        proto.doc_string = text("doc");
        proto.metadata_props = entry();
        proto.training_info = vec![TrainingInfoProto::default()];
        proto.functions = vec![FunctionProto { name: text("f"), ..FunctionProto::default() }];
        proto.configuration = vec![DeviceConfigurationProto { name: text("c"), ..DeviceConfigurationProto::default() }];
        let graph = model.graph_mut();
        graph.name = text("g");
        graph.doc_string = text("doc");
        graph.value_info = vec![ValueInfoProto { name: text("y"), ..ValueInfoProto::default() }];
        graph.quantization_annotation =
            vec![TensorAnnotation { tensor_name: text("y"), ..TensorAnnotation::default() }];
        graph.sparse_initializer = vec![SparseTensorProto { dims: vec![2], ..SparseTensorProto::default() }];
        graph.metadata_props = entry();
        let tensor = &mut graph.initializer[1];
        tensor.segment = Some(tensor_proto::Segment { begin: Some(1), end: Some(2) });
        tensor.float_data = vec![1.0];
        tensor.int32_data = vec![2];
        tensor.string_data = vec![b"s".to_vec()];
        tensor.int64_data = vec![3];
        tensor.double_data = vec![4.0];
        tensor.uint64_data = vec![5];
        tensor.doc_string = text("doc");
        tensor.external_data = entry();
        tensor.data_location = Some(0);
        tensor.metadata_props = entry();
        model
    }

    #[test]
    fn what_is_written_piece_by_piece_is_what_is_encoded_at_once() {
        let model = full();
        let mut written = Vec::new();
        model.write_to(&mut written).unwrap();
        let encoded = model.proto().encode_to_vec();
        assert!(written == encoded, "{} bytes, {} expected", written.len(), encoded.len());
        assert_eq!(model.sha256(), sha256_hex(&encoded));
    }

    #[test]
    fn a_loaded_model_that_was_not_edited_is_written_as_its_file() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.onnx");
        let mut file = full().to_bytes();
        file.extend([0xfa, 0x3e, 3, b'a', b'b', b'c']); // field 1007, which no version of ONNX has
        std::fs::write(&path, &file).unwrap();
        let mut written = Vec::new();
        Model::load(&path).unwrap().write_to(&mut written).unwrap();
        assert!(written == file);
        assert_eq!(sha256(&file), sha256_hex(&file));
    }
}
