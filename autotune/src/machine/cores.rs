//! How many threads are worth having: the affinity mask, and the quotas of the control groups around the process.

use std::fs;
use std::path::Path;

/// What limits the threads of this process.
pub(super) struct Cores {
    pub(super) allowed: usize,
    pub(super) quota: Option<f64>,
}

impl Cores {
    /// More threads than the quota pays for are stopped in each period of it, all at once; part of a core is one.
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
