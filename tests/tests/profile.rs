//! Profiles: the order of precedence, and the handling of invalid profiles.

use std::fs;
use std::path::{Path, PathBuf};

use lion_autotune::profile::{default_plan, write};
use lion_autotune::{
    Case, CaseResult, Document, Dtypes, Environment, Error, Level, Machine, Operation, Profile, SizeClass,
    Source, Tuner,
};
use lion_kernels::{Backend, Dtype, Plan, Prefetch};
use proptest::prelude::*;
use tempfile::{TempDir, tempdir};

const F32: Dtypes = Dtypes::all(Dtype::F32);

/// A profile that was not measured, with a plan for each size class of the step in f32: the chunk says which class.
fn document(machine: &Machine) -> Document {
    let tuner =
        Tuner::new(machine.clone()).level(Level::Estimate).operations([Operation::Step]).dtypes([F32]);
    let mut document = tuner.run(|_| std::ops::ControlFlow::Continue(())).expect("an estimate").document;
    for (entry, blocks) in document.entries.iter_mut().zip(1..) {
        entry.plan.chunk = 4096 * blocks;
        entry.plan.threads = Some(3);
    }
    document
}

fn text() -> String {
    document(&Machine::detect()).to_toml().expect("TOML")
}

fn class(index: usize) -> SizeClass {
    SizeClass::all().nth(index).expect("a class")
}

/// A user's and a system's place for a profile.
struct Places {
    _folder: TempDir,
    user: PathBuf,
    system: PathBuf,
}

impl Places {
    fn new() -> Self {
        let folder = tempdir().expect("a folder");
        let [user, system] = ["user.toml", "system.toml"].map(|name| folder.path().join(name));
        Places { _folder: folder, user, system }
    }

    fn environment(&self) -> Environment {
        Environment {
            user: Some(self.user.clone()),
            system: Some(self.system.clone()),
            ..Environment::default()
        }
    }

    /// What is found with this text as the user's profile.
    fn found(&self, text: &[u8]) -> Profile {
        fs::write(&self.user, text).expect("written");
        Profile::found_in(&self.environment(), &Machine::detect())
    }
}

/// Defaults, and one warning that says this.
fn is_refused(profile: &Profile, expected: &str) {
    let machine = Machine::detect();
    assert_eq!(profile.source(), &Source::BuiltIn(machine.microarchitecture()));
    let default = default_plan(&machine, Backend::best());
    for &operation in Operation::ALL {
        assert_eq!(*profile.plan(operation, F32, 1 << 22), default);
    }
    let [warning] = profile.warnings() else { panic!("{:?}", profile.warnings()) };
    assert!(warning.contains(expected) && warning.ends_with("; using defaults"), "{warning}");
    assert!(warning.len() < 800 && !warning.contains('\n'), "{warning}");
}

#[test]
fn a_profile_is_read_as_it_was_written() {
    let document = document(&Machine::detect());
    let text = document.to_toml().expect("TOML");
    assert_eq!(Document::parse(&text).expect("a profile"), document);
    let profile = Profile::from_str(&text).expect("it fits");
    for index in 0..8 {
        let plan = profile.plan(Operation::Step, F32, class(index).bytes());
        assert_eq!(plan.chunk_elements, 4096 * (index + 1), "{}", class(index));
    }
    assert_eq!(profile.source(), &Source::Api);
    assert!(profile.warnings().is_empty());
}

#[test]
fn what_was_not_measured_has_the_nearest_plan() {
    let profile = Profile::from_str(&text()).expect("it fits");
    let at = |dtypes, bytes| *profile.plan(Operation::Step, dtypes, bytes);
    // The largest class is beyond what is measured at this level.
    assert_eq!(at(F32, 1 << 30), at(F32, 1 << 28));
    assert_eq!(at(Dtypes::all(Dtype::BF16), 1 << 20), at(F32, 1 << 20));
    let other = *profile.plan(Operation::Statistics, F32, 1 << 20);
    assert_eq!(other, default_plan(&Machine::detect(), Backend::best()));
}

#[test]
fn the_first_file_that_is_there_decides() {
    let places = Places::new();
    let machine = Machine::detect();
    let found = |environment: &Environment| Profile::found_in(environment, &machine);
    let built_in = Source::BuiltIn(machine.microarchitecture());
    assert_eq!(found(&places.environment()).source(), &built_in);

    fs::write(&places.system, text()).expect("written");
    assert_eq!(found(&places.environment()).source(), &Source::System(places.system.clone()));
    fs::write(&places.user, text()).expect("written");
    assert_eq!(found(&places.environment()).source(), &Source::User(places.user.clone()));

    let named = Environment { profile: Some(places.system.clone()), ..places.environment() };
    assert_eq!(found(&named).source(), &Source::Environment(places.system.clone()));
    let none = Environment { no_profile: true, ..named.clone() };
    assert_eq!(found(&none).source(), &built_in);
    assert!(found(&none).warnings().is_empty());

    // A bad one does not lead to the next.
    let missing = Environment { profile: Some("/nowhere/profile.toml".into()), ..places.environment() };
    is_refused(&found(&missing), "/nowhere/profile.toml: cannot open");
}

