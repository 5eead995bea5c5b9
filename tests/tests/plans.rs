//! The optimizer under any plan: the same bits on every backend, thread count and chunk size, for updates in any order.

use lion::prelude::*;
use lion::{Plan, Prefetch, TensorBuf};
use lion_kernels::Backend;
use lion_tests::{Rng, Sample, on_each_backend, tensor_bits, values, with_sample};
use rayon::ThreadPoolBuilder;

on_each_backend!(every_plan_gives_the_same_bits);

const CALLS: usize = 5;

/// Variables of every format, some longer than a piece of work, with their gradients in each call.
struct Run {
    shapes: Vec<(Dtype, usize)>,
    parameters: Vec<TensorBuf>,
    gradients: Vec<Vec<Option<TensorBuf>>>,
}

fn random(rng: &mut Rng, dtype: Dtype, len: usize) -> TensorBuf {
    fn fill<T: Sample>(rng: &mut Rng, elements: &mut [T]) {
        // Finite, so that a norm does not make all of them NaN.
        let some = values::<T>(rng, 500);
        let finite: Vec<T> = some.into_iter().filter(|value| value.widen().abs() < 1e3).collect();
        for (to, from) in elements.iter_mut().zip(finite.iter().cycle()) {
            *to = *from;
        }
    }
    let mut values = TensorBuf::zeroed(dtype, len).expect("memory");
    with_sample!(dtype, T => fill(rng, values.to_mut().as_slice_mut::<T>().expect("its dtype")));
    values
}

impl Run {
    fn new(rng: &mut Rng) -> Self {
        let lengths = [5, 40_000, 0, 3, 4096, 12_289, 1, 70_001, 300];
        let shapes: Vec<_> = lengths.iter().map(|&len| (Dtype::ALL[rng.usize(..3)], len)).collect();
        let parameters = shapes.iter().map(|&(dtype, len)| random(rng, dtype, len)).collect();
        let mut gradients = Vec::new();
        for _ in 0..CALLS {
            let gradient =
                |&(dtype, len): &(Dtype, usize)| (rng.usize(..6) != 0).then(|| random(rng, dtype, len));
            gradients.push(shapes.iter().map(gradient).collect());
        }
        Run { shapes, parameters, gradients }
    }

    /// The bits of all that the run comes to.
    fn apply(&self, builder: lion::Builder, plan: Plan, rng: &mut Rng) -> Vec<Vec<u32>> {
        let mut optimizer = builder.plan(plan).build().expect("valid");
        let mut parameters = self.parameters.clone();
        let mut copies = self.parameters.clone();
        let mut ids = Vec::new();
        for (index, &(dtype, len)) in self.shapes.iter().enumerate() {
            let constraint = (index == 3).then(Constraint::non_negative);
            let options =
                VariableOptions { constraint, overwrite_with_gradient: index == 6, ..Default::default() };
            ids.push(optimizer.register_with(&format!("v{index}"), &[len], dtype, options).expect("new"));
        }
        let mut found = Vec::new();
        for gradients in &self.gradients {
            let mut updates = Vec::new();
            let tensors = parameters.iter_mut().zip(&mut copies).zip(gradients).zip(&ids);
            for (((parameter, copy), gradient), &id) in tensors {
                let parameter = parameter.to_mut();
                let update = match gradient {
                    Some(gradient) => Update::new(id, parameter, gradient.to_ref()),
                    None => Update::without_gradient(id, parameter),
                };
                updates.push(update.copy(copy.to_mut()));
            }
            rng.shuffle(&mut updates);
            let metrics = optimizer.apply(&mut updates).expect("valid");
            found.push(vec![
                metrics.gradient_norm.map_or(0, f32::to_bits),
                metrics.non_finite.unwrap_or(0) as u32,
            ]);
        }
        found.extend(parameters.iter().chain(&copies).map(|values| tensor_bits(values.to_ref())));
        for variable in optimizer.variables() {
            found.extend(variable.momentum.map(tensor_bits));
            let single = [variable.ema, variable.accumulator].into_iter().flatten();
            found.extend(single.map(|values| tensor_bits(values.into())));
        }
        found
    }
}

fn builders() -> Vec<lion::Builder> {
    let ema = || Lion::builder().weight_decay(0.1).ema(0.9).ema_overwrite_frequency(2);
    let mut dynamic = DynamicLossScale::default();
    (dynamic.initial_scale, dynamic.dynamic_growth_steps) = (4.0, 2);
    vec![
        Lion::builder(),
        ema().gradient_accumulation_steps(2).global_clipnorm(1.0).loss_scale_factor(4.0),
        ema().clipnorm(0.5).dynamic_loss_scale(dynamic),
        Lion::builder().gradient_accumulation_steps(3).clipvalue(0.1).momentum_dtype(Dtype::F32),
    ]
}

fn every_plan_gives_the_same_bits(backend: Backend) {
    let mut rng = Rng::with_seed(0x77);
    let run = Run::new(&mut rng);
    for (index, builder) in builders().into_iter().enumerate() {
        let alone = Plan::new(Backend::Scalar).parallel_threshold(usize::MAX);
        let expected = run.apply(builder.clone(), alone, &mut rng);
        for threads in [1, 2, 3, 8] {
            let pool = ThreadPoolBuilder::new().num_threads(threads).build().expect("threads");
            for chunk in [0, 4096, 10_000, 32_768, 1 << 20] {
                let prefetch = [Prefetch::Auto, Prefetch::On, Prefetch::Off][rng.usize(..3)];
                let plan = Plan::new(backend)
                    .chunk_elements(chunk)
                    .threads(threads)
                    .parallel_threshold(0)
                    .prefetch(prefetch);
                let found = pool.install(|| run.apply(builder.clone(), plan, &mut rng));
                assert!(found == expected, "options {index}, {plan:?}");
            }
        }
    }
}
