//! Tests that the bits equal a replay of the gradients that candle produced.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor, Var};
use candle_nn::{Conv2dConfig, Module, Optimizer, VarBuilder, VarMap, conv2d, linear, loss};
use half::{bf16, f16};
use lion::TensorRef;
use lion_candle::{Builder, Lion, schedule::CosineDecay};
use lion_testing::recording::{Recorder, bits};

const STEPS: usize = 100;

fn builder() -> Builder {
    let schedule = CosineDecay::new(0.01, 80.0).expect("valid");
    Lion::builder()
        .learning_rate(schedule)
        .weight_decay(0.1)
        .global_clipnorm(0.5)
        .ema(0.9)
        .ema_overwrite_frequency(7)
}

/// Returns the variables of the map, sorted by name.
fn variables(map: &VarMap) -> Vec<(String, Var)> {
    let data = map.data().lock().expect("no thread panicked");
    let mut variables: Vec<_> = data.iter().map(|(name, var)| (name.clone(), var.clone())).collect();
    variables.sort_by(|(a, _), (b, _)| a.cmp(b));
    variables
}

fn with_slice<T>(tensor: &Tensor, work: impl FnOnce(TensorRef<'_>) -> T) -> T {
    let tensor = tensor.contiguous().expect("contiguous");
    let (storage, layout) = tensor.storage_and_layout();
    let (start, end) = layout.contiguous_offsets().expect("contiguous");
    let Storage::Cpu(storage) = &*storage else { panic!("not on the CPU") };
    match storage {
        CpuStorage::F32(values) => work((&values[start..end]).into()),
        CpuStorage::F16(values) => work((&values[start..end]).into()),
        CpuStorage::BF16(values) => work((&values[start..end]).into()),
        other => panic!("{other:?}"),
    }
}

/// Returns values of both signs, different in each step.
fn input(step: usize, len: usize) -> Vec<f32> {
    (0..len).map(|index| ((index * 37 + step * 101 + 11) % 97) as f32 / 48.5 - 1.0).collect()
}

/// Trains the variables of a map on the loss of each step, and compares them with the replay.
fn compare(map: &VarMap, loss: impl Fn(usize) -> candle_core::Result<Tensor>) {
    let mut recorder = Recorder::default();
    for (name, var) in variables(map) {
        with_slice(&var, |values| recorder.parameter(&name, var.dims(), values));
    }
    let mut optimizer = Lion::from_varmap(map, builder()).expect("made");
    for step in 0..STEPS {
        let gradients = loss(step).expect("a loss").backward().expect("gradients");
        for (name, var) in variables(map) {
            let Some(gradient) = gradients.get(&var) else { continue };
            with_slice(gradient, |values| recorder.gradient(step, &name, var.dims(), values));
        }
        optimizer.step(&gradients).expect("a step");
    }
    let expected = recorder.replay(builder());
    assert_eq!(expected.len(), variables(map).len());
    for ((name, var), (expected_name, expected)) in variables(map).iter().zip(&expected) {
        assert_eq!(name, expected_name);
        with_slice(var, |values| assert_eq!(bits(values), bits(expected.to_ref()), "{name}"));
    }
}

#[test]
fn a_convolutional_network() {
    let map = VarMap::new();
    let builder = VarBuilder::from_varmap(&map, DType::F32, &Device::Cpu);
    let config = Conv2dConfig { padding: 1, ..Default::default() };
    let convolution = conv2d(1, 4, 3, config, builder.pp("convolution")).expect("made");
    let output = linear(4 * 16, 3, builder.pp("output")).expect("made");
    compare(&map, |step| {
        let images = Tensor::from_vec(input(step, 2 * 64), (2, 1, 8, 8), &Device::Cpu)?;
        let labels = Tensor::new(&[(step % 3) as u32, (step % 2) as u32], &Device::Cpu)?;
        let hidden = convolution.forward(&images)?.relu()?.max_pool2d(2)?;
        loss::cross_entropy(&output.forward(&hidden.flatten_from(1)?)?, &labels)
    });
}

/// 16-bit variables, one without a gradient in most steps.
#[test]
fn formats_of_16_bits() {
    let map = VarMap::new();
    let var = |tensor: Tensor| Var::from_tensor(&tensor).expect("a variable");
    let a =
        var(Tensor::new(&input(0, 33).into_iter().map(bf16::from_f32).collect::<Vec<_>>()[..], &Device::Cpu)
            .unwrap());
    let b =
        var(Tensor::new(&input(1, 33).into_iter().map(f16::from_f32).collect::<Vec<_>>()[..], &Device::Cpu)
            .unwrap());
    for (name, var) in [("a", &a), ("b", &b)] {
        map.data().lock().expect("no thread panicked").insert(name.into(), var.clone());
    }
    compare(&map, |step| {
        let x = Tensor::from_vec(input(step, 33), 33, &Device::Cpu)?;
        let from_a = (a.to_dtype(DType::F32)? * &x)?.sqr()?.sum_all()?;
        if step % 3 > 0 {
            return Ok(from_a);
        }
        from_a + (b.to_dtype(DType::F32)? - x)?.sqr()?.sum_all()?
    });
}

/// So many variables that the pool's threads share them. Some are empty, and some have no gradient in each step.
#[test]
fn many_variables() {
    let map = VarMap::new();
    let mut vars = Vec::new();
    for index in 0..200 {
        let values = Tensor::from_vec(input(index, index % 7), index % 7, &Device::Cpu).expect("a tensor");
        let dtype = [DType::F32, DType::BF16, DType::F16][index % 3];
        let var = Var::from_tensor(&values.to_dtype(dtype).expect("converted")).expect("a variable");
        map.data().lock().expect("no thread panicked").insert(format!("{index:03}"), var.clone());
        vars.push(var);
    }
    compare(&map, |step| {
        let with_gradients = vars.iter().enumerate().filter(|(index, _)| (index + step) % 11 > 0);
        let terms = with_gradients.map(|(index, var)| {
            let x = Tensor::from_vec(input(step, index % 7), index % 7, &Device::Cpu)?;
            (var.to_dtype(DType::F32)? - x)?.sqr()?.sum_all()
        });
        Tensor::stack(&terms.collect::<Result<Vec<_>, _>>()?, 0)?.sum_all()
    });
}
