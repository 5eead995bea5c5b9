//! Parts of the optimizer that Keras's runs do not cover: groups, metrics, and variables without an update.

use half::{bf16, f16};
use lion::prelude::*;
use lion::{BeginOptions, Builder, Error, TensorRef};
use lion_tests::tensor_bits;

#[test]
fn without_an_average_variables_may_be_left_out() {
    let mut optimizer = Lion::builder().learning_rate(0.5).gradient_accumulation_steps(2).build().unwrap();
    let a = optimizer.register("a", &[1], Dtype::F32).unwrap();
    let b = optimizer.register("b", &[1], Dtype::F32).unwrap();
    let (mut p, mut q) = ([1.0_f32], [1.0_f32]);
    let g = [1.0_f32];
    let both = &mut [Update::new(a, &mut p[..], &g[..]), Update::new(b, &mut q[..], &g[..])];
    assert_eq!(optimizer.apply(both).unwrap().outcome, Outcome::Accumulated);
    assert_eq!(optimizer.view(b).unwrap().accumulator, Some(&[1.0][..]));
    // The update ends the window of both.
    let one = &mut [Update::new(a, &mut p[..], &g[..])];
    assert_eq!(optimizer.apply(one).unwrap().outcome, Outcome::Updated);
    assert_eq!((p, q), ([0.5], [1.0]));
    assert_eq!(optimizer.view(b).unwrap().accumulator, Some(&[0.0][..]));
}

#[test]
fn the_list_of_updates_keeps_its_order() {
    const NAMES: [&str; 4] = ["a", "b", "c", "d"];
    let mut optimizer = Lion::builder().learning_rate(0.5).ema(0.5).build().unwrap();
    let ids = NAMES.map(|name| optimizer.register(name, &[1], Dtype::F32).unwrap());
    // A cycle of three and a fixed point.
    let given = [ids[2], ids[0], ids[1], ids[3]];
    let ids_of = |updates: &[Update<'_>]| {
        let id = |update: &Update<'_>| {
            given.iter().copied().find(|id| format!("{update:?}").contains(&format!("{id:?}")))
        };
        updates.iter().map(id).collect::<Option<Vec<_>>>().unwrap()
    };
    let mut parameters = [[1.0_f32], [2.0], [3.0], [4.0]];
    let gradients = [[1.0_f32], [-1.0], [1.0], [f32::NAN]];
    let mut updates: Vec<_> = parameters
        .iter_mut()
        .zip(&gradients)
        .zip(given)
        .map(|((p, g), id)| Update::new(id, &mut p[..], &g[..]))
        .collect();
    optimizer.apply(&mut updates).unwrap();
    assert_eq!(ids_of(&updates), given);
    optimizer.apply(&mut updates[..2]).unwrap_err();
    optimizer.finalize_variable_values(&mut updates[1..]).unwrap_err();
    let step = optimizer.begin(BeginOptions::default()).unwrap();
    optimizer.part(step, &mut updates).unwrap();
    optimizer.part(step, &mut updates).unwrap_err();
    assert_eq!(ids_of(&updates), given);
    optimizer.finish(step).unwrap();
    drop(updates);
    assert_eq!(parameters[..3], [[0.0], [3.0], [2.0]]);
}

#[test]
fn finalize_writes_the_average() {
    let mut optimizer = Lion::builder().ema(0.9).build().unwrap();
    let a = optimizer.register("a", &[2], Dtype::F16).unwrap();
    let source = [f16::ONE; 2];
    let (mut p, mut copy) = ([f16::NAN; 2], [1.0_f32; 2]);
    let update = Update::without_gradient(a, &mut p[..]).source(&source[..]).copy(&mut copy[..]);
    optimizer.finalize_variable_values(&mut [update]).unwrap();
    assert_eq!((p, copy), ([f16::ZERO; 2], [0.0; 2]), "no calls, so the average is zero");

    let mut plain = Lion::builder().build().unwrap();
    let a = plain.register("a", &[2], Dtype::F16).unwrap();
    let update = Update::without_gradient(a, &mut p[..]).source(&source[..]);
    plain.finalize_variable_values(&mut [update]).unwrap();
    assert_eq!(p, source, "no average");
}

