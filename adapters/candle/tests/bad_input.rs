//! Tests that invalid input is an error and changes nothing, and that candle's conventions hold.

use candle_core::{DType, Device, Result, Tensor, Var, backprop::GradStore};
use candle_nn::{Init, Optimizer, VarBuilder, VarMap};
use lion_candle::{Lion, Outcome};

const CPU: &Device = &Device::Cpu;

fn ones(len: usize) -> Var {
    Var::ones(len, DType::F32, CPU).expect("a variable")
}

/// Returns the gradients of the sum of these variables.
fn gradients(vars: &[&Var]) -> GradStore {
    let sums = vars.iter().map(|var| var.sum_all());
    let sum = sums.reduce(|a, b| a? + b?).expect("a variable").expect("a sum");
    sum.backward().expect("gradients")
}

fn optimizer(vars: &[&Var]) -> Lion {
    Lion::from_slice(vars, Lion::builder().learning_rate(0.5)).expect("made")
}

fn values(var: &Var) -> Vec<f32> {
    var.to_vec1().expect("values")
}

fn refused(result: Result<impl Sized>, expected: &str) {
    let error = result.map(|_| ()).expect_err("refused").to_string();
    assert!(error.contains(expected), "{error}");
}

#[test]
fn gradients_of_another_shape_or_format() {
    let (a, b) = (ones(2), ones(3));
    let mut optimizer = optimizer(&[&a, &b]);
    for (gradient, expected) in [
        (
            Tensor::ones(2, DType::F32, CPU),
            "variable \"1\": the gradient has the shape [2], and the variable has [3]",
        ),
        (Tensor::ones((1, 3), DType::F32, CPU), "the gradient has the shape [1, 3]"),
        (
            Tensor::ones(3, DType::F64, CPU),
            "variable \"1\": the gradient is F64, and must be F32, F16 or BF16",
        ),
        (Tensor::ones(3, DType::U32, CPU), "the gradient is U32"),
    ] {
        let mut gradients = gradients(&[&a, &b]);
        gradients.insert(&b, gradient.expect("a tensor"));
        refused(optimizer.step(&gradients), expected);
        assert_eq!((values(&a), values(&b)), (vec![1.0; 2], vec![1.0; 3]));
        assert_eq!(optimizer.core().iterations(), 0);
    }
    // The gradient may have another of the three dtypes.
    let mut gradients = gradients(&[&a, &b]);
    gradients.insert(&b, Tensor::ones(3, DType::BF16, CPU).expect("a tensor"));
    optimizer.step(&gradients).expect("a step");
    assert_eq!((values(&a), values(&b)), (vec![0.5; 2], vec![0.5; 3]));
}

#[test]
fn the_first_of_many_is_named() {
    let vars: Vec<Var> = (0..400).map(|_| ones(2)).collect();
    let mut optimizer = optimizer(&vars.iter().collect::<Vec<_>>());
    for threads in [1, 2, 8] {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().expect("a pool");
        let mut gradients = gradients(&vars.iter().collect::<Vec<_>>());
        for index in [399, 250, 130, 131] {
            gradients.insert(&vars[index], Tensor::ones(3, DType::F32, CPU).expect("a tensor"));
        }
        refused(
            pool.install(|| optimizer.step(&gradients)),
            "variable \"130\": the gradient has the shape [3]",
        );
        // A variable's own storage as its gradient. This is detected only after all variables have been lent.
        for index in [399, 250, 130, 131] {
            gradients.insert(&vars[index], vars[index].as_detached_tensor());
        }
        refused(pool.install(|| optimizer.step(&gradients)), "variable \"130\": its gradient shares");
        assert!(vars.iter().all(|var| values(var) == [1.0; 2]));
    }
}

