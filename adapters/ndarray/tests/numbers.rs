//! Tests that every layout gives the bits of the slice API.

use half::{bf16, f16};
use lion::checkpoint::{Checkpoint, Tensor};
use lion_ndarray::{Builder, Dtype, Lion, Update};
use lion_testing::recording::{Recorder, bits};
use ndarray::{Array, ArrayD, ArrayViewMutD, Axis, IxDyn, ShapeBuilder, Slice, arr0};

const SHAPE: [usize; 3] = [3, 4, 5];
const STEPS: usize = 8;

/// A memory layout of an array of the shape.
struct Layout {
    name: &'static str,
    memory: fn() -> ArrayD<f32>,
    view: for<'a> fn(&'a mut ArrayD<f32>) -> ArrayViewMutD<'a, f32>,
}

const LAYOUTS: [Layout; 5] = [
    Layout { name: "row-major", memory: || ArrayD::zeros(&SHAPE[..]), view: |array| array.view_mut() },
    Layout {
        name: "column-major",
        memory: || ArrayD::zeros(IxDyn(&SHAPE).f()),
        view: |array| array.view_mut(),
    },
    Layout {
        name: "permuted",
        memory: || ArrayD::zeros(&[5, 3, 4][..]),
        view: |array| array.view_mut().permuted_axes(IxDyn(&[1, 2, 0])),
    },
    Layout {
        name: "with gaps",
        memory: || ArrayD::zeros(&[3, 8, 5][..]),
        view: |array| array.slice_axis_mut(Axis(1), Slice::new(0, None, 2)),
    },
    Layout {
        name: "reversed",
        memory: || ArrayD::zeros(&SHAPE[..]),
        view: |array| array.slice_axis_mut(Axis(2), Slice::new(0, None, -1)),
    },
];

fn builder() -> Builder {
    Lion::builder().learning_rate(0.01).weight_decay(0.1).ema(0.9)
}

/// Returns a value for each index, of either sign, different in each step.
fn value(step: usize, index: usize) -> f32 {
    ((index * 37 + step * 101 + 11) % 97) as f32 / 48.5 - 1.0
}

/// Fills the elements in row-major order, whatever the layout.
fn fill(mut view: ArrayViewMutD<'_, f32>, step: usize) {
    view.iter_mut().enumerate().for_each(|(index, element)| *element = value(step, index));
}

fn elements(tensor: &Option<Tensor<'_>>) -> Vec<u8> {
    bits(tensor.as_ref().expect("a tensor").to_ref()).1
}

#[test]
fn layouts_change_no_bit() {
    let mut core = builder().build().expect("valid options");
    let id = core.register("w", &SHAPE, Dtype::F32).expect("registered");
    let row = |step| (0..SHAPE.iter().product()).map(|index| value(step, index)).collect::<Vec<f32>>();
    let mut expected = row(0);
    for step in 1..=STEPS {
        let gradient = row(step);
        let update = lion::Update::new(id, &mut expected, &gradient);
        core.apply(&mut [update]).expect("applied");
    }

    for parameters in &LAYOUTS {
        for gradients in &LAYOUTS {
            let names = format!("a parameter {}, a gradient {}", parameters.name, gradients.name);
            let (mut parameter, mut gradient) = ((parameters.memory)(), (gradients.memory)());
            fill((parameters.view)(&mut parameter), 0);
            let mut optimizer = Lion::new(builder()).expect("valid options");
            let id = optimizer.register("w", &(parameters.view)(&mut parameter)).expect("registered");
            for step in 1..=STEPS {
                fill((gradients.view)(&mut gradient), step);
                let mut parameter = (parameters.view)(&mut parameter);
                let gradient = (gradients.view)(&mut gradient);
                let update = Update::new(id, &mut parameter, &gradient);
                optimizer.apply(&mut [update]).expect("applied");
            }
            let found = (parameters.view)(&mut parameter).iter().copied().collect::<Vec<f32>>();
            assert_eq!(bits((&found).into()), bits((&expected).into()), "{names}");

            // A checkpoint is row-major.
            let (found, expected) =
                (optimizer.checkpoint().expect("memory"), core.checkpoint().expect("no open step"));
            let (found, expected) = (&found.variables[0], &expected.variables[0]);
            assert_eq!(found.shape, expected.shape, "{names}");
            assert_eq!(elements(&found.momentum), elements(&expected.momentum), "{names}");
            assert_eq!(elements(&found.ema), elements(&expected.ema), "{names}");
        }
    }
}

