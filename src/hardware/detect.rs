//! Facts of this machine, as they stand beside every measured figure. Parsers are functions of file contents; [`detect`] only reads.

use std::collections::BTreeSet;
use std::path::Path;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::cgroup;

/// Mean number of runnable tasks over 1, 5 and 15 minutes.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct LoadAverage {
    /// Over one minute.
    pub one: f64,
    /// Over five minutes.
    pub five: f64,
    /// Over fifteen minutes.
    pub fifteen: f64,
}

/// What a machine is, and how much of it this process may use.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct MachineFacts {
    /// The processor's own name, or the architecture where it gives none.
    pub cpu: String,
    /// `x86_64`, `aarch64`, ...
    pub arch: String,
    /// Instruction sets that matter for kernels, under one name each: `avx2`, `fma`, `avx512f`, `avx512_vnni`, `avx_vnni`, `amx_int8`, `neon`, `dotprod`, `i8mm`, ...
    pub features: BTreeSet<String>,
    /// Logical cores of the machine.
    pub logical_cores: usize,
    /// Logical cores that the affinity mask allows.
    pub affinity_cores: usize,
    /// CPUs that the control group's quota allows, e.g. 1.5; absent without a quota.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cpu_quota: Option<f64>,
    /// Bytes of memory of the machine.
    pub physical_memory: u64,
    /// Bytes that the control group allows; absent without a limit.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub cgroup_memory: Option<u64>,
    /// Kernel release.
    pub kernel: String,
    /// Operating system.
    pub os: String,
    /// Load when the facts were read, which tells a disturbed measurement; absent where the system has none.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub load_average: Option<LoadAverage>,
}

impl MachineFacts {
    /// Whole cores that are worth a thread: affinity and quota both bind, at least one.
    pub fn usable_cores(&self) -> usize {
        let quota = self.cpu_quota.map_or(usize::MAX, |q| q.ceil() as usize);
        self.affinity_cores.min(quota).max(1)
    }

    /// Bytes that this process may use: its control group's limit, or the machine's memory when that is smaller or there is no limit.
    pub fn memory_limit(&self) -> u64 {
        self.cgroup_memory.map_or(self.physical_memory, |limit| {
            if self.physical_memory == 0 { limit } else { limit.min(self.physical_memory) }
        })
    }

    /// Whether the processor has an instruction set.
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }

    /// A short stable key of what decides which kernels run, for caches: architecture and instruction sets, neither load nor memory.
    pub fn device_class(&self) -> String {
        std::iter::once(self.arch.as_str())
            .chain(self.features.iter().map(String::as_str))
            .collect::<Vec<_>>()
            .join("+")
    }
}

/// Reads the facts of this machine.
pub fn detect() -> MachineFacts {
    let read = |path: &Path| std::fs::read_to_string(path).ok();
    let logical = std::thread::available_parallelism().map_or(1, usize::from);
    let mut facts = facts(&read, std::env::consts::ARCH, logical);
    facts.features.extend(detected_features());
    facts
}

/// The facts, from the files that `read` gives. `fallback_cores` counts when no file tells.
fn facts(read: cgroup::Read<'_>, arch: &str, fallback_cores: usize) -> MachineFacts {
    let file = |path: &str| read(Path::new(path)).unwrap_or_default();
    let (cpuinfo, status) = (file("/proc/cpuinfo"), file("/proc/self/status"));
    let limits = cgroup::limits(read);
    let logical_cores = Some(cpuinfo.lines().filter(|l| l.starts_with("processor")).count())
        .filter(|&n| n > 0)
        .unwrap_or(fallback_cores);
    MachineFacts {
        cpu: cpu_name(&cpuinfo).unwrap_or_else(|| arch.to_owned()),
        arch: arch.to_owned(),
        features: features(&cpuinfo),
        logical_cores,
        affinity_cores: field(&status, "Cpus_allowed_list").and_then(count_list).unwrap_or(fallback_cores),
        cpu_quota: limits.cpus,
        physical_memory: field(&file("/proc/meminfo"), "MemTotal").and_then(kib).unwrap_or(0),
        cgroup_memory: limits.memory,
        kernel: file("/proc/sys/kernel/osrelease").trim().to_owned(),
        os: os_name(&file("/etc/os-release")).unwrap_or_else(|| std::env::consts::OS.to_owned()),
        load_average: load_average(&file("/proc/loadavg")),
    }
}

