//! A repeated step of the optimizer allocates nothing. Allocators return large blocks to the system, and a training
//! loop would pay for their pages in every step.

use half::bf16;
use lion::prelude::*;
use lion_tests::counting::{Counting, allocations};

#[global_allocator]
static COUNTING: Counting = Counting;

fn optimizers() -> Vec<Lion> {
    let full = || {
        let builder = Lion::builder().weight_decay(0.1).ema(0.9).ema_overwrite_frequency(2);
        builder.gradient_accumulation_steps(2).learning_rate(CosineDecay::new(0.1, 9.0).unwrap())
    };
    let dynamic = full().clipnorm(1.0).dynamic_loss_scale(DynamicLossScale::default());
    let builders = [Lion::builder(), full().global_clipnorm(1.0), full().clipnorm(0.5), dynamic];
    builders.into_iter().map(|builder| builder.build().unwrap()).collect()
}

#[test]
fn calls_allocate_nothing() {
    for mut optimizer in optimizers() {
        let options = |constraint| VariableOptions { constraint, ..Default::default() };
        let non_negative = options(Some(Constraint::non_negative()));
        let a = optimizer.register("a", &[1000], Dtype::F32).unwrap();
        let b = optimizer.register_with("b", &[999], Dtype::BF16, non_negative).unwrap();
        let c = optimizer.register("c", &[3], Dtype::F32).unwrap();
        let (mut p, mut q, mut r) = (vec![1.0_f32; 1000], vec![bf16::ONE; 999], [1.0_f32; 3]);
        let (g, h) = (vec![0.5_f32; 1000], vec![0.5_f32; 999]);
        for call in 0..8 {
            let before = allocations();
            // In another order than that of the registration.
            let last = Update::without_gradient(c, &mut r[..]);
            let updates = &mut [Update::new(b, &mut q, &h), last, Update::new(a, &mut p, &g)];
            optimizer.apply(updates).unwrap();
            let made = allocations() - before;
            assert!(call < 2 || made == 0, "{made} allocations in call {call}");
        }
    }
}
