//! The optimizer on every backend and in every format, compared bit for bit with the reference.

use half::{bf16, f16};
use lion::Builder;
use lion::prelude::*;
use lion_kernels::Backend;
use lion_kernels::reference::Settings;
use lion_tests::{Rng, Sample, bits, for_each_triple, on_each_backend, ordinary, tensor_bits, values};

on_each_backend!(every_option_in_every_format, mixed_formats_in_one_call, the_order_of_updates_is_nothing);

/// What the reference keeps of a variable.
struct Model<P, M> {
    parameter: Vec<P>,
    momentum: Vec<M>,
    average: Vec<f32>,
    accumulator: Vec<f32>,
    copy: Vec<bf16>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Options {
    weight_decay: Option<f64>,
    clipnorm: Option<f64>,
    global_clipnorm: Option<f64>,
    clipvalue: Option<f64>,
    ema: Option<f64>,
    overwrite: Option<u64>,
    scale: Option<f64>,
    /// The scale is dynamic, and halves where a gradient is not finite.
    dynamic: bool,
    accumulation: Option<u32>,
}

impl Options {
    fn any(rng: &mut Rng) -> Self {
        let mut options = Options::default();
        match rng.u32(0..5) {
            0 => options.clipnorm = Some(0.7),
            1 => options.global_clipnorm = Some(0.9),
            2 => options.clipvalue = Some(0.3),
            _ => {}
        }
        options.weight_decay = rng.bool().then_some(0.1);
        options.ema = rng.bool().then_some(0.6);
        options.overwrite = rng.bool().then(|| rng.u64(1..4));
        options.scale = rng.bool().then_some(3.0);
        options.dynamic = rng.bool();
        options.accumulation = rng.bool().then(|| rng.u32(2..4));
        options
    }

    fn optimizer(&self, backend: Backend, momentum: Dtype) -> Lion {
        let mut config = Config::default();
        config.learning_rate = 0.03.into();
        config.weight_decay = self.weight_decay.map(Into::into);
        config.clipnorm = self.clipnorm;
        config.global_clipnorm = self.global_clipnorm;
        config.clipvalue = self.clipvalue;
        config.use_ema = self.ema.is_some();
        config.ema_momentum = self.ema.unwrap_or(0.99);
        config.ema_overwrite_frequency = self.overwrite;
        if let (Some(initial_scale), true) = (self.scale, self.dynamic) {
            let mut scale = DynamicLossScale::default();
            scale.initial_scale = initial_scale;
            config.dynamic_loss_scale = Some(scale);
        } else {
            config.loss_scale_factor = self.scale;
        }
        config.gradient_accumulation_steps = self.accumulation;
        Builder::from(config).backend(backend).momentum_dtype(momentum).build().unwrap()
    }

