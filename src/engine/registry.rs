//! Which engines are there, and which of them runs a model.

use std::path::Path;
use std::sync::Arc;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{EngineError, Feed, LoadOptions, SharedEngine};
use crate::api::bakejob::Runtime;
use crate::model::Model;

/// One backend, there or not. An absent one is listed, never left out.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct BackendStatus {
    /// `onnxruntime`, `tract`, `cuda` or `tensorrt`.
    pub name: String,
    /// Whether it can be used.
    pub available: bool,
    /// Its version, when it is there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<String>,
    /// Where it was found, or why it cannot be used.
    pub detail: String,
}

/// The engine that a bake runs on.
#[derive(Clone)]
pub struct Selected {
    /// The engine.
    pub engine: SharedEngine,
    /// Which of the two kinds it is.
    pub runtime: Runtime,
    /// Sentences for the report: why it is not the one that was asked for.
    pub notes: Vec<String>,
}

/// One kind of engine: itself, or why it is not there.
struct Slot {
    runtime: Runtime,
    engine: Result<SharedEngine, EngineError>,
}

/// The engines of this process.
pub struct Engines {
    /// ONNX Runtime first: where its library is, it is the one that a deployment most likely uses.
    slots: Vec<Slot>,
    backends: Vec<BackendStatus>,
    #[cfg(feature = "ort")]
    onnx_runtime: Option<super::ort::OrtEngine>,
}

impl std::fmt::Debug for Engines {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(&self.backends).finish()
    }
}

impl Engines {
    /// Looks for every backend. `ort_lib` names ONNX Runtime's library, a file or a folder; `None` leaves it to the environment and the usual places. Nothing
    /// is an error here: what is missing is listed with its reason.
    pub fn discover(ort_lib: Option<&Path>) -> Self {
        let mut backends = Vec::new();
        #[cfg(feature = "ort")]
        let (onnx_runtime, slot) = match super::ort::OrtEngine::open(ort_lib) {
            Ok(engine) => {
                backends.push(there(&engine, format!("loaded from {}", engine.path().display())));
                (Some(engine.clone()), Ok(Arc::new(engine) as SharedEngine))
            }
            Err(error) => {
                backends.push(absent("onnxruntime", reason_of(&error)));
                (None, Err(error))
            }
        };
        #[cfg(not(feature = "ort"))]
        let slot = {
            let _ = ort_lib;
            backends.push(absent("onnxruntime", "not part of this build"));
            Err(not_built("ONNX Runtime"))
        };
        let mut slots = vec![Slot { runtime: Runtime::OnnxRuntime, engine: slot }];

        #[cfg(feature = "tract")]
        let slot = {
            let engine: SharedEngine = Arc::new(super::tract::TractEngine::new());
            backends.push(there(&*engine, "embedded".to_owned()));
            Ok(engine)
        };
        #[cfg(not(feature = "tract"))]
        let slot = {
            backends.push(absent("tract", "not part of this build"));
            Err(not_built("tract"))
        };
        slots.push(Slot { runtime: Runtime::Bakehouse, engine: slot });

        backends.push(absent("cuda", "this version runs on the CPU only"));
        backends.push(absent("tensorrt", "this version runs on the CPU only"));
        Self {
            slots,
            backends,
            #[cfg(feature = "ort")]
            onnx_runtime,
        }
    }

    /// Every backend, there or not.
    pub fn backends(&self) -> &[BackendStatus] {
        &self.backends
    }

    /// ONNX Runtime's library, where it was loaded.
    pub fn onnx_runtime_file(&self) -> Option<&Path> {
        #[cfg(feature = "ort")]
        return self.onnx_runtime.as_ref().map(super::ort::OrtEngine::path);
        #[cfg(not(feature = "ort"))]
        None
    }

    /// The engine of this kind, or why it is not there.
    pub fn get(&self, runtime: Runtime) -> Result<SharedEngine, EngineError> {
        let gone =
            |detail: &str| EngineError::Unavailable { name: name_of(runtime).to_owned(), detail: detail.to_owned() };
        let slot =
            self.slots.iter().find(|s| s.runtime == runtime).ok_or_else(|| gone("it is not part of this build"))?;
        slot.engine.as_ref().cloned().map_err(|error| gone(reason_of(error)))
    }