#[test]
fn the_cadence_of_the_average() {
    let average = |cadence| {
        let mut optimizer = Lion::builder()
            .learning_rate(0.5)
            .ema(0.5)
            .ema_cadence(cadence)
            .gradient_accumulation_steps(2)
            .build()
            .unwrap();
        let a = optimizer.register("a", &[], Dtype::F32).unwrap();
        let mut p = [1.0_f32];
        let averages = (0..4).map(|_| {
            optimizer.apply(&mut [Update::new(a, &mut p[..], &[1.0_f32][..])]).unwrap();
            optimizer.view(a).unwrap().ema.unwrap()[0]
        });
        averages.collect::<Vec<_>>()
    };
    assert_eq!(average(EmaCadence::EveryCall), [1.0, 0.5, 0.5, 0.25]);
    assert_eq!(average(EmaCadence::EveryUpdate), [0.0, 0.5, 0.5, 0.25]);
}

#[test]
fn what_a_variable_was_registered_with() {
    let mut optimizer = Lion::builder().build().unwrap();
    let kernel = optimizer.register("kernel", &[2, 3], Dtype::F32).unwrap();
    let bias = optimizer.register("bias", &[], Dtype::F16).unwrap();
    assert_eq!((optimizer.name(kernel), optimizer.shape(kernel)), (Some("kernel"), Some(&[2, 3][..])));
    assert_eq!((optimizer.name(bias), optimizer.shape(bias)), (Some("bias"), Some(&[][..])));
    let other = Lion::builder().build().unwrap();
    assert_eq!((other.name(kernel), other.shape(kernel)), (None, None));
}

#[test]
fn groups_and_live_hyperparameters() {
    let mut optimizer = Lion::builder().learning_rate(0.5).weight_decay(1.0).build().unwrap();
    let own = Group::new().learning_rate_multiplier(0.5).beta_1(0.5).beta_2(0.0).weight_decay(0.5);
    let own = optimizer.add_group(own).unwrap();
    let off = optimizer.add_group(Group::new().no_weight_decay()).unwrap();
    let mut register = |name: &str, group| {
        let options = VariableOptions { group, ..Default::default() };
        optimizer.register_with(name, &[1], Dtype::F32, options).unwrap()
    };
    let ids = [register("plain", GroupId::default()), register("own", own), register("off", off)];
    let mut parameters = [[1.0_f32]; 3];
    let call = |optimizer: &mut Lion, parameters: &mut [[f32; 1]; 3]| {
        let pairs = ids.iter().zip(parameters);
        let mut updates: Vec<_> = pairs.map(|(id, p)| Update::new(*id, &mut p[..], &[4.0_f32][..])).collect();
        optimizer.apply(&mut updates).unwrap()
    };
    let metrics = call(&mut optimizer, &mut parameters);
    assert_eq!(metrics.learning_rate, 0.5);
    // 1 - 1 * 1 * 0.5 - 0.5; 1 - 1 * 0.5 * 0.25 - 0.25; 1 - 0.5.
    assert_eq!(parameters, [[0.0], [0.625], [0.5]]);
    let momentum =
        |optimizer: &Lion, id| optimizer.momentum(id).and_then(|it| it.as_slice::<f32>()).expect("is f32")[0];
    assert_eq!(momentum(&optimizer, ids[1]), 4.0);

    optimizer.set_learning_rate(0.25).unwrap();
    optimizer.set_weight_decay(None).unwrap();
    optimizer.set_beta_2(1.0).unwrap();
    let doubled = Group::new().learning_rate_multiplier(2.0);
    optimizer.set_group(off, doubled.clone()).unwrap();
    assert_eq!(optimizer.learning_rate(), 0.25);
    assert_eq!(optimizer.group(off), Some(&doubled));
    assert_ne!(optimizer.group(own), Some(&doubled));
    assert_eq!(Lion::builder().build().unwrap().group(off), None);
    let before = momentum(&optimizer, ids[0]);
    let metrics = call(&mut optimizer, &mut parameters);
    assert_eq!(metrics.learning_rate, 0.25);
    // The group keeps its own decay: 0.625 - 0.625 * 0.5 * 0.125 - 0.125.
    assert_eq!(parameters, [[-0.25], [0.460_937_5], [0.0]]);
    assert_eq!(momentum(&optimizer, ids[0]), before);
    assert_eq!(optimizer.config().weight_decay, None);
}

