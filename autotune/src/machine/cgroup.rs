//! Reads the CPU quota of the process's control groups (cgroups), of versions 1 and 2.
//!
//! A hierarchy can be mounted at any path. Version 1 has the CPU controller alone or with others (`cpu,cpuacct`). Version 2
//! is at `/sys/fs/cgroup`, beside version 1 at `unified`, or elsewhere. So the code assumes no path:
//! `/proc/self/mountinfo` lists the mount points and the group at the root of each mount, and `/proc/self/cgroup` lists the
//! groups of the process.

use std::collections::HashMap;
use std::fs;
use std::path::Path;

/// The version of a cgroup hierarchy. The versions name their files differently.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Version {
    One,
    Two,
}

/// A mounted hierarchy that may limit the CPU.
#[derive(Debug, PartialEq, Eq)]
struct Mount {
    version: Version,
    /// The group at the root of the mount.
    group: String,
    point: String,
}

/// Returns the smallest quota of the process's group and its ancestors, in processors. `None` if no group has a quota.
pub(super) fn quota(root: &Path) -> Option<f64> {
    // Lossy, because a mount point that is not UTF-8 must not hide the other lines.
    let read = |name: &str| Some(String::from_utf8_lossy(&fs::read(root.join(name)).ok()?).into_owned());
    let mounts = mounts(&read("proc/self/mountinfo")?);
    let groups = read("proc/self/cgroup")?;
    let groups: Vec<(Version, &str)> = groups.lines().filter_map(group).collect();
    let mut limits = Vec::new();
    for mount in &mounts {
        for (_, path) in groups.iter().filter(|(version, _)| *version == mount.version) {
            let Some(below) = below(&mount.group, path) else { continue };
            let point = root.join(mount.point.trim_start_matches('/'));
            // The last ancestor of a relative path is empty: the mount point itself.
            limits.extend(below.ancestors().filter_map(|group| limit(mount.version, &point.join(group))));
        }
    }
    limits.into_iter().min_by(f64::total_cmp)
}

/// Returns the mounted hierarchies that may limit the CPU. If several are mounted at one point, the last hides the others.
fn mounts(mountinfo: &str) -> Vec<Mount> {
    let mut visible = HashMap::new();
    for line in mountinfo.lines() {
        // ID, parent, device, root, mount point, options, optional fields, "-", type, source, options of the superblock.
        let Some((mount, kind)) = line.split_once(" - ") else { continue };
        let mut mount = mount.split(' ').skip(3);
        let (Some(group), Some(point)) = (mount.next(), mount.next()) else { continue };
        let mut kind = kind.split(' ');
        let (filesystem, options) = (kind.next(), kind.nth(1).unwrap_or_default());
        let version = match filesystem {
            Some("cgroup2") => Some(Version::Two),
            Some("cgroup") if options.split(',').any(|option| option == "cpu") => Some(Version::One),
            _ => None,
        };
        visible.insert(point, version.map(|version| (version, group)));
    }
    let mount = |(point, found): (&str, Option<(Version, &str)>)| {
        let (version, group) = found?;
        Some(Mount { version, group: unescape(group), point: unescape(point) })
    };
    visible.into_iter().filter_map(mount).collect()
}

/// Parses a line of `/proc/self/cgroup`. Returns `None` if its hierarchy cannot limit the CPU.
fn group(line: &str) -> Option<(Version, &str)> {
    let mut fields = line.splitn(3, ':').skip(1);
    let (controllers, path) = (fields.next()?, fields.next()?);
    match controllers {
        "" => Some((Version::Two, path)),
        _ if controllers.split(',').any(|name| name == "cpu") => Some((Version::One, path)),
        _ => None,
    }
}

/// Returns the path of a group relative to the mounted group. The path is empty if the mounted group is the nearest visible
/// ancestor. Returns `None` if the mount shows only other groups.
fn below<'a>(mounted: &str, group: &'a str) -> Option<&'a Path> {
    let group = Path::new(group);
    let leaves = |path: &Path| path.components().filter(|part| part.as_os_str() == "..").count();
    if let Ok(below) = group.strip_prefix(mounted)
        && leaves(below) == 0
    {
        return Some(below);
    }
    // In a namespace, the groups above its root are called `/..`, `/../..`. A mount of such a group contains the whole
    // namespace, but the names of the groups between are unknown.
    let (above, parts) = (leaves(Path::new(mounted)), Path::new(mounted).components().skip(1).count());
    (above > leaves(group) && above == parts).then_some(Path::new(""))
}

fn limit(version: Version, group: &Path) -> Option<f64> {
    let read = |name| fs::read_to_string(group.join(name)).ok();
    match version {
        // -1 means no limit.
        Version::One => ratio(read("cpu.cfs_quota_us")?.trim(), read("cpu.cfs_period_us")?.trim()),
        // The quota in microseconds, or `max`, and the period in microseconds.
        Version::Two => {
            let text = read("cpu.max")?;
            let (used, period) = text.trim().split_once(' ')?;
            ratio(used, period)
        }
    }
}

fn ratio(used: &str, period: &str) -> Option<f64> {
    let (used, period): (f64, f64) = (used.parse().ok()?, period.parse().ok()?);
    Some(used / period).filter(|quota| quota.is_finite() && *quota > 0.0)
}

/// Decodes octal escapes: `/proc/self/mountinfo` escapes spaces, tabs, line ends and backslashes.
fn unescape(text: &str) -> String {
    let mut parts = text.split('\\');
    let mut plain = parts.next().unwrap_or_default().to_owned();
    for part in parts {
        let code = part.get(..3).and_then(|digits| u8::from_str_radix(digits, 8).ok());
        match code.filter(u8::is_ascii) {
            Some(code) => {
                plain.push(code.into());
                plain.push_str(part.get(3..).unwrap_or_default());
            }
            None => {
                plain.push('\\');
                plain.push_str(part);
            }
        }
    }
    plain
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn groups_below_a_mount() {
        for (mounted, group, expected) in [
            ("/", "/", Some("")),
            ("/", "/pod/one", Some("pod/one")),
            ("/docker/1", "/docker/1", Some("")),
            ("/docker/1", "/docker/1/job", Some("job")),
            // The group of another container.
            ("/docker/1", "/docker/10", None),
            ("/docker/1", "/", None),
            // A namespace whose root is below the mounted group, and a group outside the namespace.
            ("/..", "/", Some("")),
            ("/../..", "/job", Some("")),
            ("/..", "/../other", Some("other")),
            ("/", "/../other", None),
            ("/../other", "/job", None),
        ] {
            assert_eq!(below(mounted, group), expected.map(Path::new), "{group} in {mounted}");
        }
    }

    #[test]
    fn octal_escapes() {
        for (text, expected) in [
            ("/sys/fs/cgroup/cpu,cpuacct", "/sys/fs/cgroup/cpu,cpuacct"),
            (r"/a\040b\011\134c", "/a b\t\\c"),
            (r"/a\", r"/a\"),
            (r"/a\04", r"/a\04"),
            (r"/a\777", r"/a\777"),
            (r"/a\éé", r"/a\éé"),
        ] {
            assert_eq!(unescape(text), expected);
        }
    }

    #[test]
    fn malformed_lines_are_skipped() {
        for text in
            ["", "\n", " - ", "1 2 3 / /x - cgroup2", "1 2 3 - cgroup2 x rw", "- - - -", "1 2 3 / /x rw"]
        {
            let found = mounts(text);
            let complete = text == "1 2 3 / /x - cgroup2";
            assert_eq!(found.len(), usize::from(complete), "{text:?}: {found:?}");
        }
    }
}
