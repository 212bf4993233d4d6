//! Tensors whose bytes lie in a file beside the model (`data_location: EXTERNAL`).
//!
//! A model file is input from outside: a location may try to reach `/etc/passwd`, directly, by `..` or through a link. Only regular files that really
//! lie inside the model's own folder are opened.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Component, Path, PathBuf};

use bytes::Bytes;

use super::onnx::{GraphProto, ModelProto, NodeProto, SparseTensorProto, TensorProto, tensor_proto::DataLocation};
use super::{Limits, Model, ModelError, mapped, verify};

/// Whether the bytes of a tensor are outside its message.
pub fn is_external(tensor: &TensorProto) -> bool {
    tensor.data_location() == DataLocation::External
}

/// The files that the model at `path` names as its external data: their locations, relative to its folder. Those that leave it are not among them: loading
/// refuses them.
pub fn locations(path: &Path) -> Result<Vec<String>, ModelError> {
    let file = mapped::map(path).map_err(|source| ModelError::Read { path: path.to_owned(), source })?;
    let mut model = Model::from_bytes(file, path)?;
    let mut found = BTreeSet::new();
    each_tensor_mut(&mut model.proto, &mut |tensor| {
        let entries = tensor.external_data.iter().filter(|_| is_external(tensor));
        let named = entries.filter(|e| e.key() == "location").map(|e| e.value().trim());
        found.extend(named.filter(|l| !l.is_empty() && stays_inside(l)).map(str::to_owned));
        Ok(())
    })?;
    Ok(found.into_iter().collect())
}

/// Whether a location names something in the model's folder, as far as its text tells.
fn stays_inside(location: &str) -> bool {
    Path::new(location).components().all(|c| matches!(c, Component::Normal(_) | Component::CurDir))
}

/// Files by the location that the model gives.
pub(super) type Files = Vec<(String, Bytes)>;

/// Maps the external data of every tensor and puts it into `raw_data`. Returns the files; `None` when no tensor is outside.
pub(super) fn resolve(proto: &mut ModelProto, folder: &Path, limits: Limits) -> Result<Option<Files>, ModelError> {
    let mut reader = Reader { folder, canonical: None, files: BTreeMap::new(), total: 0, limits };
    let mut found = false;
    each_tensor_mut(proto, &mut |tensor| {
        if is_external(tensor) {
            found = true;
            reader.read(tensor)?;
        }
        Ok(())
    })?;
    Ok(found.then(|| reader.files.into_iter().collect()))
}

struct Reader<'a> {
    folder: &'a Path,
    canonical: Option<PathBuf>,
    files: BTreeMap<String, Bytes>,
    total: u64,
    limits: Limits,
}

impl Reader<'_> {
    fn read(&mut self, tensor: &mut TensorProto) -> Result<(), ModelError> {
        let name = tensor.name().to_owned();
        let bad = |detail: String| ModelError::ExternalData { name: name.clone(), detail };
        let entry = |key: &str| tensor.external_data.iter().find(|e| e.key() == key).map(|e| e.value().trim());
        let number = |key: &str| {
            let parse =
                |v: &str| v.parse::<u64>().map_err(|_| bad(format!("its {key} '{v}' is not a number of bytes")));
            entry(key).map(parse).transpose()
        };
        let location = entry("location")
            .filter(|l| !l.is_empty())
            .ok_or_else(|| bad("it names no location".to_owned()))?
            .to_owned();
        let offset = number("offset")?.unwrap_or(0);
        let length = number("length")?.filter(|&l| l != 0);
        let expected = verify::expected_bytes(tensor)?;
        let file = self.file(&location).map_err(bad)?;
        let size = file.len() as u64;
        let length = length.or(expected).unwrap_or_else(|| size.saturating_sub(offset));
        let end = offset.checked_add(length).filter(|&end| end <= size);
        let Some(end) = end else {
            return Err(bad(format!(
                "bytes {offset} to {} of '{location}' are needed, but the file has {size}",
                u128::from(offset) + u128::from(length)
            )));
        };
        if let Some(expected) = expected.filter(|&e| e != length) {
            return Err(bad(format!("its shape needs {expected} bytes, but {length} are given")));
        }
        self.total = self.total.saturating_add(length);
        if self.total > self.limits.external_bytes {
            return Err(ModelError::ExternalLimit { needed: self.total, limit: self.limits.external_bytes });
        }
        tensor.raw_data = Some(file.slice(offset as usize..end as usize));
        tensor.external_data.clear();
        tensor.data_location = None;
        Ok(())
    }

    fn file(&mut self, location: &str) -> Result<Bytes, String> {
        if let Some(bytes) = self.files.get(location) {
            return Ok(bytes.clone());
        }
        let relative = Path::new(location);
        if !stays_inside(location) {
            return Err(format!("its location '{location}' leaves the model's folder"));
        }
        if self.canonical.is_none() {
            self.canonical =
                Some(self.folder.canonicalize().map_err(|e| format!("cannot open the model's folder: {e}"))?);
        }
        let folder = self.canonical.as_deref().unwrap_or(self.folder);
        let path = folder.join(relative).canonicalize().map_err(|e| format!("cannot open '{location}': {e}"))?;
        if !path.starts_with(folder) {
            return Err(format!("its location '{location}' is a link that leaves the model's folder"));
        }
        let bytes = mapped::map(&path).map_err(|e| format!("cannot open '{location}': {e}"))?;
        self.files.insert(location.to_owned(), bytes.clone());
        Ok(bytes)
    }
}

type Visit<'a> = dyn FnMut(&mut TensorProto) -> Result<(), ModelError> + 'a;

/// Visits every tensor of a model: initializers and attributes, in subgraphs and functions too.
fn each_tensor_mut(proto: &mut ModelProto, visit: &mut Visit<'_>) -> Result<(), ModelError> {
    if let Some(graph) = &mut proto.graph {
        in_graph(graph, visit)?;
    }
    proto.functions.iter_mut().flat_map(|f| &mut f.node).try_for_each(|node| in_node(node, visit))
}

fn in_graph(graph: &mut GraphProto, visit: &mut Visit<'_>) -> Result<(), ModelError> {
    graph.initializer.iter_mut().try_for_each(&mut *visit)?;
    graph.sparse_initializer.iter_mut().try_for_each(|s| in_sparse(s, visit))?;
    graph.node.iter_mut().try_for_each(|node| in_node(node, visit))
}

fn in_node(node: &mut NodeProto, visit: &mut Visit<'_>) -> Result<(), ModelError> {
    for attribute in &mut node.attribute {
        attribute.t.iter_mut().chain(&mut attribute.tensors).try_for_each(&mut *visit)?;
        attribute
            .sparse_tensor
            .iter_mut()
            .chain(&mut attribute.sparse_tensors)
            .try_for_each(|s| in_sparse(s, visit))?;
        attribute.g.iter_mut().chain(&mut attribute.graphs).try_for_each(|g| in_graph(g, visit))?;
    }
    Ok(())
}

fn in_sparse(sparse: &mut SparseTensorProto, visit: &mut Visit<'_>) -> Result<(), ModelError> {
    sparse.values.iter_mut().chain(&mut sparse.indices).try_for_each(visit)
}
