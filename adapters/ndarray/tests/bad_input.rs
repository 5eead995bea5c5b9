//! Tests that invalid input is an error and changes nothing.

use half::bf16;
use lion_ndarray::{Error, Lion, Update};
use ndarray::{Array1, Array2, Array3, ArrayD, IxDyn, ShapeBuilder, array};

fn optimizer() -> Lion {
    Lion::new(Lion::builder().learning_rate(0.5)).expect("valid options")
}

fn refused(result: Result<impl Sized, Error>, expected: &str) {
    let error = result.map(|_| ()).expect_err("refused").to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn shapes_that_do_not_fit() {
    let mut optimizer = optimizer();
    // Six elements each, in the same order of axes.
    for (name, mut parameter) in
        [("row", Array2::<f32>::zeros((2, 3))), ("column", Array2::zeros((2, 3).f()))]
    {
        let id = optimizer.register(name, &parameter).expect("registered");
        let (gradient, mut turned) = (Array2::<f32>::ones((3, 2)), Array2::<f32>::zeros((3, 2)));
        let expected =
            format!("variable {name:?}: the gradient has the shape [3, 2], and the variable has [2, 3]");
        refused(optimizer.apply(&mut [Update::new(id, &mut parameter, &gradient)]), &expected);
        let expected = format!("variable {name:?}: the parameter has the shape [3, 2]");
        refused(optimizer.apply(&mut [Update::new(id, &mut turned, &gradient)]), &expected);
        for gradient in [ArrayD::<f32>::ones(IxDyn(&[6])), ArrayD::ones(IxDyn(&[2, 3, 1]))] {
            refused(
                optimizer.apply(&mut [Update::new(id, &mut parameter, &gradient)]),
                "the gradient has the shape",
            );
        }
        assert_eq!(parameter, Array2::<f32>::zeros((2, 3)));
        assert_eq!(optimizer.core().iterations(), 0);
    }
}

#[test]
fn formats_that_do_not_fit() {
    let mut optimizer = optimizer();
    let id = optimizer.register("w", &Array1::<f32>::zeros(4)).expect("registered");
    let mut narrow = Array1::from_elem(4, bf16::ZERO);
    let gradient = Array1::<f32>::ones(4);
    let update = Update::new(id, &mut narrow, &gradient);
    refused(
        optimizer.apply(&mut [update]),
        "variable \"w\": the parameter is bf16, and was registered as f32",
    );
}

#[test]
fn names_and_variables() {
    let mut optimizer = optimizer();
    let mut w = array![1.0_f32];
    let id = optimizer.register("w", &w).expect("registered");
    refused(optimizer.register("w", &w), "variable \"w\" already exists");
    // An empty call, and a call without gradients.
    optimizer.apply(&mut []).expect("nothing happens");
    refused(
        optimizer.apply(&mut [Update::without_gradient(id, &mut w)]),
        "no variable of the step has a gradient",
    );
    // Twice in one call, even with different arrays.
    let mut again = w.clone();
    let gradient = array![1.0_f32];
    let updates = &mut [Update::new(id, &mut w, &gradient), Update::new(id, &mut again, &gradient)];
    refused(optimizer.apply(updates), "variable \"w\" is in the step twice");
    // A variable of another optimizer.
    let mut other = self::optimizer();
    other.register("a", &w).expect("registered");
    let foreign = other.register("b", &w).expect("registered");
    refused(optimizer.apply(&mut [Update::new(foreign, &mut w, &gradient)]), "variable id 1 does not exist");
    assert_eq!((w, optimizer.core().iterations()), (array![1.0_f32], 0));
}

#[test]
fn a_checkpoint_of_another_model() {
    let mut optimizer = optimizer();
    optimizer.register("w", &Array2::<f32>::zeros((2, 3).f())).expect("registered");
    let mut other = self::optimizer();
    other.register("w", &Array3::<f32>::zeros((2, 3, 1))).expect("registered");
    refused(optimizer.restore(&other.checkpoint().expect("memory")), "has the shape [2, 3, 1]");
    let mut other = self::optimizer();
    other.register("v", &Array2::<f32>::zeros((2, 3))).expect("registered");
    refused(optimizer.restore(&other.checkpoint().expect("memory")), "the optimizer has no such variable");
}

#[test]
fn empty_arrays() {
    let mut optimizer = optimizer();
    let mut none = Array2::<f32>::zeros((0, 3));
    let id = optimizer.register("none", &none).expect("registered");
    optimizer.apply(&mut [Update::new(id, &mut none, &Array2::<f32>::zeros((0, 3)))]).expect("applied");
}
