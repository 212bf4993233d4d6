//! The hidden `bakehouse probe`: the fresh process of a bake.

use super::args::ProbeArgs;
use super::{Failure, json, print};
use crate::api::bakejob::Runtime;
use crate::bake::probe::{self, Request, WeightsRequest};

pub(super) fn run(args: &ProbeArgs) -> Result<u8, Failure> {
    if let Some(weights) = &args.weights {
        let seen = probe::run_weights(&WeightsRequest { model: args.model.clone(), weights: weights.clone() })?;
        return print(&json(&seen)?);
    }
    let Some(data) = &args.data else { return Err(Failure::usage("probe needs --data or --weights")) };
    let runtime = match args.runtime.as_str() {
        "onnxruntime" => Runtime::OnnxRuntime,
        "bakehouse" => Runtime::Bakehouse,
        other => return Err(Failure::usage(format!("there is no runtime '{other}'; use onnxruntime or bakehouse"))),
    };
    let seen = probe::run(&Request {
        model: args.model.clone(),
        data: data.clone(),
        samples: args.samples,
        runtime,
        ort_lib: args.ort_lib.clone(),
        threads: args.threads,
    })?;
    print(&json(&seen)?)
}
