//! Taps as operators of our own in ONNX Runtime's graph: each sees its tensor right behind the node that computes it, while it is in the processor's caches and
//! before its memory is used again. As outputs, all of them would have to be kept until the run is over, and be fetched from memory once more.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Mutex, PoisonError};

use ::ort::operator::{
    BoxedKernel, ComputeContext, KernelContext, Operator, OperatorDomain, OperatorInput, OperatorOutput,
};
use ::ort::value::TensorElementType;

use super::session::OnnxRuntimeSession;
use crate::engine::tapped::{Apart, observer};
use crate::engine::{EngineError, Feed, Session, Watcher};
use crate::model::build::Builder;
use crate::model::{DType, Model, Tensor};

/// The operator `observer::OP`: shows its input to a watcher. Its output, one number, is there because ONNX Runtime drops what nobody reads.
pub(super) struct Observe(Watcher);

impl Observe {
    /// The domain that it is registered in.
    pub(super) fn domain(watcher: Watcher) -> ::ort::Result<OperatorDomain> {
        OperatorDomain::new(observer::DOMAIN)?.add(Self(watcher))
    }
}

/// Whether ONNX Runtime knows the domain.
static KNOWN: Mutex<bool> = Mutex::new(false);

/// Loads the smallest graph with an observer, once. ONNX Runtime refuses one of two sessions that bring a new domain at the same time.
pub(super) fn register(load: impl FnOnce(&Model) -> Result<(), EngineError>) -> Result<(), EngineError> {
    let mut known = KNOWN.lock().unwrap_or_else(PoisonError::into_inner);
    if !*known {
        let smallest = Builder::new(13).input("x", DType::F32, &["1"]).node("Abs", &["x"], "y", vec![]);
        load(&smallest.output("y", DType::F32, &["1"]).build())?;
        *known = true;
    }
    Ok(())
}

impl Operator for Observe {
    type Kernel<'a> = BoxedKernel<'a>;

    fn name(&self) -> &str {
        observer::OP
    }

    /// One tensor, of any element type: nobody has to know which before the model runs.
    fn inputs(&self) -> impl IntoIterator<Item = OperatorInput> {
        [OperatorInput::variadic(1)]
    }

    fn outputs(&self) -> impl IntoIterator<Item = OperatorOutput> {
        [OperatorOutput::required(TensorElementType::Float32)]
    }

    fn create_kernel<'a>(&self, node: &KernelContext<'a>) -> ::ort::Result<Self::Kernel<'a>> {
        let tap = node.get::<i64>(observer::TAP).and_then(|tap| usize::try_from(tap).ok());
        let tap = tap.ok_or_else(|| ::ort::Error::new("an observer without a number"))?;
        let watcher = self.0.clone();
        Ok(Box::new(move |context: &ComputeContext| {
            let input = context.input(0)?.ok_or_else(|| ::ort::Error::new("an observer without a tensor"))?;
            if input.dtype().tensor_type() == Some(TensorElementType::Float32) {
                let (shape, values) = input.try_extract_tensor::<f32>()?;
                let shape: Vec<usize> = shape.iter().map(|&dim| usize::try_from(dim).unwrap_or_default()).collect();
                // A panic must not cross into a library of another language.
                catch_unwind(AssertUnwindSafe(|| watcher.show(tap, &shape, values)))
                    .map_err(|_| ::ort::Error::new("whoever looked at a tensor failed"))?;
            }
            let mut output = context.output(0, [1_i64])?.ok_or_else(|| ::ort::Error::new("no room for a number"))?;
            output.try_extract_tensor_mut::<f32>()?.1.fill(0.0);
            Ok(())
        }))
    }
}

/// A session whose graph has observers.
pub(super) struct Watching {
    pub(super) session: OnnxRuntimeSession,
    /// Number of outputs of the model; behind them are those of the observers.
    pub(super) outputs: usize,
    /// Taps that no node computes.
    pub(super) apart: Vec<(usize, Apart)>,
    pub(super) watcher: Watcher,
}

impl Session for Watching {
    fn run(&mut self, feed: &Feed) -> Result<Vec<Tensor>, EngineError> {
        let mut outputs = self.session.run(feed)?;
        outputs.truncate(self.outputs);
        for (tap, source) in &self.apart {
            self.watcher.show_tensor(*tap, source.value(feed).map_err(EngineError::Data)?);
        }
        Ok(outputs)
    }
}
