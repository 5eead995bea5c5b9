//! Benchmark of the step against candle's AdamW and the slice API: `cargo bench -p lion-candle --bench step [-- SECONDS
//! [MOST-ELEMENTS]]`.

use candle_core::backprop::GradStore;
use candle_core::{Device, Result, Tensor, Var};
use candle_nn::{AdamW, Optimizer, ParamsAdamW};
use lion_candle::Lion;
use lion_testing::speed::{LEARNING_RATE, Size, Step, ordinary, table};

struct Vars {
    adapter: Lion,
    stock: AdamW,
    gradients: GradStore,
}

impl Vars {
    fn new(size: Size) -> Result<Self> {
        let mut gradients = Tensor::zeros(1, candle_core::DType::F32, &Device::Cpu)?.backward()?;
        let mut vars = Vec::new();
        for _ in 0..size.tensors {
            let (parameter, gradient) = ordinary(size.elements);
            let var = Var::from_vec(parameter, size.elements, &Device::Cpu)?;
            gradients.insert(&var, Tensor::from_vec(gradient, size.elements, &Device::Cpu)?);
            vars.push(var);
        }
        let params = ParamsAdamW { lr: LEARNING_RATE, weight_decay: 0.0, ..Default::default() };
        Ok(Vars {
            adapter: Lion::new(vars.clone(), Lion::builder().learning_rate(LEARNING_RATE))?,
            stock: AdamW::new(vars, params)?,
            gradients,
        })
    }
}

impl Step for Vars {
    fn adapter(&mut self) {
        self.adapter.step(&self.gradients).expect("valid tensors");
    }

    fn stock(&mut self) -> bool {
        self.stock.step(&self.gradients).expect("valid tensors");
        true
    }
}

fn main() {
    table("AdamW", |size| Vars::new(size).expect("memory"));
}
