//! The optimizer under `mpirun`: one digest for any number of ranks, ranks that fail, and checkpoints that survive kills.

mod common;

use std::fs;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use common::{alone, example, job, printed, run};
use lion_distributed::checkpoint::Index;
use tempfile::tempdir;

#[test]
fn one_digest_for_any_number_of_ranks() {
    let _alone = alone();
    let expected = printed(1, &example("ranks"), &["train", "5"]);
    assert!(expected.ends_with(" after 5 calls\n"), "{expected}");
    for ranks in [2, 3, 4] {
        assert_eq!(printed(ranks, &example("ranks"), &["train", "5"]), expected, "{ranks} ranks");
    }
    assert_ne!(printed(1, &example("ranks"), &["train", "4"]), expected);
}

#[test]
fn the_digits_have_the_same_weights_on_one_two_and_four_ranks() {
    let _alone = alone();
    let expected = printed(1, &example("digits"), &["1"]);
    assert!(expected.starts_with("weights "), "{expected}");
    for ranks in [2, 4] {
        assert_eq!(printed(ranks, &example("digits"), &["1"]), expected, "{ranks} ranks");
    }
    // Four leaves cannot be shared by three.
    assert!(!run(3, &example("digits"), &["1"]).status.success());
}

#[test]
fn saved_on_four_ranks_and_resumed_on_three_and_one() {
    let _alone = alone();
    let expected = printed(1, &example("ranks"), &["train", "5"]);
    for ranks in [3, 1] {
        let folder = tempdir().expect("a folder");
        let index = folder.path().join("run.json").to_string_lossy().into_owned();
        printed(4, &example("ranks"), &["train", "3", &index]);
        assert_eq!(printed(ranks, &example("ranks"), &["train", "2", &index]), expected, "{ranks} ranks");
    }
}

/// Ranks that fail in any way end the job, with a status that says so.
#[test]
fn a_rank_that_fails_ends_the_job() {
    let _alone = alone();
    let cases = [
        ("panic", "rank 1 panics"),
        ("error", "rank 1 ends the job: rank 1 has an error"),
        ("return", "the call of rank 1: the end of the run; expected apply, as on rank 0"),
        ("exit", ""),
        ("abort", ""),
        ("gradient", "variable \"a\": the gradient has 299999 elements, and its shape has 300000"),
        (
            "options",
            "the options of rank 1: \"learning_rate\": 0.02; expected \"learning_rate\": 0.01, as on rank 0",
        ),
        ("variables", "the variables of rank 1: \"d\" [50000] f32; expected \"c\" [50000] f32, as on rank 0"),
        ("dtype", "the variables of rank 1: \"a\" [300000] bf16; expected \"a\" [300000] f32, as on rank 0"),
        ("leaves", "the settings of rank 1: 24 leaves; expected 12 leaves, as on rank 0"),
    ];
    for (what, expected) in cases {
        let start = Instant::now();
        let output = run(3, &example("ranks"), &[what]);
        let (text, code) = (String::from_utf8_lossy(&output.stderr), output.status.code());
        // 124 is that of a job that hung.
        assert!(!matches!(code, Some(0 | 124)), "{what}: {output:?}");
        assert!(text.contains(expected), "{what}: {text}");
        println!("{what}: {:?}", start.elapsed());
    }
    let five = run(5, &example("ranks"), &["train", "1"]);
    let text = String::from_utf8_lossy(&five.stderr).into_owned();
    assert!(text.contains("leaves is 12; expected a multiple of the 5 ranks"), "{text}");
}

/// The processes that a job has started.
fn ranks_of(job: &Child, count: usize) -> Vec<u32> {
    let children = |process: u32| -> Vec<u32> {
        let text = fs::read_to_string(format!("/proc/{process}/task/{process}/children")).unwrap_or_default();
        text.split_whitespace().filter_map(|number| number.parse().ok()).collect()
    };
    let deadline = Instant::now() + Duration::from_secs(60);
    loop {
        // timeout, mpirun, the ranks.
        let found: Vec<u32> = children(job.id()).into_iter().flat_map(children).collect();
        if found.len() == count {
            return found;
        }
        assert!(Instant::now() < deadline, "{found:?}");
        sleep(Duration::from_millis(5));
    }
}