#[test]
fn variables_replace_parts_of_every_plan() {
    let places = Places::new();
    fs::write(&places.user, text()).expect("written");
    let environment = Environment {
        isa: Some("scalar".into()),
        threads: Some("5".into()),
        chunk: Some("10000".into()),
        ..places.environment()
    };
    let profile = Profile::found_in(&environment, &Machine::detect());
    assert_eq!(profile.source(), &Source::User(places.user.clone()));
    let plan = profile.plan(Operation::Step, F32, 1 << 24);
    assert_eq!(
        (plan.backend, plan.threads.map(usize::from), plan.chunk_elements),
        (Backend::Scalar, Some(5), 8192)
    );

    let wrong = Environment {
        isa: Some("mmx".into()),
        threads: Some("0".into()),
        chunk: Some("many".into()),
        ..places.environment()
    };
    let profile = Profile::found_in(&wrong, &Machine::detect());
    assert_eq!(profile.plan(Operation::Step, F32, 1 << 24).threads.map(usize::from), Some(3));
    let said = profile.warnings().join("\n");
    for expected in
        ["LION_NUM_THREADS is \"0\"", "LION_CHUNK is \"many\"", "LION_ISA: backend \"mmx\" does not exist"]
    {
        assert!(said.contains(expected), "{said}");
    }
}

#[test]
fn hostile_profiles_are_refused_and_defaults_used() {
    let places = Places::new();
    let good = text();
    let cases = [
        ("chunk = 4096", "chunk = 0", "entry 1: chunk is 0; expected a multiple of 4096"),
        ("chunk = 4096", "chunk = 4097", "chunk is 4097"),
        ("chunk = 4096", "chunk = 9223372036854769664", "chunk is 9223372036854769664"),
        ("chunk = 4096", "chunk = -4096", "line "),
        ("chunk = 4096", "chunk = \"all\"", "line "),
        ("threads = 3", "threads = 0", "threads is 0; expected a number from 1 to 4096"),
        ("threads = 3", "threads = 1000000000", "threads is 1000000000"),
        ("threads = 3", "threads = 3.5", "line "),
        ("prefetch = \"auto\"", "prefetch = \"never\"", "prefetch is \"never\"; expected auto, on or off"),
        ("schema = 1", "schema = 2", "the schema is 2 in the profile and 1 here"),
        ("schema = 1", "schema = 1\nshell = \"rm\"", "unknown field"),
        ("operation = \"step\"", "operation = \"format\"", "operation \"format\" does not exist"),
        ("dtypes = \"f32/f32/f32\"", "dtypes = \"f64\"", "combination of dtypes \"f64\" does not exist"),
        ("size = \"16 KiB\"", "size = \"huge\"", "size class \"huge\" does not exist"),
        ("revision = 1", "revision = 0", "the revision of the kernels is 0 in the profile"),
    ];
    for (from, to, expected) in cases {
        assert!(good.contains(from), "{from} in {good}");
        is_refused(&places.found(good.replacen(from, to, 1).as_bytes()), expected);
    }
    let backend = format!("backend = \"{}\"", Backend::best());
    assert!(good.contains(&backend));
    let missing = Backend::ALL.iter().find(|it| !it.is_available()).map_or("mmx", |it| it.name());
    for name in ["mmx", missing, "auto", ""] {
        let text = good.replacen(&backend, &format!("backend = \"{name}\""), 1);
        is_refused(&places.found(text.as_bytes()), &format!("backend is {name:?}; expected one of"));
    }
    is_refused(&places.found(b""), "missing field");
    is_refused(&places.found(b"\xff\xfe"), "invalid utf-8");
    is_refused(&places.found(&[b'['; 100_000]), "not a profile");
    is_refused(&places.found(&vec![b'#'; 100 << 20]), "more than");
    is_refused(&places.found(&vec![b'x'; 100 << 20]), "more than");
    fs::remove_file(&places.user).expect("removed");
    fs::create_dir(&places.user).expect("a folder");
    is_refused(&Profile::found_in(&places.environment(), &Machine::detect()), "cannot");
}