#[test]
fn gradients_in_another_order_of_axes() {
    let var = Var::ones((2, 3), DType::F32, CPU).expect("a variable");
    let mut optimizer = optimizer(&[&var]);
    let mut gradients = gradients(&[&var]);
    let turned =
        Tensor::new(&[[1.0_f32, -1.0], [1.0, 1.0], [-1.0, 1.0]], CPU).expect("a tensor").t().expect("turned");
    assert!(!turned.is_contiguous());
    gradients.insert(&var, turned);
    optimizer.step(&gradients).expect("a step");
    assert_eq!(var.to_vec2::<f32>().expect("values"), [[0.5, 0.5, 1.5], [1.5, 0.5, 0.5]]);
}

#[test]
fn gradients_that_are_missing() {
    let (a, b) = (ones(2), ones(3));
    let mut optimizer = optimizer(&[&a, &b]);
    optimizer.step(&gradients(&[&b])).expect("a step");
    assert_eq!((values(&a), values(&b)), (vec![1.0; 2], vec![0.5; 3]));
    refused(optimizer.step(&gradients(&[&ones(1)])), "no variable of the step has a gradient");
    assert_eq!(values(&b), vec![0.5; 3]);
}

#[test]
fn a_gradient_that_is_the_variable_itself() {
    let a = ones(2);
    let mut optimizer = optimizer(&[&a]);
    let mut gradients = gradients(&[&a]);
    gradients.insert(&a, a.as_detached_tensor());
    refused(optimizer.step(&gradients), "variable \"0\": its gradient shares its storage with a variable");
    assert_eq!(values(&a), vec![1.0; 2]);
}

#[test]
fn formats_of_variables() {
    let (float, double) = (ones(2), Var::ones(2, DType::F64, CPU).expect("a variable"));
    let integers = Var::ones(2, DType::U32, CPU).expect("a variable");
    let builder = || Lion::builder().learning_rate(0.5);
    refused(Lion::new(vec![float.clone(), double], builder()), "variable \"1\": it is F64, and must be F32");
    // candle's optimizers leave integers out.
    let mut optimizer = Lion::new(vec![integers, float.clone()], builder()).expect("made");
    assert_eq!(optimizer.core().variables().len(), 1);
    optimizer.step(&gradients(&[&float])).expect("a step");
    assert_eq!(values(&float), vec![0.5; 2]);
}

#[test]
fn variables_that_share_storage() {
    let a = ones(2);
    let again = Var::from_tensor(a.as_tensor()).expect("the same variable");
    let builder = Lion::builder();
    refused(
        Lion::new(vec![a.clone(), again.clone()], builder.clone()),
        "variable \"1\": it shares its storage",
    );
    let mut optimizer = Lion::new(vec![a.clone()], builder).expect("made");
    refused(optimizer.push("again", &again), "variable \"again\": it shares its storage");
    refused(optimizer.push("0", &ones(1)), "variable \"0\" already exists");
    optimizer.step(&gradients(&[&a])).expect("a step");

    let map = VarMap::new();
    let insert = |name: &str| map.data().lock().expect("no thread panicked").insert(name.into(), a.clone());
    insert("a");
    let mut optimizer = Lion::from_varmap(&map, Lion::builder()).expect("made");
    insert("tied");
    refused(optimizer.step(&gradients(&[&a])), "variable \"tied\": it shares its storage");
}

#[test]
fn no_variables() {
    let mut optimizer = Lion::empty(Lion::builder()).expect("made");
    optimizer.step(&gradients(&[&ones(1)])).expect("nothing happens");
    assert_eq!(optimizer.metrics().map(|metrics| metrics.outcome), Some(Outcome::Empty));
    let mut optimizer = Lion::from_varmap(&VarMap::new(), Lion::builder()).expect("made");
    optimizer.step(&gradients(&[&ones(1)])).expect("nothing happens");
}