/// The value of `key: value`, the first of its name.
fn field<'a>(text: &'a str, key: &str) -> Option<&'a str> {
    text.lines().find_map(|line| {
        let (k, v) = line.split_once(':')?;
        (k.trim() == key).then(|| v.trim())
    })
}

/// `16336124 kB` in bytes.
fn kib(text: &str) -> Option<u64> {
    text.strip_suffix("kB")?.trim().parse::<u64>().ok()?.checked_mul(1024)
}

/// Number of entries of a list such as `0-3,8,10-11`.
fn count_list(text: &str) -> Option<usize> {
    let mut n = 0_usize;
    for part in text.split(',') {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) = (first.trim().parse().ok()?, last.trim().parse().ok()?);
        n += last.checked_sub(first)? + 1;
    }
    Some(n)
}

fn load_average(text: &str) -> Option<LoadAverage> {
    let mut numbers = text.split_whitespace().map(|f| f.parse::<f64>().ok());
    Some(LoadAverage { one: numbers.next()??, five: numbers.next()??, fifteen: numbers.next()?? })
}

fn os_name(text: &str) -> Option<String> {
    let value = text.lines().find_map(|l| l.strip_prefix("PRETTY_NAME="))?;
    Some(value.trim().trim_matches('"').to_owned())
}

/// x86 gives a name; ARM gives an implementer and a part number, which still tell machines apart.
fn cpu_name(cpuinfo: &str) -> Option<String> {
    let named = field(cpuinfo, "model name").filter(|n| !n.is_empty() && *n != "unknown");
    named.map(|n| n.split_whitespace().collect::<Vec<_>>().join(" ")).or_else(|| {
        let (implementer, part) = (field(cpuinfo, "CPU implementer")?, field(cpuinfo, "CPU part")?);
        let maker = match implementer {
            "0x41" => "ARM",
            "0x61" => "Apple",
            "0xc0" => "Ampere",
            other => other,
        };
        Some(format!("{maker} part {part}"))
    })
}

/// Instruction sets by the kernel's name and by ours.
const FLAGS: [(&str, &str); 18] = [
    ("sse4_2", "sse4_2"),
    ("avx", "avx"),
    ("avx2", "avx2"),
    ("fma", "fma"),
    ("f16c", "f16c"),
    ("avx512f", "avx512f"),
    ("avx512bw", "avx512bw"),
    ("avx512vl", "avx512vl"),
    ("avx512_vnni", "avx512_vnni"),
    ("avx512_bf16", "avx512_bf16"),
    ("avx_vnni", "avx_vnni"),
    ("avx_vnni_int8", "avx_vnni_int8"),
    ("amx_int8", "amx_int8"),
    ("amx_tile", "amx_tile"),
    ("asimd", "neon"),
    ("asimddp", "dotprod"),
    ("i8mm", "i8mm"),
    ("sve", "sve"),
];

/// Instruction sets that every core of `/proc/cpuinfo` lists.
fn features(cpuinfo: &str) -> BTreeSet<String> {
    let lists = cpuinfo.lines().filter_map(|line| {
        let (key, value) = line.split_once(':')?;
        matches!(key.trim(), "flags" | "Features").then(|| value.split_whitespace().collect::<BTreeSet<_>>())
    });
    // Cores of one machine may differ; a thread can land on any of them.
    let common = lists.reduce(|a, b| &a & &b).unwrap_or_default();
    FLAGS.iter().filter(|(kernel, _)| common.contains(kernel)).map(|(_, ours)| (*ours).to_owned()).collect()
}

