//! Tests that stochastic rounding, the exact split, 8-bit momentum and the variants of decay have the bits of a replay.

use candle_core::{DType, Device, Tensor, Var};
use candle_nn::Optimizer;
use half::bf16;
use lion_candle::{Dtype, Lion, VariableOptions};
use lion_testing::narrow::{CASES, Case, builder};
use lion_testing::recording::{Recorder, bits};

const STEPS: usize = 50;

/// The lengths of the variables: several blocks of 8-bit momentum and a partial one, one element, none.
const LENGTHS: [usize; 3] = [200, 1, 0];

/// Returns values of both signs, different in each step and variable.
fn input(step: usize, len: usize) -> Vec<f32> {
    (0..len).map(|index| ((index * 37 + step * 101 + len + 11) % 97) as f32 / 48.5 - 1.0).collect()
}

fn narrow(values: &[f32]) -> Vec<bf16> {
    values.iter().copied().map(bf16::from_f32).collect()
}

fn var(values: Vec<f32>, dtype: Dtype) -> Var {
    let dtype = if dtype == Dtype::BF16 { DType::BF16 } else { DType::F32 };
    let tensor = Tensor::new(values, &Device::Cpu).and_then(|tensor| tensor.to_dtype(dtype));
    Var::from_tensor(&tensor.expect("a tensor")).expect("a variable")
}

/// Makes a step with the gradient of half the squared distance from `target`, which is the difference.
fn step(optimizer: &mut Lion, vars: &[Var], step: usize) -> Vec<Vec<f32>> {
    let loss = |var: &Var| {
        let target = Tensor::new(input(step, var.elem_count()), &Device::Cpu)?;
        (var.to_dtype(DType::F32)? - target)?.sqr()?.sum_all()
    };
    let losses: Vec<_> = vars.iter().map(|var| loss(var).expect("a loss")).collect();
    let gradients = Tensor::stack(&losses, 0).and_then(|it| it.sum_all()?.backward()).expect("gradients");
    let found = vars.iter().map(|var| gradients.get(var).expect("a gradient"));
    let found =
        found.map(|it| it.to_dtype(DType::F32).and_then(|it| it.to_vec1()).expect("values")).collect();
    optimizer.step(&gradients).expect("a step");
    found
}

/// Returns the bits of the parameters after a training, and its recording.
fn trained(case: Case) -> (Vec<Vec<u8>>, Recorder) {
    let mut recorder = Recorder::default();
    let vars = LENGTHS.map(|len| var(input(0, len), case.parameters));
    for (index, var) in vars.iter().enumerate() {
        let values = input(0, var.elem_count());
        match case.parameters {
            Dtype::BF16 => recorder.parameter(&index.to_string(), &[values.len()], &narrow(&values)),
            _ => recorder.parameter(&index.to_string(), &[values.len()], &values),
        }
    }
    let mut optimizer = Lion::new(vars.to_vec(), (case.set)(builder())).expect("made");
    for number in 0..STEPS {
        for (index, values) in step(&mut optimizer, &vars, number).iter().enumerate() {
            match case.parameters {
                // In candle, a gradient has the variable's dtype.
                Dtype::BF16 => {
                    recorder.gradient(number, &index.to_string(), &[values.len()], &narrow(values))
                }
                _ => recorder.gradient(number, &index.to_string(), &[values.len()], values),
            }
        }
    }
    (vars.iter().map(stored).collect(), recorder)
}

fn stored(var: &Var) -> Vec<u8> {
    match var.dtype() {
        DType::BF16 => bits((&var.to_vec1::<bf16>().expect("values")).into()).1,
        _ => bits((&var.to_vec1::<f32>().expect("values")).into()).1,
    }
}