#[test]
fn metrics_of_clips() {
    let metrics = |builder: Builder| {
        let mut optimizer = builder.learning_rate(0.5).build().unwrap();
        let a = optimizer.register("a", &[2], Dtype::F32).unwrap();
        let b = optimizer.register("b", &[1], Dtype::F32).unwrap();
        let (mut p, mut q) = ([0.0_f32; 2], [0.0_f32]);
        let (g, h) = ([3.0_f32, 0.0], [4.0_f32]);
        let updates = &mut [Update::new(b, &mut q[..], &h[..]), Update::new(a, &mut p[..], &g[..])];
        let metrics = optimizer.apply(updates).unwrap();
        assert_eq!((metrics.outcome, metrics.learning_rate), (Outcome::Updated, 0.5));
        (metrics.gradient_norm, metrics.clipped_norm, metrics.clipped, metrics.non_finite)
    };
    let dynamic = || {
        let mut scale = DynamicLossScale::default();
        scale.initial_scale = 1.0;
        Lion::builder().dynamic_loss_scale(scale)
    };
    assert_eq!(metrics(Lion::builder()), (None, None, Some(false), None));
    assert_eq!(metrics(Lion::builder().clipvalue(1.0)), (None, None, None, None));
    assert_eq!(metrics(dynamic()), (Some(5.0), Some(5.0), Some(false), Some(0)));
    assert_eq!(metrics(dynamic().clipvalue(3.5)), (Some(5.0), None, Some(true), Some(0)));
    assert_eq!(metrics(dynamic().clipvalue(4.0)), (Some(5.0), None, Some(false), Some(0)));
    assert_eq!(
        metrics(Lion::builder().clipnorm(3.5)),
        (Some(5.0), Some(21.25_f32.sqrt()), Some(true), Some(0))
    );
    assert_eq!(metrics(Lion::builder().clipnorm(8.0)), (Some(5.0), Some(5.0), Some(false), Some(0)));
    assert_eq!(metrics(Lion::builder().global_clipnorm(2.5)), (Some(5.0), Some(2.5), Some(true), Some(0)));
    assert_eq!(metrics(Lion::builder().global_clipnorm(8.0)), (Some(5.0), Some(5.0), Some(false), Some(0)));
}

#[test]
fn metrics_of_a_call_that_only_accumulates() {
    for builder in [Lion::builder(), Lion::builder().clipnorm(1.0)] {
        let mut optimizer = builder.gradient_accumulation_steps(2).build().unwrap();
        let a = optimizer.register("a", &[1], Dtype::F32).unwrap();
        let metrics = optimizer.apply(&mut [Update::new(a, &mut [0.0_f32][..], &[3.0_f32][..])]).unwrap();
        assert_eq!(metrics.outcome, Outcome::Accumulated);
        assert_eq!((metrics.gradient_norm, metrics.clipped_norm, metrics.clipped), (None, None, None));
        assert_eq!(metrics.non_finite, None);
    }
}

/// A dynamic scale can come to zero. What is divided by it is infinite or NaN, though what was passed is finite.
#[test]
fn metrics_of_clips_at_a_scale_of_zero() {
    let clipped = |builder: Builder, gradient: f32| {
        let mut optimizer = builder.dynamic_loss_scale(DynamicLossScale::default()).build().unwrap();
        let a = optimizer.register("a", &[1], Dtype::F32).unwrap();
        optimizer.set_dynamic_loss_scale(0.0, 0).unwrap();
        let metrics = optimizer.apply(&mut [Update::new(a, &mut [0.0_f32][..], &[gradient][..])]).unwrap();
        assert_eq!((metrics.outcome, metrics.non_finite), (Outcome::Updated, Some(0)));
        (metrics.gradient_norm.unwrap().is_nan(), metrics.clipped)
    };
    assert_eq!(clipped(Lion::builder().clipvalue(1.0), 1.0), (false, Some(true)));
    // No finite element is above the limit, and whether an infinite one is cannot be known beside a NaN.
    assert_eq!(clipped(Lion::builder().clipvalue(1.0), 0.0), (true, None));
    // A norm that is not finite counts as clipped.
    for gradient in [0.0, 1.0] {
        assert_eq!(clipped(Lion::builder().clipnorm(1.0), gradient).1, Some(true));
        assert_eq!(clipped(Lion::builder().global_clipnorm(1.0), gradient).1, Some(true));
        assert_eq!(clipped(Lion::builder(), gradient).1, Some(false));
    }
}

