//! Tests that stochastic rounding, the exact split, 8-bit momentum and the variants of decay have the bits of a replay,
//! in every layout.

use half::bf16;
use lion::checkpoint::Checkpoint;
use lion_ndarray::{Constraint, Dtype, Format, Lion, Update, VariableId, VariableOptions};
use lion_testing::narrow::{CASES, Case, builder};
use lion_testing::recording::{Recorder, bits};
use ndarray::{ArrayD, IxDyn, ShapeBuilder, Slice};

/// Blocks of 8-bit momentum do not end at the ends of rows.
const SHAPE: [usize; 3] = [5, 6, 7];
const STEPS: usize = 20;

/// An element type of the parameters in these tests.
trait Number: Format + Default {
    fn of(value: f32) -> Self;
    fn bits(values: &[Self]) -> Vec<u8>;
    fn record(recorder: &mut Recorder, values: &[Self]);
}

impl Number for f32 {
    fn of(value: f32) -> Self {
        value
    }

    fn bits(values: &[Self]) -> Vec<u8> {
        bits(values.into()).1
    }

    fn record(recorder: &mut Recorder, values: &[Self]) {
        recorder.parameter("w", &SHAPE, values);
    }
}

impl Number for bf16 {
    fn of(value: f32) -> Self {
        bf16::from_f32(value)
    }

    fn bits(values: &[Self]) -> Vec<u8> {
        bits(values.into()).1
    }

    fn record(recorder: &mut Recorder, values: &[Self]) {
        recorder.parameter("w", &SHAPE, values);
    }
}

/// Returns a value for each index, of either sign, different in each step.
fn value(step: usize, index: usize) -> f32 {
    ((index * 37 + step * 101 + 11) % 97) as f32 / 48.5 - 1.0
}

/// Fills an array, in row-major order, with the values of a step.
fn filled<T: Number>(mut array: ArrayD<T>, step: usize) -> ArrayD<T> {
    array.iter_mut().enumerate().for_each(|(index, element)| *element = T::of(value(step, index)));
    array
}

