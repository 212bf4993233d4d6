//! The hidden `bakehouse probe`: the fresh process of a bake.

use super::args::ProbeArgs;
use super::{Failure, json, print};
use crate::api::bakejob::Runtime;
use crate::bake::BakeError;
use crate::bake::probe::{self, Request, WeightsRequest};

pub(super) fn run(args: &ProbeArgs) -> Result<u8, Failure> {
    if let Some(weights) = &args.weights {
        let seen = probe::run_weights(&WeightsRequest { model: args.model.clone(), weights: weights.clone() })?;
        return print(&json(&seen)?);
    }
    if args.layout {
        let layout = crate::package::oci::open(&args.model).map_err(|why| {
            BakeError::Reload(format!("{} is no sound OCI image layout: {why}", args.model.display()))
        })?;
        return print(&json(&layout.files)?);
    }
    let Some(data) = &args.data else { return Err(Failure::usage("probe needs --data or --weights")) };
    #[cfg(feature = "tract")]
    if let Some(nnef) = &args.nnef {
        let request = probe::NnefRequest {
            model: args.model.clone(),
            nnef: nnef.clone(),
            data: data.clone(),
            samples: args.samples,
        };
        return print(&json(&probe::run_nnef(&request)?)?);
    }
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