    /// One call as the specification has it, on variables that all have a gradient.
    fn reference<P: Sample, G: Sample, M: Sample>(
        &self,
        call: u64,
        models: &mut [Model<P, M>],
        gradients: &[Vec<G>],
    ) {
        let window = self.accumulation.map_or(1, u64::from);
        let mut pass = Settings {
            learning_rate: 0.03,
            beta_1: 0.9,
            beta_2: 0.99,
            weight_decay: self.weight_decay.map(|it| it as f32),
            loss_scale: self.scale.map(|it| it as f32),
            clip_value: self.clipvalue.map(|it| it as f32),
            ema_momentum: self.ema.map(|it| if call / window == 0 { 0.0 } else { it as f32 }),
            ema_overwrite: self.overwrite.is_some_and(|every| (call / window + 1).is_multiple_of(every)),
            ..Settings::default()
        };
        if !(call + 1).is_multiple_of(window) {
            for (model, gradient) in models.iter_mut().zip(gradients) {
                pass.accumulate(&mut model.accumulator, gradient);
                pass.update_ema(&mut model.average, &mut model.parameter);
                model.copy = model.parameter.iter().map(|value| rounded(*value)).collect();
            }
            return;
        }
        pass.accumulation_steps = self.accumulation;
        let squares = |model: &Model<P, M>, gradient: &[G]| {
            pass.statistics(gradient, self.accumulation.map(|_| &model.accumulator[..])).0
        };
        let pairs = models.iter().zip(gradients);
        let each: Vec<f64> = pairs.map(|(model, gradient)| squares(model, gradient)).collect();
        let all = each.iter().fold(0.0, |sum, one| sum + one);
        for ((model, gradient), own) in models.iter_mut().zip(gradients).zip(each) {
            pass.clip_norm = self.clipnorm.map(|limit| (limit as f32, (own as f32).sqrt()));
            pass.global_clip_norm = self.global_clipnorm.map(|limit| (limit, (all as f32).sqrt()));
            pass.step(
                &mut model.parameter,
                gradient,
                &mut model.momentum,
                self.accumulation.map(|_| &mut model.accumulator[..]),
                self.ema.map(|_| &mut model.average[..]),
                Some(&mut model.copy[..]),
            );
        }
    }
}

fn rounded<T: Sample>(value: T) -> bf16 {
    <bf16 as lion_kernels::reference::Float>::round(value.widen())
}

fn every_option_in_every_format(backend: Backend) {
    fn triple<P: Sample, G: Sample, M: Sample>(backend: Backend) {
        let mut rng = Rng::with_seed(0x0071);
        for round in 0..32 {
            let mut options = Options::any(&mut rng);
            let mut skipped = 0;
            let mut optimizer = options.optimizer(backend, M::DTYPE);
            let lengths = [37, if round == 0 { 4100 } else { 70 }, 1];
            let mut models: Vec<Model<P, M>> = lengths
                .iter()
                .map(|&len| Model {
                    parameter: if round % 2 == 0 { ordinary(&mut rng, len) } else { values(&mut rng, len) },
                    momentum: vec![M::default(); len],
                    average: vec![0.0; len],
                    accumulator: vec![0.0; len],
                    copy: vec![bf16::ZERO; len],
                })
                .collect();
            let mut found: Vec<Vec<P>> = models.iter().map(|model| model.parameter.clone()).collect();
            let ids: Vec<_> = (0..lengths.len())
                .map(|i| optimizer.register(&i.to_string(), &[lengths[i]], P::DTYPE).unwrap())
                .collect();
            for call in 0..7 {
                let gradients: Vec<Vec<G>> = lengths
                    .iter()
                    .map(|&len| if round % 3 < 2 { ordinary(&mut rng, len) } else { values(&mut rng, len) })
                    .collect();
                let finite = gradients.iter().flatten().all(|value| value.widen().is_finite());
                if options.scale.is_some() && options.dynamic && !finite {
                    options.scale = options.scale.map(|scale| scale / 2.0);
                    skipped += 1;
                    for model in &mut models {
                        model.copy = model.parameter.iter().map(|value| rounded(*value)).collect();
                    }
                } else {
                    options.reference(call - skipped, &mut models, &gradients);
                }

                let sources = found.clone();
                if call % 2 == 1 {
                    // Out of place, what is there before does not matter.
                    found.iter_mut().for_each(|values| values.fill(P::round(7.0)));
                }
                let mut copies: Vec<_> = lengths.iter().map(|&len| vec![bf16::NAN; len]).collect();
                let mut updates = Vec::new();
                for (((i, id), parameter), copy) in ids.iter().enumerate().zip(&mut found).zip(&mut copies) {
                    let gradient = &gradients[i];
                    let mut update = Update::new(*id, parameter, gradient);
                    if call % 2 == 1 {
                        update = update.source(&sources[i]);
                    }
                    updates.push(update.copy(&mut copy[..]));
                }
                optimizer.apply(&mut updates).unwrap();

                for (i, model) in models.iter().enumerate() {
                    let what = format!(
                        "{}/{}/{}, call {call}, tensor {i}, {options:?}",
                        P::DTYPE,
                        G::DTYPE,
                        M::DTYPE
                    );
                    let state = optimizer.view(ids[i]).unwrap();
                    assert_eq!(bits(&found[i]), bits(&model.parameter), "{what}: parameter");
                    assert_eq!(tensor_bits(state.momentum.unwrap()), bits(&model.momentum), "{what}");
                    assert_eq!(bits(&copies[i]), bits(&model.copy), "{what}: copy");
                    assert_eq!(state.ema.is_some(), options.ema.is_some());
                    assert_eq!(state.accumulator.is_some(), options.accumulation.is_some());
                    if let Some(average) = state.ema {
                        assert_eq!(bits(average), bits(&model.average), "{what}: average");
                    }
                    if let Some(accumulator) = state.accumulator {
                        assert_eq!(bits(accumulator), bits(&model.accumulator), "{what}: accumulator");
                    }
                }
            }
        }
    }
    for_each_triple!(triple, backend);
}

fn mixed_formats_in_one_call(backend: Backend) {
    let mut rng = Rng::with_seed(0x0072);
    let mut optimizer = Lion::builder().learning_rate(0.03).clipvalue(0.2).backend(backend).build().unwrap();
    let options = VariableOptions { momentum_dtype: Some(Dtype::F32), ..Default::default() };
    let a = optimizer.register("a", &[50], Dtype::F32).unwrap();
    let b = optimizer.register_with("b", &[5, 10], Dtype::BF16, options).unwrap();
    let c = optimizer.register("c", &[50, 1], Dtype::F16).unwrap();
    let (mut p, mut q, mut r) =
        (ordinary::<f32>(&mut rng, 50), ordinary::<bf16>(&mut rng, 50), ordinary::<f16>(&mut rng, 50));
    let (mut p_model, mut q_model, mut r_model) = (p.clone(), q.clone(), r.clone());
    let (mut p_momentum, mut q_momentum, mut r_momentum) = ([0.0_f32; 50], [0.0_f32; 50], [f16::ZERO; 50]);
    let pass = Settings {
        learning_rate: 0.03,
        beta_1: 0.9,
        beta_2: 0.99,
        clip_value: Some(0.2),
        ..Settings::default()
    };
    for _ in 0..4 {
        let g: Vec<bf16> = ordinary(&mut rng, 50);
        let h: Vec<f16> = ordinary(&mut rng, 50);
        optimizer
            .apply(&mut [Update::new(a, &mut p, &g), Update::new(b, &mut q, &h), Update::new(c, &mut r, &g)])
            .unwrap();
        pass.step(&mut p_model, &g, &mut p_momentum, None, None, None::<&mut [f32]>);
        pass.step(&mut q_model, &h, &mut q_momentum, None, None, None::<&mut [f32]>);
        pass.step(&mut r_model, &g, &mut r_momentum, None, None, None::<&mut [f32]>);
    }
    assert_eq!((bits(&p), bits(&q), bits(&r)), (bits(&p_model), bits(&q_model), bits(&r_model)));
    let momentum = |id| tensor_bits(optimizer.momentum(id).unwrap());
    assert_eq!((momentum(a), momentum(b)), (bits(&p_momentum), bits(&q_momentum)));
    assert_eq!(momentum(c), bits(&r_momentum));
}

fn the_order_of_updates_is_nothing(backend: Backend) {
    let mut rng = Rng::with_seed(0x0073);
    let mut optimizer = Lion::builder().global_clipnorm(0.1).ema(0.9).backend(backend).build().unwrap();
    let lengths: Vec<usize> = (0..300).map(|i| i % 23).collect();
    let ids: Vec<_> = lengths
        .iter()
        .enumerate()
        .map(|(i, &len)| optimizer.register(&format!("v{i}"), &[len], Dtype::F32).unwrap())
        .collect();
    let start: Vec<Vec<f32>> = lengths.iter().map(|&len| ordinary(&mut rng, len)).collect();
    let gradients: Vec<Vec<f32>> = lengths.iter().map(|&len| ordinary(&mut rng, len)).collect();
    let run = |order: &[usize]| {
        let (mut optimizer, mut parameters) = (optimizer.clone(), start.clone());
        let metrics = {
            let mut slots: Vec<_> = parameters.iter_mut().map(Some).collect();
            let mut updates: Vec<_> =
                order.iter().map(|&i| Update::new(ids[i], slots[i].take().unwrap(), &gradients[i])).collect();
            optimizer.apply(&mut updates).unwrap()
        };
        let averages: Vec<_> = optimizer.variables().map(|it| bits(it.ema.unwrap())).collect();
        (metrics, parameters, averages)
    };
    let mut order: Vec<usize> = (0..lengths.len()).collect();
    let expected = run(&order);
    for _ in 0..3 {
        rng.shuffle(&mut order);
        assert!(run(&order) == expected);
    }
}
