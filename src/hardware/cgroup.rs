//! Limits of the control group that this process runs in, version 2 and 1, read from file contents.
//!
//! A limit anywhere on the way to the root binds, so the smallest one counts. Inside a container the path of `/proc/self/cgroup` may name a group that
//! is not visible; the mount's root is then the container's own group.

use std::path::{Component, Path, PathBuf};

/// What limits this process.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Limits {
    /// Bytes.
    pub(super) memory: Option<u64>,
    /// CPUs per wall-clock second, e.g. 1.5.
    pub(super) cpus: Option<f64>,
}

/// Reads a file's content, or `None` when it does not exist.
pub(super) type Read<'a> = &'a dyn Fn(&Path) -> Option<String>;

/// Limits from `/proc/self/cgroup` and `/proc/self/mountinfo`.
pub(super) fn limits(read: Read<'_>) -> Limits {
    let groups = read(Path::new("/proc/self/cgroup")).unwrap_or_default();
    let mounts = read(Path::new("/proc/self/mountinfo")).unwrap_or_default();
    let mut limits = Limits::default();
    for line in groups.lines() {
        let mut fields = line.splitn(3, ':');
        let (Some(id), Some(controllers), Some(path)) = (fields.next(), fields.next(), fields.next()) else { continue };
        let unified = id == "0" && controllers.is_empty();
        let names: Vec<&str> = controllers.split(',').collect();
        if unified {
            walk(&folders(&mounts, None, path), |folder| {
                smaller(&mut limits.memory, read(&folder.join("memory.max")).as_deref().and_then(memory_limit));
                smaller(&mut limits.cpus, read(&folder.join("cpu.max")).as_deref().and_then(cpu_max));
            });
        }
        if names.contains(&"memory") {
            walk(&folders(&mounts, Some("memory"), path), |folder| {
                smaller(
                    &mut limits.memory,
                    read(&folder.join("memory.limit_in_bytes")).as_deref().and_then(memory_limit),
                );
            });
        }
        if names.contains(&"cpu") {
            walk(&folders(&mounts, Some("cpu"), path), |folder| {
                let one = |file: &str| read(&folder.join(file))?.trim().parse::<f64>().ok();
                let quota = one("cpu.cfs_quota_us").zip(one("cpu.cfs_period_us")).filter(|(q, p)| *q > 0.0 && *p > 0.0);
                smaller(&mut limits.cpus, quota.map(|(q, p)| q / p));
            });
        }
    }
    limits
}

fn smaller<T: PartialOrd>(limit: &mut Option<T>, found: Option<T>) {
    if let Some(found) = found
        && limit.as_ref().is_none_or(|l| found < *l)
    {
        *limit = Some(found);
    }
}

/// Where a group's files are, and the mount point above which there is nothing.
struct Place {
    group: PathBuf,
    mount: PathBuf,
}

/// The mounted folders that may hold the group `path` of a hierarchy (`None`: version 2).
fn folders(mounts: &str, controller: Option<&str>, path: &str) -> Vec<Place> {
    mounts
        .lines()
        .filter_map(|line| {
            // `id parent major:minor root mount options [optional...] - type source super-options`
            let (left, right) = line.split_once(" - ")?;
            let mut left = left.split(' ').skip(3);
            let (root, mount) = (unescape(left.next()?), unescape(left.next()?));
            let mut right = right.split(' ');
            let (kind, options) = (right.next()?, right.nth(1).unwrap_or(""));
            let matches = match controller {
                None => kind == "cgroup2",
                Some(name) => kind == "cgroup" && options.split(',').any(|o| o == name),
            };
            matches.then(|| {
                // The mount shows the tree from `root` on: the group is there when its path lies below. `..` means outside of the namespace.
                let inside = Path::new(path)
                    .strip_prefix(&root)
                    .ok()
                    .filter(|p| p.components().all(|c| !matches!(c, Component::ParentDir)));
                let group = inside.map_or_else(
                    || PathBuf::from(&mount),
                    |p| Path::new(&mount).join(p.strip_prefix("/").unwrap_or(p)),
                );
                Place { group, mount: PathBuf::from(mount) }
            })
        })
        .collect()
}

/// Visits the group and every group above it, the mount point included. A group that is not visible is skipped by its missing files.
fn walk(places: &[Place], mut visit: impl FnMut(&Path)) {
    for place in places {
        for folder in place.group.ancestors() {
            visit(folder);
            if folder == place.mount {
                break;
            }
        }
    }
}

/// mountinfo writes blank, tab, newline and backslash as octal escapes.
fn unescape(text: &str) -> String {
    text.replace("\\040", " ").replace("\\011", "\t").replace("\\012", "\n").replace("\\134", "\\")
}