#[test]
fn variables_added_later() {
    let map = VarMap::new();
    let builder = VarBuilder::from_varmap(&map, DType::F32, CPU);
    builder.get_with_hints(2, "b", Init::Const(1.0)).expect("made");
    let integers = VarBuilder::from_varmap(&map, DType::U32, CPU);
    integers.get_with_hints(2, "positions", Init::Const(1.0)).expect("made");
    let mut optimizer = Lion::from_varmap(&map, Lion::builder().learning_rate(0.5)).expect("made");
    builder.get_with_hints(3, "a", Init::Const(1.0)).expect("made");
    let var = |name: &str| map.data().lock().expect("no thread panicked")[name].clone();
    optimizer.step(&gradients(&[&var("a"), &var("b")])).expect("a step");
    assert_eq!((values(&var("a")), values(&var("b"))), (vec![0.5; 3], vec![0.5; 2]));
    assert_eq!(optimizer.core().variables().map(|found| found.name).collect::<Vec<_>>(), ["b", "a"]);

    let (a, b) = (ones(1), ones(1));
    let mut optimizer = self::optimizer(&[&a]);
    optimizer.push("b", &b).expect("added");
    optimizer.step(&gradients(&[&a, &b])).expect("a step");
    assert_eq!((values(&a), values(&b)), (vec![0.5], vec![0.5]));
}

/// Returns a map of variables with two ones each, and its optimizer.
fn followed(names: &[&str]) -> (VarMap, Lion) {
    let map = VarMap::new();
    for name in names {
        insert(&map, name, &ones(2));
    }
    let optimizer = Lion::from_varmap(&map, Lion::builder().learning_rate(0.5)).expect("made");
    (map, optimizer)
}

fn insert(map: &VarMap, name: &str, var: &Var) -> Option<Var> {
    map.data().lock().expect("no thread panicked").insert(name.into(), var.clone())
}

#[test]
fn variables_replaced_under_their_name() {
    let (map, mut optimizer) = followed(&["a", "b"]);
    let (a, b) = (ones(2), ones(2));
    let (first, second) =
        (insert(&map, "a", &a).expect("was there"), insert(&map, "b", &b).expect("was there"));
    // Before any step, and then after one: the state belongs to the name.
    optimizer.step(&gradients(&[&a, &b])).expect("a step");
    assert_eq!((values(&a), values(&b)), (vec![0.5; 2], vec![0.5; 2]));
    let again = ones(2);
    insert(&map, "a", &again);
    // With the momentum of the previous step, the direction has the sign of the previous gradient. Without it, the
    // variable would rise.
    let small =
        again.affine(-0.05, 0.0).expect("scaled").sum_all().expect("summed").backward().expect("gradients");
    optimizer.step(&small).expect("a step");
    assert_eq!((values(&again), values(&a), values(&b)), (vec![0.5; 2], vec![0.5; 2], vec![0.5; 2]));
    // Variables that are no longer in the map do not change.
    assert_eq!((values(&first), values(&second)), (vec![1.0; 2], vec![1.0; 2]));
    assert_eq!(optimizer.core().variables().map(|found| found.name).collect::<Vec<_>>(), ["a", "b"]);
}

#[test]
fn variables_that_change_their_names() {
    let (map, mut optimizer) = followed(&["a", "b"]);
    let (a, b) = (ones(2), ones(2));
    insert(&map, "a", &a);
    insert(&map, "b", &b);
    let mut only_a = gradients(&[&a, &b]);
    only_a.remove(&b);
    optimizer.step(&only_a).expect("a step");
    // Swap the variables: the momentum of the name "a" now moves the variable that was "b".
    insert(&map, "a", &b);
    insert(&map, "b", &a);
    let small =
        b.affine(-0.05, 0.0).expect("scaled").sum_all().expect("summed").backward().expect("gradients");
    optimizer.step(&small).expect("a step");
    assert_eq!((values(&a), values(&b)), (vec![0.5; 2], vec![0.5; 2]));
    // One variable is removed and another added, so their number does not change.
    let c = ones(2);
    map.data().lock().expect("no thread panicked").remove("b");
    insert(&map, "c", &c);
    optimizer.step(&gradients(&[&c])).expect("a step");
    assert_eq!(values(&c), vec![0.5; 2]);
}

