//! What processes of this machine used.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;

/// User and system seconds of a process; 0 when it is gone.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    // The second field is a name in brackets that may hold spaces.
    let fields: Vec<&str> = stat.rsplit(") ").next().unwrap_or_default().split(' ').collect();
    let ticks = |i: usize| fields.get(i).and_then(|field| field.parse::<f64>().ok()).unwrap_or(0.0);
    // Fields 14 and 15 of proc(5), in ticks of a hundredth of a second.
    (ticks(11) + ticks(12)) / 100.0
}

/// A line of `/proc/PID/status` in MiB.
pub(crate) fn mib(pid: u32, field: &str) -> f64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    line.and_then(|line| line.trim().strip_suffix(" kB")?.parse::<f64>().ok()).unwrap_or(0.0) / 1024.0
}

/// The cluster's components, as `e2e/cluster/up.sh` keeps their process numbers.
pub(crate) struct Components(BTreeMap<String, u32>);

const NAMES: [&str; 4] = ["etcd", "apiserver", "controller-manager", "scheduler"];

impl Components {
    pub(crate) fn here() -> Self {
        Self(NAMES.iter().filter_map(|name| Some(((*name).to_owned(), pid(name)?))).collect())
    }

    pub(crate) fn cpu_seconds(&self) -> BTreeMap<String, f64> {
        self.0.iter().map(|(name, pid)| (name.clone(), cpu_seconds(*pid))).collect()
    }

    pub(crate) fn since(&self, before: &BTreeMap<String, f64>) -> BTreeMap<String, f64> {
        let now = self.cpu_seconds();
        now.into_iter()
            .map(|(name, seconds)| (name.clone(), seconds - before.get(&name).copied().unwrap_or(0.0)))
            .collect()
    }
}

/// The process number of a component of the test cluster.
pub(crate) fn pid(name: &str) -> Option<u32> {
    let state = std::env::var_os("BAKEHOUSE_CLUSTER")
        .map_or_else(|| PathBuf::from("/var/lib/bakehouse-cluster"), PathBuf::from);
    let text = fs::read_to_string(state.join(format!("run/{name}.process"))).ok()?;
    text.split(' ').next()?.parse().ok()
}
