//! `lion replay` writes the same file with any profile, valid or not.

use std::fs;
use std::path::Path;
use std::process::{Command, Output};

use lion::{Dtype, TensorBuf, TensorRef};
use lion_autotune::profile::{Document, Entry, PlanEntry};
use lion_autotune::{Dtypes, Machine, Operation, SizeClass};
use lion_kernels::{Backend, Role};
use lion_tests::{Rng, safetensors};
use tempfile::tempdir;

const CONFIG: &str = r#"{"learning_rate": 0.01, "weight_decay": 0.1, "clipnorm": 1.0, "use_ema": true,
    "ema_overwrite_frequency": 2, "gradient_accumulation_steps": 2}"#;

/// Variables that are split into chunks, and variables that are not.
const VARIABLES: [(&str, Dtype, usize); 4] =
    [("a", Dtype::F32, 40_000), ("b", Dtype::BF16, 12_289), ("c", Dtype::F16, 700), ("d", Dtype::F32, 4096)];

fn record(rng: &mut Rng, path: &Path) {
    let groups = ["param".to_owned()].into_iter().chain((0..6).map(|step| format!("grad/{step}")));
    let mut tensors = Vec::new();
    for (group, (name, dtype, len)) in groups.flat_map(|group| VARIABLES.map(|it| (group.clone(), it))) {
        let mut tensor = TensorBuf::zeroed(dtype, len).expect("memory");
        let values: Vec<f32> = (0..len).map(|_| rng.f32() * 2.0 - 1.0).collect();
        tensor.to_mut().write_f32(0, &values).expect("as long as the tensor");
        tensors.push((format!("{group}/{name}"), [len], tensor));
    }
    let tensors: Vec<(String, &[usize], TensorRef<'_>)> =
        tensors.iter().map(|(name, shape, values)| (name.clone(), &shape[..], values.to_ref())).collect();
    fs::write(path, safetensors::tensors(&tensors)).expect("written");
}

/// Returns a valid profile of this machine, with plans for some cases.
fn legal(rng: &mut Rng) -> Document {
    let backends: Vec<_> = Backend::available().collect();
    let mut document = Document::new(&Machine::detect(), "random", &[]);
    for _ in 0..rng.usize(0..30) {
        let mut dtype = |role| {
            let dtypes: Vec<_> = Dtype::for_role(role).collect();
            dtypes[rng.usize(..dtypes.len())]
        };
        let [parameter, gradient, momentum] =
            [Role::Parameter, Role::Gradient, Role::Momentum].map(&mut dtype);
        let dtypes = Dtypes { parameter, gradient, momentum };
        let plan = PlanEntry {
            backend: backends[rng.usize(..backends.len())].name().into(),
            threads: [None, Some(1), Some(2), Some(3), Some(64)][rng.usize(..5)],
            chunk: 4096 * rng.u64(1..20),
            parallel_from: [None, Some(0), Some(1 << 14), Some(1 << 20), Some(i64::MAX as u64)]
                [rng.usize(..5)],
            prefetch: ["auto", "on", "off"][rng.usize(..3)].into(),
        };
        let (operation, size) = (rng.usize(..Operation::ALL.len()), rng.usize(..SizeClass::COUNT));
        document.entries.push(Entry {
            operation: Operation::ALL[operation],
            dtypes,
            size: SizeClass::all().nth(size).expect("is one"),
            plan,
            nanoseconds: None,
            interval: None,
            default_nanoseconds: None,
        });
    }
    document
}

/// Returns a profile that must be refused.
fn illegal(rng: &mut Rng) -> String {
    let mut document = legal(rng);
    let text = |document: &Document| document.to_toml().expect("text");
    let Some(entry) = document.entries.last_mut() else { return "entry = 5".into() };
    match rng.usize(0..8) {
        0 => entry.plan.backend = "sse9".into(),
        1 => entry.plan.threads = Some(0),
        2 => entry.plan.threads = Some(1 << 40),
        3 => entry.plan.chunk = [0, 1, 4097, 1 << 60][rng.usize(..4)],
        4 => entry.plan.prefetch = "sometimes".into(),
        5 => document.schema += 1,
        6 => document.machine.family += 1,
        _ => {
            let whole = text(&document);
            // Not at the end of a line: that would leave a valid profile with fewer entries.
            let cut = whole.rfind("prefetch = ").expect("an entry") + rng.usize(..11);
            return whole[..cut].into();
        }
    }
    text(&document)
}

fn replay(folder: &Path, profile: &[&str]) -> Output {
    let path = |name: &str| folder.join(name).to_string_lossy().into_owned();
    let mut command = Command::new(env!("CARGO_BIN_EXE_lion"));
    for name in ["LION_ISA", "LION_PROFILE", "LION_CHUNK", "LION_NUM_THREADS"] {
        command.env_remove(name);
    }
    command.args(["replay", "--config", &path("config.json"), "--input", &path("run.safetensors")]);
    command.args(["--output", &path("result.safetensors")]).args(profile).env("RAYON_NUM_THREADS", "3");
    command.env("LION_NO_PROFILE", "1").output().expect("it runs")
}

#[test]
fn one_file_with_any_profile() {
    let folder = tempdir().expect("a folder");
    let path = |name: &str| folder.path().join(name);
    let mut rng = Rng::with_seed(0xb17);
    record(&mut rng, &path("run.safetensors"));
    fs::write(path("config.json"), CONFIG).expect("written");
    let run = |profile: &[&str]| {
        let done = replay(folder.path(), profile);
        assert!(done.status.success(), "{done:?}");
        let result = fs::read(path("result.safetensors")).expect("a result");
        (result, String::from_utf8(done.stderr).expect("text"))
    };
    let (expected, _) = run(&["--threads", "1"]);

    let file = path("profile.toml").to_string_lossy().into_owned();
    for round in 0..60 {
        let fits = round % 3 != 0;
        let profile = if fits { legal(&mut rng).to_toml().expect("text") } else { illegal(&mut rng) };
        fs::write(&file, &profile).expect("written");
        let (found, said) = run(&["--profile", &file]);
        assert!(found == expected, "round {round}: {profile}");
        match fits {
            true => assert_eq!(said, "", "{profile}"),
            false => assert!(said.contains("using defaults"), "{said}: {profile}"),
        }
    }
    // Not TOML at all.
    for nonsense in [&b""[..], b"\xff\xfe", b"[[[[", b"schema = 1e999"] {
        fs::write(&file, nonsense).expect("written");
        let (found, said) = run(&["--profile", &file]);
        assert!(found == expected && said.contains("using defaults"), "{said}");
    }
}
