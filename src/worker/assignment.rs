//! From an assignment to a job on this machine: claims are folders, and the device is decided.

use std::path::Path;

use crate::api::bakejob::Device;
use crate::api::digest::spec_digest;
use crate::api::wire::{Assignment, GivenDevice, PVC_ROOT};
use crate::api::{BakeJob, BakeJobSpec, JobError, ResolvedJob, support};
use crate::bake::passes;

/// Settles the job. What is not built is refused by name, as in a shell.
pub(super) fn resolve(assignment: &Assignment) -> Result<ResolvedJob, JobError> {
    let file = Path::new("/assignment");
    let job = BakeJob::new(&assignment.name, on_this_machine(assignment));
    let refusals = support::refusals(&job, &passes::names());
    if refusals.is_empty() {
        // What decides the artifact is the spec as it was written, not what became of it on this machine.
        Ok(ResolvedJob { spec_digest: spec_digest(&assignment.spec), ..ResolvedJob::resolve(&job, file)? })
    } else {
        Err(JobError::NotBuilt { file: file.to_owned(), job: assignment.name.clone(), refusals })
    }
}

fn on_this_machine(assignment: &Assignment) -> BakeJobSpec {
    let mut spec = assignment.spec.clone();
    for uri in spec.uris_mut() {
        if let Some(rest) = uri.strip_prefix("pvc://") {
            *uri = format!("{PVC_ROOT}/{rest}");
        }
    }
    // The controller has chosen: a pod without a GPU bakes for the processor.
    if assignment.device == GivenDevice::Cpu {
        spec.hardware.device = Device::Cpu;
        spec.hardware.gpu = None;
    }
    spec
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::api::wire::Task;

    fn assignment(source: &str, device: GivenDevice) -> Assignment {
        let mut spec = BakeJobSpec::new(source, "/data/v.npz", "pvc://out/cnn");
        spec.hardware.device = Device::Cuda;
        Assignment {
            task: Task::Bake,
            name: "cnn".into(),
            namespace: "ml".into(),
            uid: "u".into(),
            run: 1,
            attempt: 1,
            low_memory: false,
            device,
            gate_floors: Vec::new(),
            cache: None,
            candidate: None,
            spec,
        }
    }

    #[test]
    fn claims_are_folders_and_the_device_is_decided() {
        let job = resolve(&assignment("pvc://models/a/b.onnx", GivenDevice::Cpu)).unwrap();
        assert_eq!(job.source.path, Path::new("/bakehouse/pvc/models/a/b.onnx"));
        assert_eq!(job.output, Path::new("/bakehouse/pvc/out/cnn"));
        assert_eq!(job.device, Device::Cpu);
        let spec = assignment("pvc://models/a/b.onnx", GivenDevice::Cpu).spec;
        assert_eq!(job.spec_digest, spec_digest(&spec), "the report speaks of the spec that the status speaks of");
    }

    #[test]
    fn what_is_not_built_is_refused_by_name() {
        let message = resolve(&assignment("oci://models/a.onnx", GivenDevice::Cuda)).unwrap_err().to_string();
        assert!(message.contains("spec.source.uri") && message.contains("spec.hardware.device"), "{message}");
    }
}
