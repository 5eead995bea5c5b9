//! Steps that return an error, and steps without work: the optimizer is then unchanged.

use half::bf16;
use lion::Error;
use lion::prelude::*;
use lion_tests::{bits, tensor_bits};

/// All that an optimizer holds, to see that nothing has changed.
fn snapshot(optimizer: &Lion) -> String {
    let state: Vec<_> = optimizer
        .variables()
        .map(|variable| {
            let floats = |values: Option<&[f32]>| values.map(bits);
            let momentum = variable.momentum.map(tensor_bits);
            (variable.name.to_owned(), momentum, floats(variable.ema), floats(variable.accumulator))
        })
        .collect();
    format!("{:?} {} {:?}", state, optimizer.iterations(), optimizer.dynamic_loss_scale())
}

#[test]
fn calls_without_work() {
    for dynamic in [false, true] {
        let mut builder = Lion::builder().ema(0.9);
        if dynamic {
            builder = builder.dynamic_loss_scale(DynamicLossScale::default());
        }
        let mut optimizer = builder.build().unwrap();
        optimizer.register("a", &[1], Dtype::F32).unwrap();
        let before = snapshot(&optimizer);
        assert_eq!(optimizer.apply(&mut []).unwrap().outcome, Outcome::Empty);
        optimizer.finalize_variable_values(&mut []).unwrap();
        assert_eq!(snapshot(&optimizer), before);
    }
}

#[test]
fn a_variable_without_a_name() {
    let mut optimizer = Lion::builder().build().unwrap();
    let error = optimizer.register("", &[1], Dtype::F32).unwrap_err();
    assert_eq!(error.to_string(), "the name is \"\", and must be a text that is not empty");
}

#[test]
fn a_rate_of_a_group_names_the_group() {
    let mut optimizer = Lion::builder().learning_rate(1e38).build().unwrap();
    let group = optimizer.add_group(Group::new().learning_rate_multiplier(10.0)).unwrap();
    let options = VariableOptions { group, ..VariableOptions::default() };
    let id = optimizer.register_with("a", &[1], Dtype::F32, options).unwrap();
    let (mut parameter, gradient) = ([1.0_f32], [1.0_f32]);
    let update = Update::new(id, &mut parameter[..], &gradient[..]);
    let error = optimizer.apply(&mut [update]).unwrap_err();
    assert_eq!(error.to_string(), "group 1.learning_rate of step 0 is inf, and must be in [0, inf)");
}

/// What fails, given an optimizer and the parameters of its two variables.
type Refused<'a> = dyn FnMut(&mut Lion, &mut [f32], &mut [bf16]) -> Error + 'a;

