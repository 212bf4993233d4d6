//! What the operator may be told when it starts. Each doc comment is the help text a person reads.

use std::net::SocketAddr;
use std::time::Duration;

use clap::Args;

use super::queue::Caps;
use super::validate::Defaults;
use crate::api::bakejob::GateSpec;
use crate::api::floor;

/// Flags and variables of `bakehouse operator`.
#[derive(Debug, Clone, Args)]
pub struct OperatorArgs {
    /// Only this namespace; may be repeated. Default: all.
    #[arg(long = "namespace", env = "BAKEHOUSE_NAMESPACES", value_name = "NAMESPACE", value_delimiter = ',')]
    pub namespaces: Vec<String>,
    /// Image of workers whose BakeJob names none.
    #[arg(long, env = "BAKEHOUSE_WORKER_IMAGE", value_name = "IMAGE", default_value = "bakehouse-worker:latest")]
    pub worker_image: String,
    /// Most bakes at a time in all namespaces. Default: no cap.
    #[arg(long, env = "BAKEHOUSE_MAX_BAKES", value_name = "N")]
    pub max_bakes: Option<u32>,
    /// Most bakes at a time in each namespace. Default: no cap.
    #[arg(long, env = "BAKEHOUSE_MAX_BAKES_PER_NAMESPACE", value_name = "N")]
    pub max_bakes_per_namespace: Option<u32>,
    /// Seconds that a pod waits for a device before the fallback of its BakeJob.
    #[arg(long, env = "BAKEHOUSE_FALLBACK_SECONDS", value_name = "SECONDS", default_value_t = 300)]
    pub fallback_seconds: u32,
    /// Seconds that a finished Job and its log are kept.
    #[arg(long, env = "BAKEHOUSE_KEEP_JOB_SECONDS", value_name = "SECONDS", default_value_t = 86_400)]
    pub keep_job_seconds: u32,
    /// A bound that no job's gates may undercut, as AccuracyRetention>=0.97 or LatencyP99<=50ms. May be repeated.
    #[arg(
        long = "gate-floor",
        env = "BAKEHOUSE_GATE_FLOORS",
        value_name = "BOUND",
        value_delimiter = ',',
        value_parser = floor::parse
    )]
    pub gate_floors: Vec<GateSpec>,
    /// Where workers keep results for later bakes of the same inputs: s3://, gs:// or az://, or a folder that workers have mounted. Without it, spec.cache of a
    /// BakeJob has no effect.
    #[arg(long, env = "BAKEHOUSE_CACHE", value_name = "URI", value_parser = cache)]
    pub cache: Option<String>,
    /// Do not look at nodes: for a service account without rights outside its namespace.
    #[arg(long, env = "BAKEHOUSE_NO_NODES")]
    pub no_nodes: bool,
    /// BakeJobs that are looked at side by side.
    #[arg(long, env = "BAKEHOUSE_CONCURRENCY", value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u16).range(1..=512))]
    pub concurrency: u16,
    /// Where /livez, /readyz and /metrics are served.
    #[arg(long, env = "BAKEHOUSE_LISTEN", value_name = "ADDRESS", default_value = "0.0.0.0:8080")]
    pub listen: SocketAddr,
    /// Run without a Lease: only ever one replica.
    #[arg(long, env = "BAKEHOUSE_NO_LEASE")]
    pub no_lease: bool,
    /// Namespace of the Lease. Default: that of the pod.
    #[arg(long, env = "POD_NAMESPACE", value_name = "NAMESPACE")]
    pub lease_namespace: Option<String>,
    /// Seconds after which another replica takes over from one that is silent.
    #[arg(long, env = "BAKEHOUSE_LEASE_SECONDS", value_name = "SECONDS", default_value_t = 15, value_parser = clap::value_parser!(u16).range(2..=300))]
    pub lease_seconds: u16,
    /// Name of this replica, the same after a restart of its container. Default: the host's name.
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub identity: Option<String>,
    /// Log lines for a person instead of JSON.
    #[arg(long, env = "BAKEHOUSE_LOG_TEXT")]
    pub log_text: bool,
}

impl OperatorArgs {
    /// What the platform sets for every job.
    pub fn defaults(&self) -> Defaults {
        Defaults {
            image: self.worker_image.clone(),
            fallback_after: Duration::from_secs(self.fallback_seconds.into()),
            keep_jobs: Duration::from_secs(self.keep_job_seconds.into()),
            gate_floors: self.gate_floors.clone(),
            cache: self.cache.clone(),
        }
    }

    /// How many bakes may run.
    pub fn caps(&self) -> Caps {
        Caps { total: self.max_bakes, per_namespace: self.max_bakes_per_namespace }
    }

    /// The name of this replica.
    pub fn identity(&self) -> String {
        self.identity.clone().or_else(host_name).unwrap_or_else(|| format!("process-{}", std::process::id()))
    }
}

/// Whether workers can write there.
fn cache(uri: &str) -> Result<String, String> {
    let writable = ["/", "file:///", "s3://", "gs://", "az://"].iter().any(|start| uri.starts_with(start));
    if writable {
        Ok(uri.to_owned())
    } else {
        Err("give s3://bucket/folder, gs://, az://, or an absolute path".to_owned())
    }
}

fn host_name() -> Option<String> {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").ok()?;
    let name = name.trim();
    (!name.is_empty()).then(|| name.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_is_a_place_that_a_worker_can_write_to() {
        for uri in ["s3://bakes", "gs://bakes/a", "az://bakes/a/", "/mnt/cache", "file:///mnt/cache"] {
            assert_eq!(cache(uri).unwrap(), uri);
        }
        for uri in ["", "cache", "https://host/cache", "oci://registry/cache", "pvc://claim/cache", "file://cache"] {
            assert!(cache(uri).unwrap_err().contains("s3://"), "{uri}");
        }
    }
}