#[test]
fn a_skipped_call_touches_nothing_else() {
    let mut scale = DynamicLossScale::default();
    scale.initial_scale = 8.0;
    let schedule = Schedule::from_fn(|call| 0.5 / (call + 1) as f32);
    let mut optimizer =
        Lion::builder().learning_rate(schedule).ema(0.5).dynamic_loss_scale(scale).build().unwrap();
    let a = optimizer.register("a", &[3], Dtype::F32).unwrap();
    assert_eq!(optimizer.scale_loss(0.5), 4.0);
    let source = [1.0_f32, 2.0, 3.0];
    let (mut p, mut copy) = ([0.0_f32; 3], [bf16::ZERO; 3]);
    let g = [8.0_f32, f32::NAN, f32::INFINITY];
    let update = Update::out_of_place(a, &source[..], &mut p[..], &g[..]).copy(&mut copy[..]);
    let metrics = optimizer.apply(&mut [update]).unwrap();
    assert_eq!((metrics.outcome, metrics.non_finite), (Outcome::Skipped, Some(2)));
    assert_eq!((metrics.loss_scale, metrics.learning_rate), (Some(8.0), 0.5));
    assert_eq!(
        (p, copy),
        (source, source.map(bf16::from_f32)),
        "out of place the parameter is still handed on"
    );
    assert_eq!((optimizer.iterations(), optimizer.dynamic_loss_scale()), (0, Some((4.0, 0))));
    let state = optimizer.view(a).unwrap();
    assert_eq!((state.ema, tensor_bits(state.momentum.unwrap())), (Some(&[0.0; 3][..]), vec![0; 3]));

    let metrics = optimizer.apply(&mut [Update::new(a, &mut p[..], &[4.0_f32; 3][..])]).unwrap();
    assert_eq!((metrics.outcome, metrics.loss_scale), (Outcome::Updated, Some(4.0)));
    assert_eq!(optimizer.dynamic_loss_scale(), Some((4.0, 1)));
    optimizer.set_dynamic_loss_scale(f32::INFINITY, 7).unwrap();
    assert_eq!(optimizer.dynamic_loss_scale(), Some((f32::INFINITY, 7)));
    assert!(optimizer.set_dynamic_loss_scale(f32::NAN, 0).is_err());
}

#[test]
fn constraints_on_16_bits_reach_the_copy() {
    let mut optimizer = Lion::builder().learning_rate(0.5).ema(0.5).build().unwrap();
    let constraint = Some(Constraint::max_norm(5.0, 0).unwrap());
    let options = VariableOptions { constraint, ..Default::default() };
    let a = optimizer.register_with("a", &[2, 1], Dtype::BF16, options).unwrap();
    let (mut p, mut copy) = ([5.5, 8.5].map(bf16::from_f32), [0.0_f32; 2]);
    let g = [1.0_f32, 1.0];
    let update = Update::new(a, &mut p[..], &g[..]).copy(&mut copy[..]);
    optimizer.apply(&mut [update]).unwrap();
    let mut expected = [5.0_f32, 8.0];
    assert_eq!(optimizer.view(a).unwrap().ema, Some(&expected[..]), "averaged before it is constrained");
    Constraint::max_norm(5.0, 0).unwrap().apply(&[2, 1], &mut expected).unwrap();
    assert_eq!(p, expected.map(bf16::from_f32));
    assert_eq!(copy, p.map(f32::from));
}

#[test]
fn overwritten_variables_in_16_bits() {
    let mut optimizer = Lion::builder().gradient_accumulation_steps(2).ema(0.5).build().unwrap();
    let options = VariableOptions { overwrite_with_gradient: true, ..Default::default() };
    let a = optimizer.register_with("a", &[3], Dtype::BF16, options).unwrap();
    assert!(optimizer.momentum(a).is_none() && optimizer.view(a).unwrap().ema.is_none());
    let mut p = [bf16::ONE; 3];
    for (g, expected) in [([-1.0, 5.0, 2.0], [1.0, 1.0, 1.0]), ([-2.0, 4.0, 3.0], [0.0, 5.0, 3.0])] {
        let g = g.map(f16::from_f32);
        let metrics = optimizer.apply(&mut [Update::new(a, &mut p[..], &g[..])]).unwrap();
        assert_eq!(metrics.outcome, Outcome::Overwritten);
        assert_eq!(p.map(f32::from), expected);
    }
    assert_eq!(optimizer.view(a).unwrap().accumulator, Some(&[0.0; 3][..]));
}

