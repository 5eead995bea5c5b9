//! The share of a gradient's elements that the next step follows, compared with a plain loop.

use half::{bf16, f16};
use lion::TensorMut;
use lion::prelude::*;
use lion_kernels::reference::Float;
use lion_tests::{Rng, values, with_sample};

const SPECIAL: [f32; 9] = [0.0, -0.0, 1e-45, -1e-45, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, 3.0, -3.0];

/// Momenta and gradients: all pairs of special values, and then any.
fn pairs() -> (Vec<f32>, Vec<f32>) {
    let mut rng = Rng::with_seed(0x0053);
    let special = SPECIAL.iter().flat_map(|&m| SPECIAL.map(|g| (m, g)));
    let (mut momenta, mut gradients): (Vec<f32>, Vec<f32>) = special.unzip();
    momenta.extend(values::<f32>(&mut rng, 500));
    gradients.extend(values::<f32>(&mut rng, 500));
    (momenta, gradients)
}

/// Puts the values in the momentum, and gives them as they are stored.
fn store(values: &[f32], momentum: Option<TensorMut<'_>>) -> Vec<f32> {
    let mut momentum = momentum.expect("a momentum");
    with_sample!(momentum.dtype(), T => {
        let places = momentum.as_slice_mut::<T>().expect("its dtype");
        places.iter_mut().zip(values).for_each(|(place, m)| *place = T::round(*m));
        places.iter().map(|m| m.widen()).collect()
    })
}

#[test]
fn the_share_is_that_of_a_plain_loop() {
    let (m, g) = pairs();
    let len = m.len();
    for (momentum_dtype, beta_1, factor) in
        [(Dtype::F32, 0.9, None), (Dtype::BF16, 0.25, None), (Dtype::F16, 1.0, Some(3.0_f32))]
    {
        let mut builder = Lion::builder().beta_1(0.5).momentum_dtype(momentum_dtype);
        if let Some(factor) = factor {
            builder = builder.loss_scale_factor(factor.into());
        }
        let mut optimizer = builder.build().unwrap();
        let group = optimizer.add_group(Group::new().beta_1(beta_1)).unwrap();
        let options = VariableOptions { group, ..Default::default() };
        let a = optimizer.register_with("a", &[len], Dtype::F32, options).unwrap();
        let stored = store(&m, optimizer.state_mut(a).unwrap().momentum);
        let mut agreeing = 0;
        for i in 0..len {
            let used = g[i] / factor.unwrap_or(1.0);
            let c = stored[i] * beta_1 + used * (1.0 - beta_1);
            if (c > 0.0 && used > 0.0) || (c < 0.0 && used < 0.0) || (c == 0.0 && used == 0.0) {
                agreeing += 1;
            }
        }
        assert!(agreeing > 0 && agreeing < len);
        assert_eq!(optimizer.sign_agreement_fraction(a, &g[..]).unwrap(), agreeing as f64 / len as f64);
    }
}

#[test]
fn gradients_of_16_bits_are_widened() {
    let mut optimizer = Lion::builder().build().unwrap();
    let a = optimizer.register("a", &[4], Dtype::F32).unwrap();
    store(&[1.0, -1.0, 0.0, 0.0], optimizer.state_mut(a).unwrap().momentum);
    let g = [0.5, 0.5, 0.0, -0.5];
    assert_eq!(optimizer.sign_agreement_fraction(a, &g.map(bf16::from_f32)[..]).unwrap(), 0.75);
    assert_eq!(optimizer.sign_agreement_fraction(a, &g.map(f16::from_f32)[..]).unwrap(), 0.75);
}

#[test]
fn what_has_no_share() {
    let mut optimizer = Lion::builder().build().unwrap();
    let none = optimizer.register("none", &[0], Dtype::F32).unwrap();
    assert_eq!(optimizer.sign_agreement_fraction(none, &[][..] as &[f32]).unwrap(), 0.0);
    let overwrite = VariableOptions { overwrite_with_gradient: true, ..Default::default() };
    let b = optimizer.register_with("b", &[1], Dtype::F32, overwrite).unwrap();
    let refused = |optimizer: &Lion, gradient: &[f32]| {
        optimizer.sign_agreement_fraction(b, gradient).unwrap_err().to_string()
    };
    let expected = "variable \"b\": the gradient has 2 elements, and its shape has 1";
    assert_eq!(refused(&optimizer, &[1.0, 1.0]), expected);
    let expected = "variable \"b\" is overwritten with its gradient, and has no momentum";
    assert_eq!(refused(&optimizer, &[1.0]), expected);
    let other = Lion::builder().build().unwrap();
    assert_eq!(refused(&other, &[1.0]), "variable id 1 does not exist; 0 variables are registered");
}