/// The memory between the elements of a view does not change.
#[test]
fn gaps_stay_as_they_are() {
    let mut memory = Array::from_elem((4, 6), 7.0_f32);
    let mut optimizer = Lion::new(builder()).expect("valid options");
    let mut view = memory.slice_mut(ndarray::s![.., 1..;2]);
    let id = optimizer.register("w", &view).expect("registered");
    optimizer
        .apply(&mut [Update::new(id, &mut view, &arr0(1.0_f32).broadcast((4, 3)).unwrap())])
        .expect("applied");
    for ((_, column), element) in memory.indexed_iter() {
        assert_eq!(*element == 7.0, column % 2 == 0, "column {column} is {element}");
    }
}

#[test]
fn a_checkpoint_fits_any_order() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let step = |optimizer: &mut Lion, parameter: &mut ArrayD<f32>, step| {
        let mut gradient = ArrayD::zeros(&SHAPE[..]);
        fill(gradient.view_mut(), step);
        let id = optimizer.core().variable("w").expect("registered");
        optimizer.apply(&mut [Update::new(id, parameter, &gradient)]).expect("applied");
    };
    let mut optimizer = Lion::new(builder()).expect("valid options");
    let mut parameter = ArrayD::zeros(IxDyn(&SHAPE).f());
    optimizer.register("w", &parameter).expect("registered");
    (1..4).for_each(|number| step(&mut optimizer, &mut parameter, number));
    optimizer.checkpoint().expect("memory").write(&path).expect("written");

    let mut resumed = Lion::new(builder()).expect("valid options");
    // This array is row-major, unlike the saved one.
    let mut other = ArrayD::zeros(&SHAPE[..]);
    other.assign(&parameter);
    resumed.register("w", &other).expect("registered");
    resumed.restore(&Checkpoint::read(&path).expect("read")).expect("restored");
    for number in 4..8 {
        step(&mut optimizer, &mut parameter, number);
        step(&mut resumed, &mut other, number);
        assert_eq!(parameter, other, "step {number}");
    }

    // The other direction: from row-major to column-major.
    let mut back = Lion::new(builder()).expect("valid options");
    back.register("w", &parameter).expect("registered");
    back.restore(&resumed.checkpoint().expect("memory")).expect("restored");
    step(&mut back, &mut other.clone(), 8);
    let (found, expected) = (back.checkpoint().expect("memory"), {
        step(&mut resumed, &mut other, 8);
        resumed.checkpoint().expect("memory")
    });
    assert_eq!(elements(&found.variables[0].momentum), elements(&expected.variables[0].momentum));
}

/// Every mixture of dtypes, 100 steps, compared with a replay of the recorded gradients.
#[test]
fn a_replay_gives_the_same_bits() {
    let mut recorder = Recorder::default();
    let mut optimizer = Lion::new(builder()).expect("valid options");
    let mut a = Array::from_shape_fn((7, 3), |(row, column)| value(0, 3 * row + column));
    let mut b = Array::from_shape_fn(20, |index| f16::from_f32(value(1, index)));
    let mut c = arr0(bf16::from_f32(0.5));
    recorder.parameter("a", &[7, 3], a.as_slice().expect("row-major"));
    recorder.parameter("b", &[20], b.as_slice().expect("row-major"));
    recorder.parameter("c", &[], c.as_slice().expect("row-major"));
    let ids = (
        optimizer.register("a", &a).expect("registered"),
        optimizer.register("b", &b).expect("registered"),
        optimizer.register("c", &c).expect("registered"),
    );
    for step in 0..100 {
        let for_a =
            Array::from_shape_fn((7, 3), |(row, column)| bf16::from_f32(value(step, 3 * row + column)));
        let for_b = Array::from_shape_fn(20, |index| value(step + 1, index));
        let for_c = arr0(f16::from_f32(value(step, 5)));
        recorder.gradient(step, "a", &[7, 3], for_a.as_slice().expect("row-major"));
        recorder.gradient(step, "b", &[20], for_b.as_slice().expect("row-major"));
        recorder.gradient(step, "c", &[], for_c.as_slice().expect("row-major"));
        let updates = &mut [
            Update::new(ids.0, &mut a, &for_a),
            Update::new(ids.1, &mut b, &for_b),
            Update::new(ids.2, &mut c, &for_c),
        ];
        optimizer.apply(updates).expect("applied");
    }
    let [(_, for_a), (_, for_b), (_, for_c)] = &recorder.replay(builder())[..] else {
        panic!("three variables")
    };
    assert_eq!(bits(a.as_slice().expect("row-major").into()), bits(for_a.to_ref()));
    assert_eq!(bits(b.as_slice().expect("row-major").into()), bits(for_b.to_ref()));
    assert_eq!(bits(c.as_slice().expect("row-major").into()), bits(for_c.to_ref()));
}
