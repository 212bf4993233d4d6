//! ONNX Runtime, loaded at run time from a shared library; nothing is linked, and without the library everything else still works.

mod library;
mod session;
mod spill;
mod values;
mod watch;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use ::ort::ErrorCode;
use ::ort::session::Session as OrtSession;
use ::ort::session::builder::{GraphOptimizationLevel, SessionBuilder};
use ::ort::value::{TensorElementType, ValueType};

use self::library::Library;
use self::session::OnnxRuntimeSession;
use super::tapped::{Tapped, Watched};
use super::{Engine, EngineError, EngineId, LoadOptions, Session, Watcher, is_big};
use crate::model::{Model, laid, mapped};
use crate::signals::HeldFolder;

/// ONNX Runtime on the CPU. Cheap to clone; all instances of a process share one library and one environment.
#[derive(Clone)]
pub struct OrtEngine {
    id: EngineId,
    loaded: Arc<Library>,
}

impl std::fmt::Debug for OrtEngine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "OrtEngine({} at {})", self.id, self.loaded.path.display())
    }
}

impl OrtEngine {
    /// Opens the library. Looks at `explicit`, else `BAKEHOUSE_ORT_LIB`, else `ORT_DYLIB_PATH` (each a file or a folder; a value that does not lead to a
    /// library is an error), else the usual places: the cache that `make ort` fills, beside the executable and in its `../lib`, Python environments, the
    /// system's library folders.
    ///
    /// A process can load one library only: a later call with another path is refused.
    pub fn open(explicit: Option<&Path>) -> Result<Self, EngineError> {
        let loaded = library::open(explicit)?;
        Ok(Self { id: EngineId { name: "onnxruntime".to_owned(), version: loaded.version.clone() }, loaded })
    }

    /// The library's file.
    pub fn path(&self) -> &Path {
        &self.loaded.path
    }

    /// The graph as ONNX Runtime rewrote it for this machine. Its nodes are what really runs; some are of ONNX Runtime's own domains.
    pub fn optimised_graph(&self, model: &Model) -> Result<Model, EngineError> {
        let dir = self.temp_dir()?;
        let path = dir.path().join("optimised.onnx");
        let builder = self.builder(&LoadOptions::default()).and_then(|b| Ok(b.with_optimized_model_path(&path)?));
        let files = is_big(model).then_some(&dir);
        self.commit(&mut builder.map_err(|e| self.refused(&e))?, model, files)?;
        Model::load(&path).map_err(|e| self.run_error(e.to_string()))
    }

    /// Loads a model file without reading it into this process first; what a deployed runtime would do, and what a measurement of memory wants.
    /// No taps.
    pub fn load_file(&self, path: &Path, options: &LoadOptions) -> Result<Box<dyn Session>, EngineError> {
        let session = self.builder(options).and_then(|mut b| b.commit_from_file(path)).map_err(|e| self.refused(&e))?;
        self.check_outputs(&session, usize::MAX)?;
        Ok(Box::new(OnnxRuntimeSession::new(self.id.to_string(), session, None, None)))
    }

    fn builder(&self, options: &LoadOptions) -> ::ort::Result<SessionBuilder> {
        // The memory arena stays on, ONNX Runtime's default: off, peak memory moved by -3 % to +4 % and CPU time by -1 to +6 % over five models, so there is nothing to
        // win by measuring another configuration than a deployment runs.
        // `All`, not `Level3`: libraries before 1.23 know no level between 2 and all.
        let level = if options.optimise { GraphOptimizationLevel::All } else { GraphOptimizationLevel::Disable };
        Ok(OrtSession::builder(&self.loaded.environment)?
            .with_optimization_level(level)?
            .with_intra_threads(options.threads.max(1))?
            .with_inter_threads(1)?
            // A spinning worker burns a core between runs and would be charged to whatever is measured next.
            .with_intra_op_spinning(false)?
            .with_inter_op_spinning(false)?
            // Every failure comes back as an error; the library's own lines on stderr would only repeat it.
            .with_log_level(::ort::logging::LogLevel::Fatal)?)
    }

    /// Commits from memory, or through files in a folder, which must outlive the session: there ONNX Runtime maps the weights. Read from one message, a model
    /// takes several times its size for a while, and protobuf stops at 2 GiB.
    fn commit(
        &self,
        builder: &mut SessionBuilder,
        model: &Model,
        files: Option<&HeldFolder>,
    ) -> Result<OrtSession, EngineError> {
        let refused = |e: ::ort::Error| self.refused(&e);
        let Some(dir) = files else {
            let bytes = model.to_bytes();
            // They are in the message now.
            laid::put_down(model);
            return builder.commit_from_memory(&bytes).map_err(refused);
        };
        let path: PathBuf = spill::write(model, dir.path())
            .map_err(|detail| self.run_error(format!("{detail}. Give the temporary folder (TMPDIR) more room.")))?;
        mapped::release();
        let session = builder.commit_from_file(path).map_err(refused)?;
        // What was needed on the way is not needed any more.
        mapped::release();
        Ok(session)
    }