    /// The graph as ONNX Runtime would run it after its own optimisation, when that engine is there.
    pub fn optimised_graph(&self, model: &Model) -> Option<Result<Model, EngineError>> {
        #[cfg(feature = "ort")]
        return self.onnx_runtime.as_ref().map(|engine| engine.optimised_graph(model));
        #[cfg(not(feature = "ort"))]
        {
            let _ = model;
            None
        }
    }

    /// The engine to bake `model` with: `runtime`, else ONNX Runtime where it is there, else the embedded one. An engine is taken only if it loads the model and
    /// runs the first feed; otherwise the other one is tried, and a note says why. If none can, the error says what each of them said.
    pub fn select(&self, model: &Model, feeds: &[Feed], runtime: Option<Runtime>) -> Result<Selected, EngineError> {
        let feed = feeds
            .first()
            .ok_or_else(|| EngineError::Data("there is no sample to try the model on. Give data.".to_owned()))?;
        let mut order: Vec<&Slot> = self.slots.iter().collect();
        order.sort_by_key(|slot| runtime.is_some_and(|wanted| wanted != slot.runtime));
        let mut notes = Vec::new();
        let mut refusals = Vec::new();
        for slot in order {
            let engine = match &slot.engine {
                Ok(engine) => engine,
                Err(error) => {
                    // Without a wish, the embedded engine in place of an absent library is the rule, and the list of backends says so.
                    if runtime == Some(slot.runtime) {
                        notes.push(format!(
                            "The job asks for {}, which is not available ({}).",
                            name_of(slot.runtime),
                            reason_of(error)
                        ));
                    }
                    refusals.push((
                        name_of(slot.runtime).to_owned(),
                        EngineError::Unavailable { name: String::new(), detail: reason_of(error).to_owned() },
                    ));
                    continue;
                }
            };
            match engine.load(model, &LoadOptions::default()).and_then(|mut session| session.run(feed)) {
                Ok(_) => {
                    if !notes.is_empty() {
                        notes.push(format!("Every figure is measured on {} instead.", engine.id()));
                    }
                    return Ok(Selected { engine: engine.clone(), runtime: slot.runtime, notes });
                }
                Err(error) => {
                    notes.push(format!("{} does not run this model: {}", engine.id(), sentence(&error.to_string())));
                    refusals.push((engine.id().to_string(), error));
                }
            }
        }
        // A sample that does not fit is no fault of an engine, whatever the other one said about it.
        if let Some(at) = refusals.iter().position(|(_, e)| matches!(e, EngineError::Data(_))) {
            return Err(refusals.swap_remove(at).1);
        }
        let said: Vec<String> = refusals.iter().map(|(name, error)| format!("{name}: {}", reason_of(error))).collect();
        Err(EngineError::NoEngine { said: said.join("; ") })
    }
}

fn name_of(runtime: Runtime) -> &'static str {
    match runtime {
        Runtime::OnnxRuntime => "ONNX Runtime",
        Runtime::Bakehouse => "the embedded engine (tract)",
    }
}

/// What an error says without the words that the caller adds itself.
fn reason_of(error: &EngineError) -> &str {
    match error {
        EngineError::Unsupported { detail, .. }
        | EngineError::Run { detail, .. }
        | EngineError::Unavailable { detail, .. }
        | EngineError::Data(detail)
        | EngineError::NoEngine { said: detail } => detail,
    }
}

fn sentence(text: &str) -> String {
    if text.ends_with('.') { text.to_owned() } else { format!("{text}.") }
}

fn absent(name: &str, why: &str) -> BackendStatus {
    BackendStatus { name: name.to_owned(), available: false, version: None, detail: why.to_owned() }
}

#[cfg(any(feature = "ort", feature = "tract"))]
fn there(engine: &dyn super::Engine, detail: String) -> BackendStatus {
    let id = engine.id();
    BackendStatus { name: id.name.clone(), available: true, version: Some(id.version.clone()), detail }
}