#[test]
fn a_failed_call_changes_nothing() {
    let failing = Schedule::from_fn(|call| if call == 1 { f32::NAN } else { 0.1 });
    let mut optimizer = Lion::builder()
        .learning_rate(failing)
        .weight_decay(0.1)
        .ema(0.9)
        .ema_overwrite_frequency(1)
        .gradient_accumulation_steps(2)
        .global_clipnorm(1.0)
        .dynamic_loss_scale(DynamicLossScale::default())
        .build()
        .unwrap();
    let a = optimizer.register("a", &[2, 2], Dtype::F32).unwrap();
    let b = optimizer.register("b", &[3], Dtype::BF16).unwrap();
    let elsewhere = {
        let mut other = Lion::builder().build().unwrap();
        (0..9).map(|i| other.register(&i.to_string(), &[], Dtype::F32).unwrap()).last().unwrap()
    };
    let (mut p, mut q) = ([1.0_f32; 4], [bf16::ONE; 3]);
    let (g, h) = ([0.5_f32; 4], [bf16::ONE; 3]);
    let short = [0.0_f32; 2];
    let mut wrong = [0.0_f32; 3];
    optimizer.apply(&mut [Update::new(a, &mut p[..], &g[..]), Update::new(b, &mut q[..], &h[..])]).unwrap();

    let before = (p, q, snapshot(&optimizer));
    let mut refuse = |expected: &str, call: &mut Refused<'_>| {
        let message = call(&mut optimizer, &mut p, &mut q).to_string();
        assert_eq!(message, expected);
        assert_eq!((p, q, snapshot(&optimizer)), before, "{expected}");
    };
    refuse("variable \"a\": the gradient has 2 elements, and its shape has 4", &mut |it, p, q| {
        it.apply(&mut [Update::new(b, q, &h[..]), Update::new(a, p, &short[..])]).unwrap_err()
    });
    refuse("variable \"b\": the parameter is f32, and was registered as bf16", &mut |it, p, _| {
        it.apply(&mut [Update::new(a, p, &g[..]), Update::new(b, &mut wrong[..], &h[..])]).unwrap_err()
    });
    refuse("variable \"b\": the source is f32, and was registered as bf16", &mut |it, p, q| {
        let update = Update::new(b, q, &h[..]).source(&g[..3]);
        it.apply(&mut [Update::new(a, p, &g[..]), update]).unwrap_err()
    });
    refuse("variable \"b\": the copy has 1 elements, and its shape has 3", &mut |it, p, q| {
        let mut copy = [0.0_f32];
        let update = Update::new(b, q, &h[..]).copy(&mut copy[..]);
        it.apply(&mut [Update::new(a, p, &g[..]), update]).unwrap_err()
    });
    refuse("variable \"a\" is in the step twice", &mut |it, p, q| {
        let (left, mut right) = (p, [0.0_f32; 4]);
        it.apply(&mut [
            Update::new(a, left, &g[..]),
            Update::new(b, q, &h[..]),
            Update::new(a, &mut right[..], &g[..]),
        ])
        .unwrap_err()
    });
    refuse(
        "variable \"b\" is not in the step, and its moving average needs it: Update::without_gradient names a \
         variable that has no gradient",
        &mut |it, p, _| it.apply(&mut [Update::new(a, p, &g[..])]).unwrap_err(),
    );
    refuse("no variable of the step has a gradient", &mut |it, p, q| {
        it.apply(&mut [Update::without_gradient(a, p), Update::without_gradient(b, q)]).unwrap_err()
    });
    refuse("variable id 8 does not exist; 2 variables are registered", &mut |it, p, _| {
        it.apply(&mut [Update::new(elsewhere, p, &g[..])]).unwrap_err()
    });
    refuse("learning_rate of step 1 is NaN, and must be in [0, inf)", &mut |it, p, q| {
        it.apply(&mut [Update::new(a, p, &g[..]), Update::new(b, q, &h[..])]).unwrap_err()
    });
    refuse("variable \"a\" already exists", &mut |it, _, _| it.register("a", &[1], Dtype::F32).unwrap_err());
    refuse("the constraint of \"c\".axis is 1, and must be an axis of the shape [3]", &mut |it, _, _| {
        let constraint = Some(Constraint::unit_norm(1));
        let options = VariableOptions { constraint, ..Default::default() };
        it.register_with("c", &[3], Dtype::F32, options).unwrap_err()
    });
    refuse("beta_1 is 0, and must be in (0, 1]", &mut |it, _, _| it.set_beta_1(0.0).unwrap_err());
    refuse("learning_rate_multiplier is -1, and must be in [0, inf)", &mut |it, _, _| {
        it.add_group(Group::new().learning_rate_multiplier(-1.0)).unwrap_err()
    });
    // The same call goes through once nothing is wrong.
    optimizer.set_learning_rate(0.1).unwrap();
    optimizer.apply(&mut [Update::new(a, &mut p[..], &g[..]), Update::new(b, &mut q[..], &h[..])]).unwrap();
    assert_eq!(optimizer.iterations(), 2);
}

#[test]
fn wrong_patterns_are_one_line() {
    for (pattern, reason) in [
        ("(bias", "unclosed group"),
        ("a{1000}{1000}{1000}", "exceeds size limit"),
        ("(?=bias)", "look-around"),
        (&format!("{}a{}", "(".repeat(5000), ")".repeat(5000)), "nest"),
    ] {
        let error = Lion::builder().exclude_from_weight_decay(pattern).build().unwrap_err();
        assert!(matches!(error, Error::Pattern { .. }));
        let message = error.to_string();
        assert!(!message.contains('\n') && message.len() < 300 && message.contains(reason), "{message}");
    }
}

#[test]
fn groups_of_another_optimizer() {
    let mut many = Lion::builder().build().unwrap();
    let group = many.add_group(Group::new()).unwrap();
    let mut few = Lion::builder().build().unwrap();
    let options = VariableOptions { group, ..Default::default() };
    let error = few.register_with("a", &[], Dtype::F32, options).unwrap_err();
    assert_eq!(error.to_string(), "group id 1 does not exist; the optimizer has 1, with its own");
    assert!(few.set_group(group, Group::new()).is_err());
    assert!(few.variable("a").is_none());
}