    /// A session with an observer of each tap.
    fn observed(&self, model: &Model, taps: &[String], watcher: &Watcher) -> Result<watch::Watching, EngineError> {
        let outputs = model.graph().output.len();
        let Watched { model, apart } = Watched::new(model, taps).map_err(|detail| self.run_error(detail))?;
        let builder = self.builder(&LoadOptions::default());
        let builder = builder.and_then(|b| Ok(b.with_operators(watch::Observe::domain(watcher.clone())?)?));
        let (session, dir) = self.committed(builder.map_err(|e| self.refused(&e))?, &model, outputs)?;
        let session = OnnxRuntimeSession::new(self.id.to_string(), session, None, dir);
        Ok(watch::Watching { session, outputs, apart, watcher: watcher.clone() })
    }

    /// A session of a model of whose outputs the first are its own, and the folder that has to outlive it.
    fn committed(
        &self,
        mut builder: SessionBuilder,
        model: &Model,
        own: usize,
    ) -> Result<(OrtSession, Option<HeldFolder>), EngineError> {
        let dir = is_big(model).then(|| self.temp_dir()).transpose()?;
        let session = self.commit(&mut builder, model, dir.as_ref())?;
        self.check_outputs(&session, own)?;
        Ok((session, dir))
    }

    fn temp_dir(&self) -> Result<HeldFolder, EngineError> {
        HeldFolder::temporary().map_err(|e| {
            self.run_error(format!("no temporary folder can be made: {e}. Set TMPDIR to a writable folder."))
        })
    }

    fn run_error(&self, detail: String) -> EngineError {
        EngineError::Run { engine: self.id.to_string(), detail }
    }

    /// Text and sequences cannot be compared by number, so a model that returns them is refused when it is loaded rather than after the first run.
    fn check_outputs(&self, session: &OrtSession, own: usize) -> Result<(), EngineError> {
        for output in session.outputs().iter().take(own) {
            let what = match output.dtype() {
                ValueType::Tensor { ty: TensorElementType::String, .. } => "text",
                ValueType::Tensor { .. } => continue,
                ValueType::Sequence(_) => "a sequence",
                ValueType::Map { .. } => "a map",
                ValueType::Optional(_) => "an optional value",
            };
            return Err(EngineError::Unsupported {
                engine: self.id.to_string(),
                detail: format!("output '{}' is {what}; only tensors of numbers can be compared", output.name()),
                hint: "Export the model without it (for scikit-learn models: zipmap=False and the probabilities only)."
                    .to_owned(),
            });
        }
        Ok(())
    }

    /// An error while loading. The message of ONNX Runtime names operator and node.
    fn refused(&self, error: &::ort::Error) -> EngineError {
        let detail = one_line(error.message());
        let missing_op = error.code() == ErrorCode::NotImplemented
            || detail.contains("is not a registered function/op")
            || detail.contains("No Op registered");
        let hint = if missing_op {
            "Export the model with operators of the standard opsets, or choose the other engine (runtime: Bakehouse)."
        } else {
            "Check the model with the exporter's own checker, or choose the other engine (runtime: Bakehouse)."
        };
        EngineError::Unsupported { engine: self.id.to_string(), detail, hint: hint.to_owned() }
    }
}

impl Engine for OrtEngine {
    fn id(&self) -> &EngineId {
        &self.id
    }

    fn load(&self, model: &Model, options: &LoadOptions) -> Result<Box<dyn Session>, EngineError> {
        let Tapped { model, order } = Tapped::new(model, &options.taps).map_err(|detail| self.run_error(detail))?;
        let builder = self.builder(options).map_err(|e| self.refused(&e))?;
        let (session, dir) = self.committed(builder, &model, order.outputs)?;
        Ok(Box::new(OnnxRuntimeSession::new(self.id.to_string(), session, Some(order), dir)))
    }

    fn watch(&self, model: &Model, taps: Vec<String>, watcher: Watcher) -> Result<Box<dyn Session>, EngineError> {
        watch::register(|smallest| self.observed(smallest, &["y".to_owned()], &watcher).map(drop))?;
        Ok(Box::new(self.observed(model, &taps, &watcher)?))
    }
}

/// ONNX Runtime's message on one line and without the source paths that it carries, at most 400 characters.
fn one_line(message: &str) -> String {
    let words: Vec<&str> = message.split_whitespace().filter(|w| !w.contains("/onnxruntime_src/")).collect();
    let mut line = words.join(" ").trim_end_matches(['.', ' ']).to_owned();
    if let Some((cut, _)) = line.char_indices().nth(400) {
        line.truncate(cut);
        line.push('…');
    }
    line
}