fn kill(process: u32) {
    let killed = Command::new("kill").args(["-KILL", &process.to_string()]).status().expect("it runs");
    assert!(killed.success());
}

fn start(ranks: usize, arguments: &[&str]) -> Child {
    let mut job = job(ranks, &example("ranks"), arguments);
    job.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("timeout and mpirun are installed")
}

#[test]
fn a_rank_that_is_killed_ends_the_job() {
    let _alone = alone();
    for (ranks, dies) in [(2, 0), (3, 1), (4, 3)] {
        let mut job = start(ranks, &["kill"]);
        let processes = ranks_of(&job, ranks);
        sleep(Duration::from_millis(700));
        kill(processes[dies]);
        let status = job.wait().expect("it ends");
        assert!(!matches!(status.code(), Some(0 | 124)), "{status:?}");
    }
}

/// Kills of a random rank while it saves: 9, or as many as `LION_TEST_KILLS` says.
#[test]
fn kills_while_saving_lose_nothing() {
    let _alone = alone();
    let kills: usize = std::env::var("LION_TEST_KILLS").map_or(9, |kills| kills.parse().expect("a number"));
    let folder = tempdir().expect("a folder");
    let index = folder.path().join("run.json");
    let name = index.to_string_lossy().into_owned();
    let mut state = std::process::id() as u64;
    let mut random = |below: u64| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) % below
    };
    let (mut iterations, mut generations) = (0, 0);
    for number in 0..kills {
        let ranks = [2, 4, 3][number % 3];
        let mut job = start(ranks, &["save", &name]);
        let processes = ranks_of(&job, ranks);
        sleep(Duration::from_millis(400 + random(600)));
        kill(processes[random(ranks as u64) as usize]);
        let status = job.wait().expect("it ends");
        assert!(!matches!(status.code(), Some(0 | 124)), "{status:?}");
        if !index.exists() {
            assert_eq!(generations, 0, "the index is gone");
            continue;
        }
        let found = Index::read(&index).expect("a whole index").iterations;
        assert!(found >= iterations, "it went back from {iterations} to {found}");
        generations += usize::from(found > iterations);
        iterations = found;
        for file in Index::read(&index).expect("an index").files {
            lion::state::Checkpoint::read(folder.path().join(file.file)).expect("a whole file");
        }
    }
    println!("{kills} kills, {generations} new checkpoints, {iterations} calls");
    assert!(generations > 0);
    let resumed = printed(1, &example("ranks"), &["train", "0", &name]);
    assert_eq!(resumed, printed(2, &example("ranks"), &["train", &iterations.to_string()]));
}

/// MPI's own reduction has another order, which depends on the ranks and on the size: of these ranks and elements it
/// differs from the tree, of others it does not.
#[test]
fn the_reduction_of_mpi_cannot_carry_the_promise() {
    let _alone = alone();
    for (ranks, elements) in [(3, "1000000"), (4, "20000")] {
        let line = printed(ranks, &example("reduce"), &[elements, "1"]);
        let of_mpi = line.split("MPI differs in ").nth(1).and_then(|rest| rest.split(' ').next());
        let of_mpi: u64 = of_mpi.and_then(|count| count.parse().ok()).expect("a number");
        assert!(of_mpi > 0 && line.contains("the tree in 0;"), "{line}");
        println!("{line}");
    }
    // The same twelve gradients have other sums on other numbers of ranks.
    let digests = [1, 2, 3, 4].map(|ranks| printed(ranks, &example("reduce"), &["leaves"]));
    assert!(digests.iter().any(|digest| *digest != digests[0]), "{digests:?}");
    assert!(digests[1] != digests[2] && digests[2] != digests[3], "{digests:?}");
}
