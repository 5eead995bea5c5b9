//! Machine detection: cgroup quotas at any mount point, CPU affinity, caches, and systems without such information.

use std::fs;

use lion_autotune::profile::default_plan;
use lion_autotune::{Document, Machine, TuningRecord, report};
use lion_kernels::Backend;
use tempfile::{TempDir, tempdir};

/// A machine's files, below a root.
fn root(files: &[(&str, &str)]) -> TempDir {
    let root = tempdir().expect("a folder");
    for (path, text) in files {
        let path = root.path().join(path);
        fs::create_dir_all(path.parent().expect("a folder")).expect("made");
        fs::write(path, text).expect("written");
    }
    root
}

const STATUS: (&str, &str) = ("proc/self/status", "Name:\tx\nCpus_allowed_list:\t0-3,8\n");

/// Effective cores, allowed processors and the quota, of a machine with these files.
fn cores(files: &[(&str, &str)]) -> (usize, usize, Option<f64>) {
    let root = root(files);
    let machine = Machine::below(root.path());
    (machine.cores, machine.allowed, machine.quota)
}

/// The lines of `/proc/self/mountinfo` of systems that people have: version 2 alone; version 1 with the CPU controller
/// beside `cpuacct`; both, with version 2 at `unified`.
const VERSION_2: (&str, &str) = (
    "proc/self/mountinfo",
    "24 1 0:22 / /sys rw - sysfs sysfs rw\n\
     35 24 0:30 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate,memory_recursiveprot\n",
);
const VERSION_1: (&str, &str) = (
    "proc/self/mountinfo",
    "31 24 0:26 / /sys/fs/cgroup ro,nosuid shared:9 - tmpfs tmpfs ro,mode=755\n\
     33 31 0:28 / /sys/fs/cgroup/memory rw shared:11 - cgroup cgroup rw,memory\n\
     34 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw shared:12 master:3 - cgroup cgroup rw,cpu,cpuacct\n",
);
const HYBRID: (&str, &str) = (
    "proc/self/mountinfo",
    "31 23 0:28 / /sys/fs/cgroup rw,relatime - tmpfs tmpfs rw,mode=755\n\
     33 31 0:30 / /sys/fs/cgroup/cpuacct rw,relatime - cgroup cgroup rw,cpuacct\n\
     34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n\
     41 31 0:38 / /sys/fs/cgroup/unified rw,relatime - cgroup2 cgroup2 rw\n",
);

#[test]
fn quotas_and_affinity_bound_the_threads() {
    let group = ("proc/self/cgroup", "0::/pod/one\n");
    assert_eq!(cores(&[STATUS]), (5, 5, None));
    // Half a core is one thread, not none.
    let half = ("sys/fs/cgroup/pod/one/cpu.max", "50000 100000\n");
    assert_eq!(cores(&[STATUS, VERSION_2, group, half]), (1, 5, Some(0.5)));
    // The tightest of the groups around the process.
    let around = ("sys/fs/cgroup/pod/cpu.max", "250000 100000\n");
    let none = ("sys/fs/cgroup/pod/one/cpu.max", "max 100000\n");
    assert_eq!(cores(&[STATUS, VERSION_2, group, none, around]), (2, 5, Some(2.5)));
    // Nonsense is no limit.
    let nonsense = ("sys/fs/cgroup/pod/one/cpu.max", "lots of it\n");
    assert_eq!(cores(&[STATUS, VERSION_2, group, nonsense]), (5, 5, None));
}

/// Without a profile the pool has a thread for each processor, of which a quota may pay for few.
#[test]
fn the_default_plan_has_the_threads_that_a_quota_pays_for() {
    let group = ("proc/self/cgroup", "0::/pod\n");
    let quota = ("sys/fs/cgroup/pod/cpu.max", "250000 100000\n");
    let threads = |files: &[(&str, &str)]| {
        let root = root(files);
        default_plan(&Machine::below(root.path()), Backend::Scalar).threads.map(usize::from)
    };
    assert_eq!(threads(&[STATUS, VERSION_2, group, quota]), Some(2));
    assert_eq!(threads(&[STATUS, VERSION_2, group]), None);
}