#[cfg(not(all(feature = "ort", feature = "tract")))]
fn not_built(name: &str) -> EngineError {
    EngineError::Unavailable { name: name.to_owned(), detail: "it is not part of this build".to_owned() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::engine::{Engine, EngineId, Session};
    use crate::model::Tensor;
    use crate::model::build::Builder;

    /// An engine that says what it was told to say.
    struct Scripted(EngineId, fn() -> Result<Vec<Tensor>, EngineError>);

    impl Engine for Scripted {
        fn id(&self) -> &EngineId {
            &self.0
        }
        fn load(&self, _: &Model, _: &LoadOptions) -> Result<Box<dyn Session>, EngineError> {
            Ok(Box::new(ScriptedSession(self.1)))
        }
    }

    struct ScriptedSession(fn() -> Result<Vec<Tensor>, EngineError>);

    impl Session for ScriptedSession {
        fn run(&mut self, _: &Feed) -> Result<Vec<Tensor>, EngineError> {
            self.0()
        }
    }

    type Script = fn() -> Result<Vec<Tensor>, EngineError>;
    const RUNS: Script = || Ok(Vec::new());
    const LACKS: Script = || {
        Err(EngineError::Unsupported {
            engine: "e 1".into(),
            detail: "no operator Levitate".into(),
            hint: "Use another.".into(),
        })
    };
    const MISFIT: Script = || Err(EngineError::Data("input 'x' is too long".into()));

    fn engines(onnx_runtime: Option<Script>, embedded: Option<Script>) -> Engines {
        let slot = |runtime, name: &str, script: Option<Script>| Slot {
            runtime,
            engine: match script {
                Some(script) => {
                    Ok(Arc::new(Scripted(EngineId { name: name.into(), version: "1".into() }, script)) as SharedEngine)
                }
                None => Err(EngineError::Unavailable { name: name.into(), detail: "not found".into() }),
            },
        };
        Engines {
            slots: vec![
                slot(Runtime::OnnxRuntime, "onnxruntime", onnx_runtime),
                slot(Runtime::Bakehouse, "tract", embedded),
            ],
            backends: Vec::new(),
            #[cfg(feature = "ort")]
            onnx_runtime: None,
        }
    }

    fn select(engines: &Engines, wish: Option<Runtime>) -> Result<(String, Vec<String>), EngineError> {
        let model = Builder::new(17).build();
        engines.select(&model, &[Feed::default()], wish).map(|s| (s.engine.id().name.clone(), s.notes))
    }

    #[test]
    fn onnx_runtime_is_the_default_and_a_wish_is_followed() {
        let both = engines(Some(RUNS), Some(RUNS));
        assert_eq!(select(&both, None).unwrap(), ("onnxruntime".into(), vec![]));
        assert_eq!(select(&both, Some(Runtime::Bakehouse)).unwrap(), ("tract".into(), vec![]));
        assert_eq!(select(&engines(None, Some(RUNS)), None).unwrap(), ("tract".into(), vec![]));
    }

    #[test]
    fn the_other_engine_steps_in_with_a_note() {
        for (engines, wish, name, said) in [
            (engines(Some(LACKS), Some(RUNS)), None, "tract", "no operator Levitate"),
            (engines(Some(RUNS), Some(LACKS)), Some(Runtime::Bakehouse), "onnxruntime", "no operator Levitate"),
            (engines(None, Some(RUNS)), Some(Runtime::OnnxRuntime), "tract", "not available (not found)"),
            (engines(Some(MISFIT), Some(RUNS)), None, "tract", "too long"),
        ] {
            let (chosen, notes) = select(&engines, wish).unwrap();
            assert_eq!(chosen, name);
            assert!(notes[0].contains(said) && notes[1].contains("instead"), "{notes:?}");
        }
    }

    #[test]
    fn when_none_can_the_error_names_what_each_said() {
        let message = select(&engines(Some(LACKS), None), None).unwrap_err().to_string();
        assert!(
            message.contains("onnxruntime 1: no operator Levitate") && message.contains("(tract): not found"),
            "{message}"
        );
        let error = select(&engines(Some(MISFIT), Some(LACKS)), None).unwrap_err();
        assert_eq!(error.reason().exit_code(), 12, "{error}");
        assert!(matches!(engines(None, None).select(&Builder::new(17).build(), &[], None), Err(EngineError::Data(_))));
    }

    #[test]
    fn an_absent_backend_is_listed_with_its_reason() {
        let engines = Engines::discover(Some(Path::new("/nowhere/libonnxruntime.so")));
        let names: Vec<&str> = engines.backends().iter().map(|b| b.name.as_str()).collect();
        assert_eq!(names, ["onnxruntime", "tract", "cuda", "tensorrt"]);
        for backend in engines.backends().iter().filter(|b| !b.available) {
            assert!(!backend.detail.is_empty() && backend.version.is_none(), "{backend:?}");
        }
        assert!(!engines.backends()[0].available);
        assert!(engines.get(Runtime::OnnxRuntime).is_err());
    }
}
