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
    Cores { allowed, quota: quota(root) }
}

fn affinity(root: &Path) -> Option<usize> {
    let status = fs::read_to_string(root.join("proc/self/status")).ok()?;
    let list = status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?;
    super::linux::count(list.trim())
}

/// The least quota of the process's control group and those around it, in processors.
fn quota(root: &Path) -> Option<f64> {
    let groups = fs::read_to_string(root.join("proc/self/cgroup")).ok()?;
    let limits = groups.lines().flat_map(|line| {
        let mut fields = line.splitn(3, ':').skip(1);
        let (controllers, path) = (fields.next().unwrap_or_default(), fields.next().unwrap_or_default());
        let cpu = controllers.split(',').any(|name| name == "cpu");
        let (mount, limit): (_, fn(&Path) -> Option<f64>) = match controllers {
            "" => ("sys/fs/cgroup", second_version),
            _ if cpu => ("sys/fs/cgroup/cpu", first_version),
            _ => return Vec::new(),
        };
        let path = Path::new(path.trim_start_matches('/'));
        let around = path.ancestors().map(|group| limit(&root.join(mount).join(group)));
        around.flatten().collect::<Vec<_>>()
    });
    limits.min_by(f64::total_cmp)
}

/// `cpu.max` holds the microseconds that may be used, or `max`, and those of a period.
fn second_version(group: &Path) -> Option<f64> {
    let text = fs::read_to_string(group.join("cpu.max")).ok()?;
    let (used, period) = text.trim().split_once(' ')?;
    ratio(used, period)
}

fn first_version(group: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    // -1 is no limit.
    ratio(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim())
}

fn ratio(used: &str, period: &str) -> Option<f64> {
    let (used, period): (f64, f64) = (used.parse().ok()?, period.parse().ok()?);
    Some(used / period).filter(|quota| quota.is_finite() && *quota > 0.0)
}
