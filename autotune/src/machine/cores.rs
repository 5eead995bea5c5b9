//! Usable cores: the affinity mask, limited by cgroup CPU quotas.

use std::fs;
use std::path::Path;

/// The limits on the threads of this process.
pub(super) struct Cores {
    pub(super) allowed: usize,
    pub(super) quota: Option<f64>,
}

impl Cores {
    /// Returns the number of usable cores. With more threads than the quota allows, the system would stop all of them in
    /// each period. A fraction of a core counts as one core only if it is all there is.
    pub(super) fn effective(&self) -> usize {
        let paid = self.quota.map_or(usize::MAX, |quota| quota.floor() as usize);
        self.allowed.min(paid).max(1)
    }
}

pub(super) fn read(root: &Path) -> Cores {
    let allowed = affinity(root)
        .or_else(|| std::thread::available_parallelism().ok().map(usize::from))
        .unwrap_or(1)
        .max(1);
    Cores { allowed, quota: super::cgroup::quota(root) }
}

fn affinity(root: &Path) -> Option<usize> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    super::linux::count(list.trim())
}
