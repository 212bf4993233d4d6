//! `inspect`, `compare`, `verify` and the hidden `probe`.

use super::args::{CompareArgs, InspectArgs, ProbeArgs, VerifyArgs};
use super::{Failure, print};
use crate::api::Reason;
use crate::api::bakejob::Runtime;
use crate::bake::probe::{self, Request};

/// `bakehouse probe`: the fresh process of a bake.
pub(super) fn probe(args: &ProbeArgs) -> Result<u8, Failure> {
    let runtime = match args.runtime.as_str() {
        "onnxruntime" => Runtime::OnnxRuntime,
        "bakehouse" => Runtime::Bakehouse,
        other => return Err(Failure::usage(format!("there is no runtime '{other}'; use onnxruntime or bakehouse"))),
    };
    let seen = probe::run(&Request {
        model: args.model.clone(),
        data: args.data.clone(),
        samples: args.samples,
        runtime,
        ort_lib: args.ort_lib.clone(),
        threads: args.threads,
    })?;
    print(&serde_json::to_string(&seen).map_err(|e| Failure::new(Reason::Internal, e))?)
}
pub(super) fn inspect(_: &InspectArgs) -> Result<u8, Failure> { Ok(0) }
pub(super) fn compare(_: &CompareArgs) -> Result<u8, Failure> { Ok(0) }
pub(super) fn verify(_: &VerifyArgs) -> Result<u8, Failure> { Ok(0) }
pub(super) fn report_schema() -> Result<u8, Failure> { Ok(0) }
