//! Recorded runs: reading, and errors.

use std::fs;
use std::path::Path;

use lion::Lion;
use lion::replay::{Gradients, Recording, finalize, register, run};
use lion_tests::safetensors::zeros;
use tempfile::tempdir;

#[test]
fn runs_that_are_refused() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("run.safetensors");
    for (tensors, expected) in [
        (&[][..], "is not a recorded run: it has no tensor param/<name>"),
        (&[("grad/0/a", 1)], "is not a recorded run"),
        (&[("param/a", 1), ("grad/0/b", 1)], "grad/0/b: is the gradient of a variable that has no param/b"),
        (&[("param/a", 1), ("grad/0/a", 2)], "grad/0/a: has the shape [2], and param/a has [1]"),
        (&[("param/a", 1), ("grad/x/a", 1)], "grad/x/a: its step is not a whole number in decimal digits"),
        (&[("param/a", 1), ("grad/+1/a", 1)], "grad/+1/a: its step is not a whole number"),
        (&[("param/a", 1), ("grad//a", 1)], "grad//a: its step is not a whole number"),
        (&[("param/a", 1), ("grad/18446744073709551616/a", 1)], "its step is not a whole number"),
        (&[("param/a", 1), ("grad/0/", 1)], "grad/0/: is neither param/<name> nor grad/<step>/<name>"),
        (&[("param/a", 1), ("grad/0", 1)], "grad/0: is neither param/<name> nor grad/<step>/<name>"),
        (&[("param/", 1)], "param/: is neither param/<name> nor"),
        (&[("param/a", 1), ("momentum/a", 1)], "momentum/a: is neither param/<name> nor"),
        (&[("param/a", 1), ("grad/0/a", 1), ("grad/00/a", 1)], "duplicate gradient of this step"),
        (&[("param/a", 1), ("grad/1/a", 1)], "the run goes to step 1, and step 0 has no gradient"),
        (&[("param/a", 1), ("grad/18446744073709551615/a", 1)], "and step 0 has no gradient"),
    ] {
        fs::write(&path, zeros(tensors)).expect("written");
        let error = Recording::open(&path).map(|_| ()).expect_err("refused").to_string();
        assert!(error.starts_with(&format!("{}: ", path.display())), "{error}");
        assert!(error.contains(expected) && !error.contains('\n'), "{error}");
    }
    fs::write(&path, zeros(&[("param/a", 1)])).expect("written");
    assert_eq!(Recording::open(&path).expect("no steps").steps(), 0);
}

#[test]
fn golden_runs_are_read() {
    let cases = Path::new(env!("CARGO_MANIFEST_DIR")).join("golden").join("cases");
    let mut missing = 0;
    for case in fs::read_dir(&cases).expect("listed") {
        let path = case.expect("an entry").path().join("run.safetensors");
        let run = Recording::open(&path).unwrap_or_else(|error| panic!("{error}"));
        let names: Vec<_> = run.variables().map(|(name, ..)| name.to_owned()).collect();
        assert!(names.is_sorted() && run.steps() > 0, "{names:?}");
        assert_eq!(run.parameters().expect("read").len(), names.len());
        let mut gradients = Gradients::default();
        for call in 0..run.steps() {
            run.read_gradients(call, &mut gradients).expect("read");
            let found = (0..names.len()).filter(|&index| gradients.get(index).is_some()).count();
            assert!(found > 0);
            missing += names.len() - found;
        }
        run.read_gradients(run.steps(), &mut gradients).expect("none");
        assert!(gradients.get(0).is_none());
    }
    assert!(missing > 0);
}

/// The memory of one step serves the next, and the values are those of the step.
#[test]
fn steps_share_memory() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("run.safetensors");
    let values: Vec<f32> = (0..8).map(|x| x as f32).collect();
    let entry = |name, range: std::ops::Range<usize>| lion::tensor_file::Entry {
        name,
        shape: &[2],
        values: (&values[range]).into(),
    };
    // Step 10 comes after step 9, and not after step 1.
    let mut entries = vec![entry("param/0/a", 0..2), entry("param/b", 2..4)];
    let names: Vec<_> = (0..12).map(|step| format!("grad/{step}/0/a")).collect();
    entries.extend(names.iter().enumerate().map(|(step, name)| entry(name, step % 7..step % 7 + 2)));
    entries.push(entry("grad/1/b", 4..6));
    lion::tensor_file::write(&path, &entries, &[]).expect("written");
    let run = Recording::open(&path).expect("valid");
    assert_eq!((run.steps(), run.len()), (12, 2));
    let mut gradients = Gradients::default();
    let mut address = None;
    for call in 0..12 {
        run.read_gradients(call, &mut gradients).expect("read");
        let found = gradients.get(0).and_then(|it| it.as_slice::<f32>());
        let found = found.unwrap_or_else(|| panic!("no gradient in {call}"));
        assert_eq!(found, &values[call % 7..call % 7 + 2]);
        assert_eq!(*address.get_or_insert(found.as_ptr()), found.as_ptr());
        assert_eq!(gradients.get(1).is_some(), call == 1);
    }
}

#[test]
fn a_parameter_for_each_variable() {
    let folder = tempdir().expect("a folder");
    let path = folder.path().join("run.safetensors");
    fs::write(&path, zeros(&[("param/a", 1), ("param/b", 1), ("grad/0/a", 1)])).expect("written");
    let recording = Recording::open(&path).expect("a run");
    let mut optimizer = Lion::builder().build().expect("valid");
    let variables = register(&recording, &mut optimizer).expect("registered");
    let mut parameters = recording.parameters().expect("read");
    parameters.pop();
    let expected = "the number of parameters is 1, and must be 2, the number of variables";
    let error = run(&recording, &mut optimizer, &variables, &mut parameters, |_| {}).expect_err("too few");
    assert_eq!(error.to_string(), expected);
    let error = finalize(&mut optimizer, &variables, &mut parameters).expect_err("too few");
    assert_eq!(error.to_string(), expected);
}