fn layouts<T: Number>() -> [(&'static str, ArrayD<T>); 3] {
    let default = T::default();
    let permuted = ArrayD::from_elem(&[7, 5, 6][..], default).permuted_axes(IxDyn(&[1, 2, 0]));
    [
        ("row-major", ArrayD::from_elem(&SHAPE[..], default)),
        ("column-major", ArrayD::from_elem(IxDyn(&SHAPE).f(), default)),
        ("permuted", permuted),
    ]
}

/// Returns the elements in row-major order.
fn elements<T: Number>(array: &ArrayD<T>) -> Vec<T> {
    array.iter().copied().collect()
}

fn apply<T: Number>(optimizer: &mut Lion, id: VariableId, parameter: &mut ArrayD<T>, step: usize) {
    let gradient = filled::<bf16>(ArrayD::from_elem(&SHAPE[..], bf16::ZERO), step + 1);
    optimizer.apply(&mut [Update::new(id, parameter, &gradient)]).expect("applied");
}

/// Makes the first half of the steps with one optimizer. Another one, restored from its checkpoint, makes the rest with
/// an array of another layout.
fn every_layout<T: Number>(case: Case) {
    let mut recorder = Recorder::default();
    T::record(&mut recorder, &elements(&filled(layouts::<T>()[0].1.clone(), 0)));
    for step in 0..STEPS {
        let gradient: Vec<bf16> =
            (0..SHAPE.iter().product()).map(|index| bf16::of(value(step + 1, index))).collect();
        recorder.gradient(step, "w", &SHAPE, &gradient);
    }
    let replay = |builder| bits(recorder.replay(builder)[0].1.to_ref()).1;
    let expected = replay((case.set)(builder()));
    assert!(expected != replay(builder()), "{} changes nothing", case.name);
    for (first, array) in layouts::<T>() {
        for (second, other) in layouts::<T>() {
            let what = format!("{}, {first}, then {second}", case.name);
            let made = |array: &ArrayD<T>| {
                let mut optimizer = Lion::new((case.set)(builder())).expect("valid options");
                let id = optimizer.register("w", array).expect("registered");
                (optimizer, id)
            };
            let mut parameter = filled(array.clone(), 0);
            let (mut optimizer, id) = made(&parameter);
            (0..STEPS / 2).for_each(|step| apply(&mut optimizer, id, &mut parameter, step));

            let mut resumed = other;
            resumed.assign(&parameter);
            let (mut second, id) = made(&resumed);
            second.restore(&optimizer.checkpoint().expect("memory")).expect("restored");
            (STEPS / 2..STEPS).for_each(|step| apply(&mut second, id, &mut resumed, step));
            assert!(T::bits(&elements(&resumed)) == expected, "{what}");
        }
    }
}

#[test]
fn every_option_has_the_bits_of_a_replay() {
    for case in CASES {
        match case.parameters {
            Dtype::BF16 => every_layout::<bf16>(case),
            _ => every_layout::<f32>(case),
        }
    }
}

/// With its low halves, a bf16 array equals the f32 one.
#[test]
fn a_split_array_is_an_f32_one() {
    let start = filled::<f32>(layouts()[0].1.clone(), 3);
    for (name, array) in layouts::<bf16>() {
        let (mut whole, mut split) =
            (Lion::new(builder()).expect("valid"), Lion::new(builder().split_master(true)).expect("valid"));
        let (mut values, mut high) = (start.clone(), array);
        let (whole_id, id) = (
            whole.register("w", &values).expect("registered"),
            split.register("w", &high).expect("registered"),
        );
        // The values come from a view with gaps in another order of axes.
        let mut gaps = ArrayD::zeros(&[7, 12, 5][..]);
        let mut view = gaps.view_mut().permuted_axes(IxDyn(&[2, 1, 0]));
        let mut view = view.slice_axis_mut(ndarray::Axis(1), Slice::new(0, None, 2));
        view.assign(&start);
        split.parameter_from_f32(id, &view, &mut high).expect("stored");
        assert_eq!(split.parameter_to_f32(id, &high).expect("read"), start, "{name}");
        for step in 0..STEPS {
            apply(&mut whole, whole_id, &mut values, step);
            apply(&mut split, id, &mut high, step);
        }
        assert_eq!(split.parameter_to_f32(id, &high).expect("read"), values, "{name}");
        // An array of another layout than the registered one, with the same elements.
        let mut other = ArrayD::from_elem(IxDyn(&[5, 6, 14]), bf16::ZERO);
        let mut view = other.slice_axis_mut(ndarray::Axis(2), Slice::new(0, None, -2));
        view.assign(&high);
        assert_eq!(split.parameter_to_f32(id, &view).expect("read"), values, "{name}, by a view");
        split.parameter_from_f32(id, &start, &mut view).expect("stored");
        assert_eq!(split.parameter_to_f32(id, &view).expect("read"), start, "{name}, by a view");
    }
}

/// A constraint's axes are the array's axes, whatever its order in memory.
#[test]
fn a_constraint_counts_the_axes_of_the_array() {
    let trained = |array: ArrayD<f32>| {
        let mut parameter = filled(array, 0);
        let mut optimizer = Lion::new(builder()).expect("valid options");
        let constraint = Some(Constraint::max_norm(1.5, 1).expect("valid"));
        let options = VariableOptions { constraint, ..Default::default() };
        let id = optimizer.register_with("w", &parameter, options).expect("registered");
        (0..STEPS).for_each(|step| apply(&mut optimizer, id, &mut parameter, step));
        elements(&parameter)
    };
    let [(_, row_major), others @ ..] = layouts();
    let expected = trained(row_major.clone());
    for (name, array) in others {
        assert_eq!(trained(array), expected, "{name}");
    }
    let mut free = filled(row_major, 0);
    let mut optimizer = Lion::new(builder()).expect("valid options");
    let id = optimizer.register("w", &free).expect("registered");
    (0..STEPS).for_each(|step| apply(&mut optimizer, id, &mut free, step));
    assert_ne!(elements(&free), expected, "the constraint does nothing");
}

/// Low halves are saved in row-major order, also in a file.
#[test]
fn a_split_checkpoint_fits_any_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let made = |array: &ArrayD<bf16>| {
        let mut optimizer = Lion::new(builder().split_master(true)).expect("valid options");
        let id = optimizer.register("w", array).expect("registered");
        (optimizer, id)
    };
    let [(_, row), (_, column), _] = layouts::<bf16>();
    let (mut row, mut column) = (filled(row, 0), filled(column, 0));
    let ((mut first, first_id), (mut second, second_id)) = (made(&row), made(&column));
    for step in 0..STEPS {
        apply(&mut first, first_id, &mut row, step);
        apply(&mut second, second_id, &mut column, step);
    }
    let saved = |optimizer: &Lion| {
        optimizer.checkpoint().expect("memory").write(&path).expect("written");
        let read = Checkpoint::read(&path).expect("read");
        let low = read.variables[0].low.as_ref().expect("low halves").to_ref();
        bits(low)
    };
    assert_eq!(saved(&first), saved(&second));
}

#[test]
fn what_is_refused() {
    let refused = |result: Result<(), lion_ndarray::Error>, expected: &str| {
        let error = result.expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    let mut wide = filled::<f32>(layouts()[1].1.clone(), 0);
    let mut optimizer = Lion::new(builder().stochastic_rounding(3)).expect("valid options");
    refused(optimizer.register("w", &wide).map(drop), "stochastic_rounding is for bf16 parameters");
    let plain = VariableOptions { nearest_rounding: true, ..Default::default() };
    let id = optimizer.register_with("w", &wide, plain).expect("left out");
    let (before, mut narrow) = (wide.clone(), filled::<bf16>(layouts()[0].1.clone(), 0));
    let short = ArrayD::<f32>::zeros(&[5, 6][..]);
    refused(
        optimizer.parameter_from_f32(id, &short, &mut wide),
        "variable \"w\": the array of values has the shape [5, 6], and the variable has [5, 6, 7]",
    );
    refused(optimizer.parameter_from_f32(id, &before, &mut narrow), "the parameter is bf16");
    refused(optimizer.parameter_to_f32(id, &narrow).map(drop), "the parameter is bf16");
    refused(optimizer.parameter_to_f32(id, &short).map(drop), "the parameter has the shape [5, 6]");
    refused(Lion::new(builder().stochastic_rounding(3).split_master(true)).map(drop), "split_master");
    assert_eq!(wide, before);
}
