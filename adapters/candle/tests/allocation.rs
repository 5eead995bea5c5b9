//! Tests that a step allocates no tensor.

use candle_core::{CpuStorage, DType, Device, Storage, Tensor, Var};
use candle_nn::Optimizer;
use lion_candle::Lion;
use lion_testing::allocator::{Watched, largest_request};

#[global_allocator]
static WATCHED: Watched = Watched;

/// Returns the address of the elements.
fn address(var: &Var) -> usize {
    match &*var.storage_and_layout().0 {
        Storage::Cpu(CpuStorage::F32(values)) => values.as_ptr().addr(),
        Storage::Cpu(CpuStorage::F16(values)) => values.as_ptr().addr(),
        Storage::Cpu(CpuStorage::BF16(values)) => values.as_ptr().addr(),
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_step_allocates_no_tensor() {
    let var = |dtype| Var::ones((100, 100), dtype, &Device::Cpu).expect("a variable");
    let vars = [DType::F32, DType::F16, DType::BF16].map(var);
    let builder = Lion::builder().weight_decay(0.1).global_clipnorm(1.0).ema(0.9);
    let mut optimizer = Lion::new(vars.to_vec(), builder).expect("made");
    let before = vars.each_ref().map(address);
    for step in 0..4 {
        let sums =
            vars.each_ref().map(|var| var.to_dtype(DType::F32).and_then(|var| var.sum_all()).expect("a sum"));
        let loss = Tensor::stack(&sums, 0).and_then(|sums| sums.sum_all()).expect("a loss");
        let gradients = loss.backward().expect("gradients");
        let (bytes, _) = largest_request(|| optimizer.step(&gradients).expect("a step"));
        assert!(bytes < 8192, "step {step} asked for {bytes} bytes at once");
    }
    assert_eq!(vars.each_ref().map(address), before);
}