/// `memory.max` or `memory.limit_in_bytes`: `max` and version 1's "no limit" (the largest multiple of a page in an i64) are no limits.
fn memory_limit(text: &str) -> Option<u64> {
    text.trim().parse::<u64>().ok().filter(|&n| n < (1 << 62))
}

/// `cpu.max`: `quota period` in microseconds, or `max period`.
fn cpu_max(text: &str) -> Option<f64> {
    let mut fields = text.split_whitespace();
    let quota: f64 = fields.next()?.parse().ok()?;
    let period: f64 = fields.next().map_or(Some(100_000.0), |p| p.parse().ok())?;
    (quota > 0.0 && period > 0.0).then_some(quota / period)
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    fn limits_of(files: &[(&str, &str)]) -> Limits {
        let files: HashMap<&str, &str> = files.iter().copied().collect();
        limits(&|path| files.get(path.to_str()?).map(|s| (*s).to_owned()))
    }

    const V2: &str = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n";

    #[test]
    fn the_smallest_limit_on_the_way_to_the_root_binds() {
        let found = limits_of(&[
            ("/proc/self/cgroup", "0::/kubepods.slice/pod1/worker\n"),
            ("/proc/self/mountinfo", V2),
            ("/sys/fs/cgroup/kubepods.slice/pod1/worker/memory.max", "max\n"),
            ("/sys/fs/cgroup/kubepods.slice/pod1/worker/cpu.max", "200000 100000\n"),
            ("/sys/fs/cgroup/kubepods.slice/pod1/memory.max", "536870912\n"),
            ("/sys/fs/cgroup/kubepods.slice/pod1/cpu.max", "max 100000\n"),
            ("/sys/fs/cgroup/kubepods.slice/memory.max", "1073741824\n"),
            ("/sys/fs/cgroup/kubepods.slice/cpu.max", "150000 100000\n"),
        ]);
        assert_eq!(found, Limits { memory: Some(536_870_912), cpus: Some(1.5) });
    }

    #[test]
    fn a_container_sees_its_own_group_as_the_root() {
        let container = limits_of(&[
            ("/proc/self/cgroup", "0::/\n"),
            ("/proc/self/mountinfo", V2),
            ("/sys/fs/cgroup/memory.max", "104857600\n"),
            ("/sys/fs/cgroup/cpu.max", "50000 100000\n"),
        ]);
        assert_eq!(container, Limits { memory: Some(104_857_600), cpus: Some(0.5) });
        let outside = limits_of(&[
            ("/proc/self/cgroup", "0::/../other\n"),
            ("/proc/self/mountinfo", V2),
            ("/sys/fs/cgroup/memory.max", "7\n"),
        ]);
        assert_eq!(outside.memory, Some(7));
    }

    #[test]
    fn version_1_keeps_each_controller_in_its_own_tree() {
        let mounts = "36 25 0:31 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n\
                      37 25 0:32 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n\
                      38 25 0:33 / /sys/fs/cgroup/cpuset rw - cgroup cgroup rw,cpuset\n";
        let found = limits_of(&[
            ("/proc/self/cgroup", "4:memory:/docker/abc\n3:cpuset:/\n2:cpu,cpuacct:/docker/abc\n0::/\n"),
            ("/proc/self/mountinfo", mounts),
            ("/sys/fs/cgroup/memory/docker/abc/memory.limit_in_bytes", "9223372036854771712\n"),
            ("/sys/fs/cgroup/memory/docker/memory.limit_in_bytes", "2147483648\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_quota_us", "-1\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/abc/cpu.cfs_period_us", "100000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_quota_us", "300000\n"),
            ("/sys/fs/cgroup/cpu,cpuacct/docker/cpu.cfs_period_us", "100000\n"),
        ]);
        assert_eq!(found, Limits { memory: Some(2_147_483_648), cpus: Some(3.0) });
    }

    #[test]
    fn a_mount_that_starts_inside_the_tree_is_matched_by_its_root() {
        let mounts = "36 25 0:31 /docker/abc /sys/fs/cgroup/memory ro - cgroup cgroup rw,memory\n";
        let found = limits_of(&[
            ("/proc/self/cgroup", "4:memory:/docker/abc/inner\n"),
            ("/proc/self/mountinfo", mounts),
            ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "4096\n"),
            ("/sys/fs/cgroup/memory/inner/memory.limit_in_bytes", "8192\n"),
        ]);
        assert_eq!(found.memory, Some(4096));
    }

    #[test]
    fn without_control_groups_nothing_is_limited() {
        assert_eq!(limits_of(&[]), Limits::default());
        assert_eq!((cpu_max("max 100000"), cpu_max("x y"), memory_limit("max")), (None, None, None));
    }
}