#[test]
fn a_profile_that_is_cut_off_anywhere_does_no_harm() {
    let text = text();
    for end in (0..text.len()).step_by(7) {
        if let Ok(document) = Document::parse(&text[..end]) {
            // Cut between two entries it is a shorter profile.
            assert!(document.plans().expect("checked").len() <= 8);
        }
    }
}

#[test]
fn a_profile_of_another_machine_is_refused() {
    let places = Places::new();
    let here = Machine::detect();
    type Change = fn(&mut Machine);
    let others: [(Change, &str); 4] = [
        (|it| it.vendor = "AnotherVendor".into(), "the processor is AnotherVendor family"),
        (|it| it.model += 1, "the processor is"),
        (|it| it.arch = "riscv64".into(), "the architecture is riscv64 in the profile"),
        (|it| it.isa.push("amx".into()), "the ISA is"),
    ];
    for (change, expected) in others {
        let mut other = here.clone();
        change(&mut other);
        is_refused(&places.found(document(&other).to_toml().expect("TOML").as_bytes()), expected);
    }
    // One that was searched for among other candidates is stale: its checksum is not that of its machine.
    let mut stale = document(&here);
    stale.kernels.candidates = "0123456789abcdef".into();
    is_refused(&places.found(stale.to_toml().expect("TOML").as_bytes()), "the checksum of the candidates");

    // Other cores or pages are worth a warning, and no more.
    let mut soft = here.clone();
    soft.cores += 6;
    soft.huge_pages = "sometimes".into();
    let profile = places.found(document(&soft).to_toml().expect("TOML").as_bytes());
    assert_eq!(profile.source(), &Source::User(places.user.clone()));
    let said = profile.warnings().join("\n");
    assert!(said.contains("cores: ") && said.contains("huge pages: sometimes in the profile"), "{said}");
}

#[test]
fn a_hostile_machine_takes_no_time() {
    let mut machine = Machine::detect();
    (machine.cores, machine.smt, machine.allowed) = (usize::MAX >> 1, 0, 0);
    let text = document(&machine).to_toml().expect("TOML");
    assert!(Profile::from_str(&text).is_ok());
}

#[test]
fn two_writers_leave_one_of_two_profiles() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("deep/er/profile.toml");
    let machine = Machine::detect();
    let (one, mut other) = (document(&machine), document(&machine));
    other.entries.truncate(1);
    std::thread::scope(|scope| {
        for document in [&one, &other] {
            let path = &path;
            scope.spawn(move || (0..50).for_each(|_| write(document, path).expect("written")));
        }
        for _ in 0..100 {
            if path.exists() {
                let found = Document::read(&path).expect("whole");
                assert!(found == one || found == other);
            }
        }
    });
    let left: Vec<_> = fs::read_dir(path.parent().expect("a folder")).expect("listed").collect();
    assert_eq!(left.len(), 1, "{left:?}");
    let refused = write(&one, Path::new("/dev/full")).expect_err("it is a device");
    assert!(matches!(refused, Error::File { .. }), "{refused}");
}

#[test]
fn fixed_plans_hold_for_everything() {
    let plan = Plan::new(Backend::Scalar).threads(2).chunk_elements(8192).prefetch(Prefetch::Off);
    let profile = Profile::fixed(plan);
    for bytes in [0, 1, 1 << 20, usize::MAX] {
        assert_eq!(*profile.plan(Operation::Convert, Dtypes::all(Dtype::F16), bytes), plan);
    }
    let case = Case::new(Operation::Step, F32, class(3));
    let result = |plan| -> CaseResult {
        serde_json::from_value(serde_json::json!({
            "case": case, "plan": plan, "default": plan, "trials": [],
        }))
        .expect("a result")
    };
    let written = serde_json::json!({
        "backend": "scalar", "threads": 2, "chunk": 8192, "parallel_from": 0, "prefetch": "off",
    });
    assert_eq!(result(written).plan, plan.parallel_threshold(0));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    #[test]
    fn no_text_is_more_than_an_error(at in 0_usize..4000, len in 0_usize..40, bytes in ".{0,30}") {
        let text = text();
        let (at, end) = (at.min(text.len()), (at + len).min(text.len()));
        prop_assume!(text.is_char_boundary(at) && text.is_char_boundary(end));
        let changed = format!("{}{bytes}{}", &text[..at], &text[end..]);
        if let Ok(document) = Document::parse(&changed) {
            for (_, plan) in document.plans().expect("checked") {
                prop_assert!(plan.backend.is_available() && plan.chunk_elements >= 4096 && plan.chunk_elements <= 1 << 30);
            }
        }
    }
}
