//! How a worker reaches its files: Secrets and ConfigMaps by name, which only the kubelet reads, and claims that `pvc://` URIs name.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::{
    ConfigMapVolumeSource, EnvFromSource, EnvVar, KeyToPath, PersistentVolumeClaimVolumeSource, SecretEnvSource,
    Volume, VolumeMount,
};

use super::pod::mount;
use crate::api::BakeJobSpec;
use crate::api::wire::{CA_FILE, PVC_ROOT};
use crate::operator::validate::claim;

/// What storage adds to a pod.
pub(super) struct Mounted {
    pub(super) volumes: Vec<Volume>,
    pub(super) mounts: Vec<VolumeMount>,
    pub(super) env: Vec<EnvVar>,
}

pub(super) fn of(spec: &BakeJobSpec) -> Mounted {
    let mut mounted = Mounted { volumes: Vec::new(), mounts: Vec::new(), env: Vec::new() };
    for (i, (claim, writable)) in claims(spec).into_iter().enumerate() {
        let name = format!("claim-{i}");
        mounted.mounts.push(mount(&name, &format!("{PVC_ROOT}/{claim}"), !writable));
        mounted.volumes.push(Volume {
            name,
            persistent_volume_claim: Some(PersistentVolumeClaimVolumeSource {
                claim_name: claim,
                read_only: Some(!writable),
            }),
            ..Volume::default()
        });
    }
    if let Some(bundle) = spec.storage.as_ref().and_then(|storage| storage.ca_bundle.as_ref()) {
        let (folder, file) = CA_FILE.rsplit_once('/').unwrap_or(("/", CA_FILE));
        mounted.mounts.push(mount("ca", folder, true));
        mounted.volumes.push(Volume {
            name: "ca".to_owned(),
            config_map: Some(ConfigMapVolumeSource {
                name: bundle.config_map_name.clone(),
                items: Some(vec![KeyToPath { key: bundle.key.clone(), path: file.to_owned(), mode: None }]),
                ..ConfigMapVolumeSource::default()
            }),
            ..Volume::default()
        });
        mounted.env.push(EnvVar {
            name: "AWS_CA_BUNDLE".to_owned(),
            value: Some(CA_FILE.to_owned()),
            value_from: None,
        });
    }
    mounted
}

/// Static credentials, as variables of their Secret: `AWS_ACCESS_KEY_ID` and the like.
pub(super) fn env_from(spec: &BakeJobSpec) -> Option<EnvFromSource> {
    let credentials = spec.storage.as_ref()?.credentials.as_ref()?;
    Some(EnvFromSource {
        secret_ref: Some(SecretEnvSource { name: credentials.secret_name.clone(), optional: None }),
        ..EnvFromSource::default()
    })
}

/// The claims that URIs name, and whether each is written to.
fn claims(spec: &BakeJobSpec) -> BTreeMap<String, bool> {
    let read = spec.inputs().filter_map(|(_, uri)| claim(uri));
    let mut claims: BTreeMap<String, bool> = read.map(|name| (name.to_owned(), false)).collect();
    if let Some(name) = claim(&spec.output.uri) {
        claims.insert(name.to_owned(), true);
    }
    claims
}
