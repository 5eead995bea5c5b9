//! Tests that stochastic rounding has the bits of a replay, also across records.

use burn::module::{Module, Param};
use burn::optim::{GradientsParams, ModuleOptimizer, Optimizer};
use burn::tensor::{Device, FloatDType, Tensor, TensorData};
use half::bf16;
use lion::Lion;
use lion_burn::{LionConfig, LionState, Rounding};
use lion_testing::recording::{Recorder, bits};

use crate::network::values;

const RATE: f64 = 0.001;
const STEPS: usize = 40;

/// Two bf16 parameters and one f32 parameter, on the autodiff device.
#[derive(Module, Debug)]
struct Narrow {
    first: Param<Tensor<1>>,
    wide: Param<Tensor<1>>,
    second: Param<Tensor<2>>,
}

fn tensor<const D: usize>(step: usize, shape: [usize; D], dtype: FloatDType) -> Tensor<D> {
    let data = TensorData::new(values(step, shape.iter().product()), shape);
    Tensor::<D>::from_data(data, &Device::flex().autodiff()).cast(dtype)
}

fn module() -> Narrow {
    Narrow {
        first: Param::from_tensor(tensor(1, [200], FloatDType::BF16)),
        wide: Param::from_tensor(tensor(2, [30], FloatDType::F32)),
        second: Param::from_tensor(tensor(1, [20, 10], FloatDType::BF16)),
    }
}

fn gradients(module: &Narrow, step: usize) -> GradientsParams {
    let first = module.first.val() * tensor(step + 3, [200], FloatDType::BF16);
    let wide = module.wide.val() * tensor(step + 5, [30], FloatDType::F32);
    let second = module.second.val() * tensor(step + 4, [20, 10], FloatDType::BF16);
    let loss = first.sum().cast(FloatDType::F32) + wide.sum() + second.sum().cast(FloatDType::F32);
    GradientsParams::from_grads(loss.backward(), module)
}

/// Converts f32 values that bf16 represents exactly.
fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

fn elements<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    tensor.try_into_vec_as().expect("values")
}

/// Passes each bf16 parameter or gradient to `each`, under its name in the core.
fn recorded(
    module: &Narrow,
    gradients: Option<&GradientsParams>,
    mut each: impl FnMut(&str, &[usize], &[bf16]),
) {
    let (first, second) = match gradients {
        None => (module.first.val(), module.second.val()),
        Some(gradients) => (
            gradients.get(module.first.id).expect("a gradient"),
            gradients.get(module.second.id).expect("a gradient"),
        ),
    };
    each("0", &[200], &narrow(&elements(first)));
    each("1", &[20, 10], &narrow(&elements(second)));
}

#[test]
fn a_module_has_the_bits_of_a_replay_through_a_record() {
    let mut recorder = Recorder::default();
    let made = || {
        let optimizer = LionConfig::new().with_weight_decay(0.1).build();
        ModuleOptimizer::from(optimizer.with_stochastic_rounding(17))
    };
    let (mut optimizer, mut model) = (made(), module());
    recorded(&model, None, |name, shape, values| recorder.parameter(name, shape, values));
    let mut plain = LionConfig::new().with_weight_decay(0.1).init();
    let mut beside = model.clone();
    for step in 0..STEPS {
        if step == STEPS / 2 {
            optimizer = made().from_bytes(optimizer.into_bytes().expect("a record")).expect("loaded");
        }
        let found = gradients(&model, step);
        recorded(&model, Some(&found), |name, shape, values| {
            recorder.gradient(step, name, shape, values);
        });
        model = optimizer.step(RATE, model, found);
        let found = gradients(&beside, step);
        beside = plain.step(RATE, beside, found);
    }
    let builder = Lion::builder().learning_rate(RATE).weight_decay(f64::from(0.1_f32));
    let expected = recorder.replay(builder.clone().stochastic_rounding(17));
    let nearest = recorder.replay(builder);
    let mut place = 0;
    recorded(&model, None, |name, _, values| {
        assert_eq!(bits(values.into()), bits(expected[place].1.to_ref()), "{name}");
        assert_ne!(bits(values.into()), bits(nearest[place].1.to_ref()), "{name} is rounded to nearest");
        place += 1;
    });
    assert_eq!(place, 2);
    // The f32 parameter is stored as before, and has no index.
    assert_eq!(elements(model.wide.val()), elements(beside.wide.val()));
}

/// burn's own Lion ignores the counters of stochastic rounding, and writes records without them.
#[test]
fn records_interchange_with_burns_own() {
    let ours = || ModuleOptimizer::from(LionConfig::new().build().with_stochastic_rounding(17));
    let theirs = || burn::optim::LionConfig::new().init();
    let loaded = |into: ModuleOptimizer, from: ModuleOptimizer| {
        into.from_bytes(from.into_bytes().expect("a record")).expect("loaded")
    };
    // burn's own Lion cannot continue with a bf16 momentum, because a record returns it as f32.
    let step = |optimizer: &mut ModuleOptimizer, model: Narrow, number: usize, scale: f32| {
        let loss = model.wide.val() * tensor(number + 5, [30], FloatDType::F32).mul_scalar(scale);
        let found = GradientsParams::from_grads(loss.sum().backward(), &model);
        optimizer.step(RATE, model, found)
    };
    let (mut first, start) = (ours(), module());
    let found = gradients(&start, 0);
    let model = first.step(RATE, start, found);
    // A gradient so large that the momentum decides the sign of the next step.
    let model = step(&mut first, model, 3, 1000.0);
    let mut second = loaded(theirs(), first);
    let mut fresh = theirs();
    let (kept, lost) = (step(&mut second, model.clone(), 1, 1.0), step(&mut fresh, model, 1, 1.0));
    assert_ne!(elements(kept.wide.val()), elements(lost.wide.val()));
    let mut third = loaded(ours(), second);
    let (found, before) = (gradients(&kept, 2), elements(kept.first.val()));
    let after = third.step(RATE, kept, found);
    assert_ne!(elements(after.first.val()), before);
}

#[test]
fn places_and_steps() {
    let optimizer = LionConfig::new().build().with_stochastic_rounding(3);
    let narrow = |step| tensor::<1>(step, [70], FloatDType::BF16).inner();
    let step = |state| optimizer.step(RATE, narrow(1), narrow(2), state).1.expect("a state");
    let rounding = |state: &LionState<1>| state.rounding.expect("rounded at random");
    let (first, second) = (step(None), step(None));
    assert_eq!(rounding(&first), Rounding { parameter: 0, steps: 1 });
    assert_eq!(rounding(&second), Rounding { parameter: 1, steps: 1 });
    assert_eq!(rounding(&step(Some(second))), Rounding { parameter: 1, steps: 2 });
    // The index of a resumed parameter is not assigned again, not even the highest.
    let mut resumed = first;
    resumed.rounding = Some(Rounding { parameter: 8, steps: 5 });
    assert_eq!(rounding(&step(Some(resumed))), Rounding { parameter: 8, steps: 6 });
    assert_eq!(rounding(&step(None)).parameter, 9);
    let wide = tensor::<1>(1, [70], FloatDType::F32).inner();
    let (_, state) = optimizer.step(RATE, wide.clone(), wide, None);
    assert_eq!(state.expect("a state").rounding, None);
}