#[test]
fn quotas_of_the_first_version() {
    let group = ("proc/self/cgroup", "4:memory:/x\n2:cpu,cpuacct:/job\n0::/\n");
    let quota = ("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "300000\n");
    let period = ("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_period_us", "100000\n");
    assert_eq!(cores(&[STATUS, VERSION_1, group, quota, period]), (3, 5, Some(3.0)));
    let unlimited = ("sys/fs/cgroup/cpu,cpuacct/job/cpu.cfs_quota_us", "-1\n");
    assert_eq!(cores(&[STATUS, VERSION_1, group, unlimited, period]), (5, 5, None));
    // Another hierarchy's files say nothing of this one.
    let other = ("sys/fs/cgroup/memory/job/cpu.cfs_quota_us", "100000\n");
    let its_period = ("sys/fs/cgroup/memory/job/cpu.cfs_period_us", "100000\n");
    assert_eq!(cores(&[STATUS, VERSION_1, group, other, its_period]), (5, 5, None));
}

#[test]
fn quotas_where_the_second_version_is_beside_the_first() {
    let group = ("proc/self/cgroup", "3:cpuset:/\n2:cpuacct:/\n0::/user.slice\n");
    let quota = ("sys/fs/cgroup/unified/user.slice/cpu.max", "150000 100000\n");
    assert_eq!(cores(&[STATUS, HYBRID, group, quota]), (1, 5, Some(1.5)));
}

#[test]
fn quotas_at_any_place() {
    // A space, an octal escape; a hierarchy mounted twice; a mount that hides another; a container, which sees its own
    // group at the mount point.
    for (mounts, group, file) in [
        ("1 0 0:3 / /my\\040groups rw - cgroup2 none rw\n", "0::/job\n", "my groups/job/cpu.max"),
        (
            "1 0 0:3 / /a rw - cgroup2 none rw\n2 0 0:3 / /b rw - cgroup2 none rw\n",
            "0::/job\n",
            "b/job/cpu.max",
        ),
        (
            "1 0 0:3 /docker/77 /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
            "0::/docker/77\n",
            "sys/fs/cgroup/cpu.max",
        ),
        (
            "1 0 0:3 /docker/77 /sys/fs/cgroup ro - cgroup2 cgroup rw\n",
            "0::/docker/77/worker\n",
            "sys/fs/cgroup/worker/cpu.max",
        ),
        ("1 0 0:3 /.. /sys/fs/cgroup ro - cgroup2 cgroup rw\n", "0::/\n", "sys/fs/cgroup/cpu.max"),
    ] {
        let files =
            [STATUS, ("proc/self/mountinfo", mounts), ("proc/self/cgroup", group), (file, "200000 100000\n")];
        assert_eq!(cores(&files), (2, 5, Some(2.0)), "{mounts} {group}");
    }
    let hidden = ("proc/self/mountinfo", "1 0 0:3 / /a rw - cgroup2 x rw\n2 1 0:4 / /a rw - tmpfs x rw\n");
    let group = ("proc/self/cgroup", "0::/job\n");
    let quota = ("a/job/cpu.max", "200000 100000\n");
    assert_eq!(cores(&[STATUS, hidden, group, quota]), (5, 5, None));
    // Another container's group is not this process's.
    let other = ("proc/self/mountinfo", "1 0 0:3 /docker/1 /a rw - cgroup2 x rw\n");
    let group = ("proc/self/cgroup", "0::/docker/12\n");
    let quota = ("a/cpu.max", "200000 100000\n");
    assert_eq!(cores(&[STATUS, other, group, quota]), (5, 5, None));
}

/// One mount point that is no UTF-8 takes nothing from the others.
#[test]
fn quotas_beside_a_name_that_is_no_text() {
    let root = root(&[STATUS, ("proc/self/cgroup", "0::/\n"), ("c/cpu.max", "100000 100000\n")]);
    let mounts = b"1 0 0:3 / /\xff\xfe rw - tmpfs x rw\n2 0 0:3 / /c rw - cgroup2 x rw\n";
    fs::write(root.path().join("proc/self/mountinfo"), mounts).expect("written");
    assert_eq!(Machine::below(root.path()).quota, Some(1.0));
}

#[test]
fn the_rest_of_a_machine_is_read_from_its_files() {
    let cache = |index: usize, level: &str, kind: &str, size: &str, shared: &str| {
        ["level", "type", "size", "shared_cpu_list"]
            .into_iter()
            .zip([level, kind, size, shared])
            .map(|(name, text)| {
                (format!("sys/devices/system/cpu/cpu0/cache/index{index}/{name}"), text.to_owned())
            })
            .collect::<Vec<_>>()
    };
    let caches = [
        cache(0, "1", "Data", "32K", "0,32"),
        cache(1, "1", "Instruction", "32K", "0,32"),
        cache(2, "2", "Unified", "1024K", "0,32"),
        cache(3, "3", "Unified", "32M", "0-7,32-39"),
    ];
    let mut files: Vec<(String, String)> = caches.into_iter().flatten().collect();
    for (path, text) in [
        ("proc/self/status", "Cpus_allowed_list:\t0-63\n"),
        ("proc/meminfo", "MemTotal:       16384 kB\nMemFree: 1 kB\n"),
        ("sys/devices/system/cpu/cpu0/topology/thread_siblings_list", "0,32\n"),
        ("sys/devices/system/node/online", "0-7\n"),
        ("sys/kernel/mm/transparent_hugepage/enabled", "always [madvise] never\n"),
    ] {
        files.push((path.into(), text.into()));
    }
    let files: Vec<_> = files.iter().map(|(path, text)| (path.as_str(), text.as_str())).collect();
    let root = root(&files);
    let machine = Machine::below(root.path());
    assert_eq!([machine.cache(1), machine.cache(2), machine.cache(3)], [32 << 10, 1 << 20, 32 << 20]);
    assert_eq!(machine.last_level(), 4 * (32 << 20));
    assert_eq!((machine.cores, machine.smt, machine.numa_nodes, machine.memory), (64, 2, 8, 16 << 20));
    assert_eq!(machine.huge_pages, "madvise");
    // Without any file nothing fails.
    let empty = tempdir().expect("a folder");
    assert!(Machine::below(empty.path()).cores >= 1);
}

/// A machine of which nothing is known: neither its profile nor its report has a value that is empty.
#[test]
fn no_value_is_empty_where_nothing_is_known() {
    let empty = tempdir().expect("a folder");
    let mut machine = Machine { vendor: String::new(), brand: String::new(), ..Machine::below(empty.path()) };
    machine.caches.clear();
    machine.isa.clear();
    let document = Document::new(&machine, "estimate", &[]);
    let text = document.to_toml().expect("TOML");
    assert!(
        !text.contains("\"\"") && !text.contains("memory = 0") && !text.contains("page_size = 0"),
        "{text}"
    );
    assert_eq!(Document::parse(&text).expect("a profile"), document);
    let page = report::html(&TuningRecord { machine: machine.clone(), cases: Vec::new() });
    let row = |name: &str| {
        let (_, row) = page.split_once(&format!("<th>{name}</th><td>")).expect("a row");
        row.split_once("</td>").expect("an end").0.to_owned()
    };
    assert_eq!(row("extensions"), "unknown");
    assert_eq!(row("caches"), "unknown");
    assert_eq!(row("memory"), "unknown, pages of unknown, huge pages: unknown");
    assert!(row("processor").starts_with("unknown family"), "{page}");
    assert!(page.contains(&format!("<h1>Lion on {}</h1>", machine.arch)), "{page}");
    // Beside a machine of which all is known.
    let known = Machine { huge_pages: "madvise".into(), ..machine.clone() };
    let differences = document.fit(&known).expect("it fits");
    assert_eq!(differences, ["huge pages: unknown in the profile and madvise here"]);
}