#[test]
fn stalled_parameters() {
    let mut optimizer = Lion::builder().learning_rate(1e-4).build().unwrap();
    let slow = optimizer.add_group(Group::new().learning_rate_multiplier(1e-9)).unwrap();
    let of = |optimizer: &mut Lion, name: &str, dtype, group| {
        let options = VariableOptions { group, ..Default::default() };
        optimizer.register_with(name, &[5], dtype, options).unwrap()
    };
    let a = of(&mut optimizer, "a", Dtype::BF16, GroupId::default());
    let b = of(&mut optimizer, "b", Dtype::F16, GroupId::default());
    let c = of(&mut optimizer, "c", Dtype::F32, GroupId::default());
    let d = of(&mut optimizer, "d", Dtype::F32, slow);
    let values = [1.0_f32, -1.0, 0.03, 0.0, f32::NAN];
    assert_eq!(optimizer.stalled_fraction(a, &values.map(bf16::from_f32)[..]).unwrap(), 0.4);
    assert_eq!(optimizer.stalled_fraction(b, &values.map(f16::from_f32)[..]).unwrap(), 0.4);
    assert_eq!(optimizer.stalled_fraction(c, &values[..]).unwrap(), 0.0);
    assert_eq!(optimizer.stalled_fraction(d, &values[..]).unwrap(), 0.6);
    optimizer.set_learning_rate(0.01).unwrap();
    assert_eq!(optimizer.stalled_fraction(a, &values.map(bf16::from_f32)[..]).unwrap(), 0.0);
    assert!(optimizer.stalled_fraction(a, &values[..]).is_err());
    let none = optimizer.register("none", &[0], Dtype::BF16).unwrap();
    assert_eq!(optimizer.stalled_fraction(none, TensorRef::empty(Dtype::BF16)).unwrap(), 0.0);
}

#[test]
fn excluded_from_weight_decay() {
    let mut optimizer = Lion::builder()
        .learning_rate(0.5)
        .weight_decay(1.0)
        .exclude_from_weight_decay("bias$")
        .exclude_from_weight_decay("norm")
        .build()
        .unwrap();
    let names = ["layer/bias", "layer/norm.scale", "bias.kernel", "kernel"];
    let excluded = VariableOptions { exclude_from_weight_decay: true, ..Default::default() };
    let mut ids: Vec<_> =
        names.iter().map(|name| optimizer.register(name, &[1], Dtype::F32).unwrap()).collect();
    ids.push(optimizer.register_with("embedding", &[1], Dtype::F32, excluded).unwrap());
    let mut parameters = [[4.0_f32]; 5];
    let mut updates: Vec<_> =
        ids.iter().zip(&mut parameters).map(|(id, p)| Update::new(*id, &mut p[..], &[0.0_f32][..])).collect();
    optimizer.apply(&mut updates).unwrap();
    assert_eq!(parameters, [[4.0], [4.0], [2.0], [2.0], [4.0]]);
}

#[test]
fn shapes_of_nothing() {
    let mut optimizer = Lion::builder().clipnorm(1.0).ema(0.9).build().unwrap();
    let a = optimizer.register("a", &[usize::MAX, 0, usize::MAX], Dtype::F32).unwrap();
    let none: [f32; 0] = [];
    optimizer.apply(&mut [Update::new(a, &mut [][..] as &mut [f32], &none[..])]).unwrap();
    assert!(matches!(
        optimizer.register("b", &[usize::MAX, 2], Dtype::F32),
        Err(Error::ShapeTooLarge { .. })
    ));
    assert!(optimizer.register("b", &[usize::MAX / 8], Dtype::F32).is_err());
}

#[test]
fn an_optimizer_can_go_to_another_thread() {
    fn check<T: Send + Sync + Clone>() {}
    check::<Lion>();
}
