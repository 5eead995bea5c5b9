//! A step on every backend of this machine against the reference, by bits.
#![no_main]

use arbitrary::Arbitrary;
use half::{bf16, f16};
use libfuzzer_sys::fuzz_target;
use lion_kernels::reference::Pass;
use lion_kernels::{Backend, Step, Tensors};
use lion_tests::{Guarded, Sample};

#[derive(Arbitrary, Debug)]
struct Input {
    learning_rate: f32,
    beta_1: f32,
    beta_2: f32,
    weight_decay: Option<f32>,
    formats: [u8; 3],
    misalignment: [u8; 3],
    elements: Vec<[u32; 3]>,
}

fuzz_target!(|input: Input| {
    let Ok(mut step) = Step::new(input.learning_rate, input.beta_1, input.beta_2) else { return };
    if let Some(weight_decay) = input.weight_decay {
        let Ok(decayed) = step.weight_decay(weight_decay) else { return };
        step = decayed;
    }
    match input.formats[0] % 3 {
        0 => with_parameter::<f32>(&input, step),
        1 => with_parameter::<f16>(&input, step),
        _ => with_parameter::<bf16>(&input, step),
    }
});

fn with_parameter<P: Sample>(input: &Input, step: Step) {
    match input.formats[1] % 3 {
        0 => with_gradient::<P, f32>(input, step),
        1 => with_gradient::<P, f16>(input, step),
        _ => with_gradient::<P, bf16>(input, step),
    }
}

fn with_gradient<P: Sample, G: Sample>(input: &Input, step: Step) {
    match input.formats[2] % 3 {
        0 => check::<P, G, f32>(input, step),
        1 => check::<P, G, f16>(input, step),
        _ => check::<P, G, bf16>(input, step),
    }
}

fn check<P: Sample, G: Sample, M: Sample>(input: &Input, step: Step) {
    fn tensor<T: Sample>(input: &Input, which: usize) -> Vec<T> {
        input.elements.iter().map(|element| T::from_low_bits(element[which])).collect()
    }
    let (p, g, m) = (tensor::<P>(input, 0), tensor::<G>(input, 1), tensor::<M>(input, 2));
    let (mut expected_p, mut expected_m) = (p.clone(), m.clone());
    let pass = Pass {
        learning_rate: input.learning_rate,
        beta_1: input.beta_1,
        beta_2: input.beta_2,
        weight_decay: input.weight_decay,
        ..Pass::default()
    };
    pass.step::<P, G, M, f32>(&mut expected_p, &g, &mut expected_m, None, None, None);
    for backend in Backend::available() {
        let mut parameter = Guarded::new(&p, input.misalignment[0].into());
        let gradient = Guarded::new(&g, input.misalignment[1].into());
        let mut momentum = Guarded::new(&m, input.misalignment[2].into());
        let tensors = Tensors::in_place(
            P::slice_mut(parameter.tensor_mut()),
            G::slice(gradient.tensor()),
            M::slice_mut(momentum.tensor_mut()),
        );
        step.apply(backend, tensors).expect("tensors of equal lengths");
        parameter.assert_holds(&expected_p, "parameter");
        gradient.assert_holds(&g, "gradient");
        momentum.assert_holds(&expected_m, "momentum");
    }
}