#[test]
fn variables_replaced_by_others_that_do_not_fit() {
    let var = |shape: &[usize], dtype| Var::ones(shape, dtype, CPU).expect("a variable");
    for (other, expected) in [
        (
            var(&[3], DType::F32),
            "variable \"a\": the VarMap has another in its place, which is F32 [3]; expected F32 [2]",
        ),
        (var(&[2, 1], DType::F32), "F32 [2, 1]; expected F32 [2]"),
        (var(&[2], DType::BF16), "BF16 [2]; expected F32 [2]"),
        (var(&[2], DType::U32), "U32 [2]; expected F32 [2]"),
        (var(&[2], DType::F64), "F64 [2]; expected F32 [2]"),
    ] {
        let (map, mut optimizer) = followed(&["a", "b"]);
        let b = map.data().lock().expect("no thread panicked")["b"].clone();
        let a = insert(&map, "a", &other).expect("was there");
        // In every step, until it is corrected.
        for _ in 0..2 {
            refused(optimizer.step(&gradients(&[&b])), expected);
            assert_eq!((values(&b), optimizer.core().iterations()), (vec![1.0; 2], 0));
        }
        insert(&map, "a", &a);
        optimizer.step(&gradients(&[&a, &b])).expect("a step");
        assert_eq!((values(&a), values(&b)), (vec![0.5; 2], vec![0.5; 2]));
    }
    let (map, mut optimizer) = followed(&["a", "b"]);
    let b = map.data().lock().expect("no thread panicked")["b"].clone();
    insert(&map, "a", &b);
    refused(optimizer.step(&gradients(&[&b])), "variable \"a\": it shares its storage with another variable");
    // A variable that was added by hand does not belong to the map.
    let (map, mut optimizer) = followed(&["a"]);
    optimizer.push("mine", &ones(2)).expect("added");
    insert(&map, "mine", &ones(2));
    refused(optimizer.step(&gradients(&[&ones(1)])), "variable \"mine\" already exists");
}

#[test]
fn options_out_of_range() {
    refused(Lion::new(vec![ones(1)], Lion::builder().beta_1(0.0)), "beta_1 is 0, and must be");
    let a = ones(1);
    let mut optimizer = optimizer(&[&a]);
    for rate in [f64::NAN, -1.0, f64::INFINITY] {
        optimizer.set_learning_rate(rate);
        refused(optimizer.step(&gradients(&[&a])), "learning_rate is");
        assert_eq!((values(&a), optimizer.learning_rate()), (vec![1.0], 0.5));
    }
    optimizer.set_learning_rate(0.25);
    optimizer.step(&gradients(&[&a])).expect("a step");
    assert_eq!((values(&a), optimizer.learning_rate()), (vec![0.75], 0.25));
}

#[test]
fn checkpoints() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let (a, b) = (ones(2), ones(2));
    let (mut optimizer, mut resumed) = (optimizer(&[&a]), self::optimizer(&[&b]));
    optimizer.step(&gradients(&[&a])).expect("a step");
    optimizer.save(&path).expect("written");
    resumed.load(&path).expect("read");
    b.set(&a).expect("set");
    for (var, optimizer) in [(&a, &mut optimizer), (&b, &mut resumed)] {
        optimizer.step(&gradients(&[var])).expect("a step");
    }
    assert_eq!((values(&a), resumed.core().iterations()), (values(&b), 2));

    let mut other = self::optimizer(&[&ones(3)]);
    refused(other.load(&path), "momentum/0: has the shape [2], and the variable has [3]");
    let mut other = self::optimizer(&[&ones(2), &ones(2)]);
    refused(other.load(&path), "momentum/1: is missing");
    std::fs::write(&path, "no checkpoint").expect("written");
    refused(other.load(&path), "state.safetensors");
    refused(other.load(folder.path().join("absent")), "absent");
}
