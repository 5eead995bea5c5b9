//! Restoring: an optimizer accepts checkpoints of its own kind, and rejects all others without changing.

use lion::checkpoint::{Checkpoint, LossScaleState, SavedVariable, Tensor};
use lion::{Dtype, Lion, TensorBuf, TensorRef, Update, VariableOptions};
use lion_tests::checkpoint_text;

fn optimizer() -> Lion {
    let mut optimizer = Lion::builder().ema(0.9).gradient_accumulation_steps(2).build().expect("valid");
    for name in ["b", "a"] {
        optimizer.register(name, &[2], Dtype::F32).expect("registered");
    }
    optimizer
}

/// What an optimizer knows, as text.
fn text(optimizer: &Lion) -> String {
    checkpoint_text(&optimizer.checkpoint().expect("no open step"))
}

#[test]
fn an_optimizer_takes_its_own_checkpoint() {
    let mut first = optimizer();
    let ids = ["a", "b"].map(|name| first.variable(name).expect("registered"));
    let (mut a, mut b) = ([1.0_f32, 2.0], [3.0_f32, 4.0]);
    let gradient = [0.5_f32, -0.25];
    for _ in 0..3 {
        let updates = &mut [
            Update::new(ids[0], &mut a[..], &gradient[..]),
            Update::new(ids[1], &mut b[..], &gradient[..]),
        ];
        first.apply(updates).expect("applied");
    }
    let mut second = optimizer();
    assert_ne!(text(&first), text(&second));
    second.restore(&first.checkpoint().expect("no open step")).expect("its own");
    assert_eq!(text(&first), text(&second));
    assert_eq!(second.iterations(), 3);
}

#[test]
fn nothing_is_taken_from_another_kind_of_checkpoint() {
    let values = [1.0_f32, 2.0, 3.0];
    let good = || {
        let variable = |name| {
            let tensor = || Some(Tensor::Borrowed(TensorRef::from(&values[..2])));
            let (momentum, ema, accumulator) = (tensor(), tensor(), tensor());
            SavedVariable { momentum, ema, accumulator, ..SavedVariable::new(name, &[2]) }
        };
        Checkpoint { variables: vec![variable("a"), variable("b")], iterations: 9, ..Checkpoint::default() }
    };
    optimizer().restore(&good()).expect("of its kind");
    let refused = |change: &dyn Fn(&mut Checkpoint<'_>), expected| {
        let mut checkpoint = good();
        change(&mut checkpoint);
        let mut optimizer = optimizer();
        let before = text(&optimizer);
        let error = optimizer.restore(&checkpoint).expect_err("of another kind").to_string();
        assert!(error.starts_with(expected), "{error}");
        assert_eq!(text(&optimizer), before);
    };
    refused(&|it| drop(it.variables.pop()), "momentum/b: is missing");
    refused(&|it| it.variables[1].name = "c".into(), "momentum/c: the optimizer has no such variable");
    refused(&|it| it.variables[1].name = "a".into(), "momentum/a: occurs twice");
    refused(
        &|it| it.variables[1].shape = vec![2, 1],
        "momentum/b: has the shape [2, 1], and the variable has [2]",
    );
    refused(&|it| it.variables[1].ema = None, "ema/b: is missing");
    refused(&|it| it.variables[0].accumulator = None, "accumulator/a: is missing");
    refused(
        &|it| it.dynamic = Some(LossScaleState { scale: 1.0, step_counter: 0 }),
        "dynamic_scale: is present, and the optimizer has none",
    );
    refused(
        &|it| {
            let values = TensorBuf::zeroed(Dtype::F16, 2).expect("memory");
            it.variables[0].parameter = Some(Tensor::Owned(values));
        },
        "param/a: is f16, and must be f32",
    );
}

/// With nothing to keep of a variable a file does not name it.
#[test]
fn a_file_may_leave_out_what_has_no_state() {
    let optimizer = || {
        let mut optimizer = Lion::builder().build().expect("valid");
        optimizer.register("a", &[2], Dtype::F32).expect("registered");
        let overwritten = VariableOptions { overwrite_with_gradient: true, ..VariableOptions::default() };
        optimizer.register_with("scale", &[1], Dtype::F32, overwritten).expect("registered");
        optimizer
    };
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    optimizer().checkpoint().expect("no open step").write(&path).expect("written");
    let checkpoint = Checkpoint::read(&path).expect("read");
    assert_eq!(checkpoint.variables.len(), 1);
    optimizer().restore(&checkpoint).expect("its own");

    let missing = Checkpoint { variables: Vec::new(), ..checkpoint };
    let error = optimizer().restore(&missing).expect_err("a momentum is missing").to_string();
    assert_eq!(error, "momentum/a: is missing");
}

#[test]
fn shapes_without_elements() {
    let mut optimizer = Lion::builder().build().expect("valid");
    for (name, shape) in [("a", [usize::MAX, 2, 0]), ("b", [0, usize::MAX, usize::MAX])] {
        optimizer.register(name, &shape, Dtype::BF16).expect("registered");
    }
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("checkpoint.safetensors");
    optimizer.checkpoint().expect("no open step").write(&path).expect("written");
    let own = text(&optimizer);
    optimizer.restore(&Checkpoint::read(&path).expect("read")).expect("its own");
    assert_eq!(text(&optimizer), own);
}