/// What the processor itself reports: all there is without `/proc/cpuinfo`, and beside it where the kernel is too old to name a flag.
fn detected_features() -> Vec<String> {
    let mut found = Vec::new();
    #[cfg(target_arch = "x86_64")]
    {
        macro_rules! probe {
            ($($name:tt => $ours:literal),*) => { $(if std::is_x86_feature_detected!($name) { found.push($ours.to_owned()); })* };
        }
        probe!("sse4.2" => "sse4_2", "avx" => "avx", "avx2" => "avx2", "fma" => "fma", "f16c" => "f16c", "avx512f" => "avx512f",
               "avx512bw" => "avx512bw", "avx512vl" => "avx512vl", "avx512vnni" => "avx512_vnni", "avx512bf16" => "avx512_bf16", "avxvnni" => "avx_vnni");
    }
    #[cfg(target_arch = "aarch64")]
    {
        macro_rules! probe {
            ($($name:tt),*) => { $(if std::arch::is_aarch64_feature_detected!($name) { found.push($name.to_owned()); })* };
        }
        probe!("neon", "dotprod", "i8mm", "sve");
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const X86: &str = "processor\t: 0\nmodel name\t: AMD  EPYC 9B14\nflags\t\t: fpu sse4_2 avx avx2 fma f16c avx512_vnni\n\n\
                       processor\t: 1\nmodel name\t: AMD  EPYC 9B14\nflags\t\t: fpu sse4_2 avx avx2 fma f16c\n";
    const ARM: &str = "processor\t: 0\nFeatures\t: fp asimd asimddp i8mm\nCPU implementer\t: 0x41\nCPU part\t: 0xd40\n";

    fn machine(cpuinfo: &str, rest: &[(&str, &str)]) -> MachineFacts {
        let read = |path: &Path| {
            let path = path.to_str()?;
            if path == "/proc/cpuinfo" {
                return Some(cpuinfo.to_owned());
            }
            rest.iter().find(|(p, _)| *p == path).map(|(_, text)| (*text).to_owned())
        };
        facts(&read, "x86_64", 7)
    }

    #[test]
    fn only_instruction_sets_of_every_core_count() {
        let facts = machine(X86, &[]);
        assert_eq!((facts.cpu.as_str(), facts.logical_cores, facts.affinity_cores), ("AMD EPYC 9B14", 2, 7));
        assert!(facts.has("avx2") && !facts.has("avx512_vnni"));
        let arm = machine(ARM, &[]);
        assert_eq!(arm.cpu, "ARM part 0xd40");
        assert_eq!(arm.device_class(), "x86_64+dotprod+i8mm+neon");
    }

    #[test]
    fn affinity_and_quota_both_bind_the_cores_and_the_smaller_memory_counts() {
        let facts = machine(
            X86,
            &[
                ("/proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3,8\n"),
                ("/proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n"),
                ("/proc/self/cgroup", "0::/\n"),
                ("/proc/self/mountinfo", "29 23 0:26 / /sys/fs/cgroup rw - cgroup2 cgroup2 rw\n"),
                ("/sys/fs/cgroup/cpu.max", "250000 100000\n"),
                ("/sys/fs/cgroup/memory.max", "1048576\n"),
                ("/etc/os-release", "NAME=x\nPRETTY_NAME=\"Debian GNU/Linux 12\"\n"),
                ("/proc/loadavg", "0.46 1.68 1.99 2/100 21177\n"),
                ("/proc/sys/kernel/osrelease", "6.1.0\n"),
            ],
        );
        assert_eq!((facts.affinity_cores, facts.cpu_quota, facts.usable_cores()), (5, Some(2.5), 3));
        assert_eq!((facts.physical_memory, facts.memory_limit()), (16 << 20, 1 << 20));
        assert_eq!((facts.os.as_str(), facts.kernel.as_str()), ("Debian GNU/Linux 12", "6.1.0"));
        assert_eq!(facts.load_average, Some(LoadAverage { one: 0.46, five: 1.68, fifteen: 1.99 }));
        let json = serde_json::to_string(&facts).unwrap();
        assert_eq!(serde_json::from_str::<MachineFacts>(&json).unwrap(), facts);
    }

    #[test]
    fn without_a_limit_the_machine_is_the_limit() {
        let facts = machine(X86, &[("/proc/meminfo", "MemTotal: 4 kB\n")]);
        assert_eq!((facts.memory_limit(), facts.usable_cores()), (4096, 7));
    }

    #[test]
    fn core_lists_are_counted() {
        for (text, n) in [("0", Some(1)), ("0-3,8,10-11", Some(7)), ("", None), ("3-1", None)] {
            assert_eq!(count_list(text), n, "{text}");
        }
    }

    #[test]
    fn this_machine_can_be_read() {
        let facts = detect();
        assert!(facts.logical_cores >= 1 && facts.usable_cores() >= 1 && !facts.cpu.is_empty());
    }
}