#[test]
fn every_option_has_the_bits_of_a_replay() {
    for case in CASES {
        let (found, recorder) = trained(case);
        let replay = |builder| {
            recorder.replay(builder).iter().map(|(_, values)| bits(values.to_ref()).1).collect::<Vec<_>>()
        };
        assert!(found == replay((case.set)(builder())), "{}", case.name);
        assert!(found != replay(builder()), "{} changes nothing", case.name);
    }
}

/// With its low halves, a bf16 variable equals the f32 one, and a resumed training continues with both.
#[test]
fn a_split_variable_is_an_f32_one_and_is_resumed() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state.safetensors");
    let made = |dtype, split| {
        let var = var(vec![0.0; 200], dtype);
        let mut optimizer = Lion::empty(builder().split_master(split)).expect("made");
        let id = optimizer.push("w", &var).expect("added").expect("trained");
        (optimizer, id, [var])
    };
    let (mut whole, whole_id, whole_var) = made(Dtype::F32, false);
    let (mut split, id, split_var) = made(Dtype::BF16, true);
    let start = Tensor::new(input(7, 200), &Device::Cpu).expect("a tensor");
    whole.parameter_from_f32(whole_id, &start).expect("stored");
    split.parameter_from_f32(id, &start).expect("stored");
    let values = |optimizer: &Lion, id| {
        optimizer.parameter_to_f32(id).and_then(|it| it.to_vec1::<f32>()).expect("values")
    };
    // The loss sees the high halves, so both optimizers get the gradients of the split variable.
    let follow = |whole: &mut Lion, split: &mut Lion, split_var: &[Var], number| {
        let gradient = step(split, split_var, number).remove(0);
        let gradient = Tensor::new(gradient, &Device::Cpu).expect("a tensor");
        let loss = (whole_var[0].as_tensor() * gradient).and_then(|it| it.sum_all()).expect("a loss");
        whole.backward_step(&loss).expect("a step");
    };
    for number in 0..20 {
        follow(&mut whole, &mut split, &split_var, number);
    }
    assert_eq!(values(&split, id), values(&whole, whole_id));
    split.save(&path).expect("saved");

    let (mut resumed, id, resumed_var) = made(Dtype::BF16, true);
    resumed_var[0].set(&split_var[0]).expect("copied");
    resumed.load(&path).expect("loaded");
    for number in 20..40 {
        follow(&mut whole, &mut resumed, &resumed_var, number);
    }
    assert_eq!(values(&resumed, id), values(&whole, whole_id));
    assert_ne!(values(&resumed, id), start.to_vec1::<f32>().expect("values"));
}

#[test]
fn what_is_refused() {
    let refused = |result: candle_core::Result<()>, expected: &str| {
        let error = result.expect_err("refused").to_string();
        assert!(error.contains(expected), "{error}");
    };
    let wide = var(vec![1.0; 4], Dtype::F32);
    let mut optimizer = Lion::empty(builder().stochastic_rounding(3)).expect("made");
    refused(optimizer.push("w", &wide).map(drop), "stochastic_rounding is for bf16 parameters");
    let plain = VariableOptions { nearest_rounding: true, ..Default::default() };
    let id = optimizer.push_with("w", &wide, plain).expect("left out").expect("trained");
    let values = |values: &[f32]| Tensor::new(values, &Device::Cpu).expect("a tensor");
    refused(
        optimizer.parameter_from_f32(id, &values(&[1.0; 3])),
        "variable \"w\": the values are F32 [3]; expected F32 [4]",
    );
    let narrow = values(&[1.0; 4]).to_dtype(DType::BF16).expect("converted");
    refused(optimizer.parameter_from_f32(id, &narrow), "the values are BF16 [4]; expected F32 [4]");
    let mut other = Lion::empty(builder()).expect("made");
    refused(other.parameter_from_f32(id, &values(&[1.0; 4])), "variable id 0 does not exist");
    refused(Lion::empty(builder().stochastic_rounding(3).split_master(true)).map(drop), "split_master");
    assert_eq!(stored(&wide), bits((&[1.0_f32; 4]).into()).1);
}
