//! The constraints, compared with Keras 3.15.1.

use lion::{Axes, Constraint, Error};
use serde_json::Value;

/// In the order of golden/constraints.py.
fn constraints() -> Result<Vec<Constraint>, Error> {
    Ok(vec![
        Constraint::non_negative(),
        Constraint::max_norm(1.0, 0)?,
        Constraint::max_norm(1.5, -1)?,
        Constraint::max_norm(1.0, [0, 1])?,
        Constraint::max_norm(1.0, Axes::All)?,
        Constraint::unit_norm(0),
        Constraint::unit_norm([0, -1]),
        Constraint::min_max_norm(0.0, 1.0, 1.0, 0)?,
        Constraint::min_max_norm(0.5, 1.5, 0.3, -1)?,
    ])
}

fn close(found: f32, expected: f32) -> bool {
    (found - expected).abs() <= 4.0 * f32::EPSILON * expected.abs()
}

fn applied<const N: usize>(constraint: &Constraint, shape: &[usize], mut values: [f32; N]) -> [f32; N] {
    constraint.apply(shape, &mut values).unwrap();
    values
}

#[test]
fn results_are_keras_s() -> Result<(), Error> {
    let golden: Value = serde_json::from_str(include_str!("../golden/constraints.json")).unwrap();
    let constraints = constraints()?;
    let mut compared = 0;
    for case in golden["cases"].as_array().unwrap() {
        let shape: Vec<usize> = serde_json::from_value(case["shape"].clone()).unwrap();
        let before: Vec<f32> = serde_json::from_value(case["values"].clone()).unwrap();
        let results: Vec<Option<Vec<f32>>> = serde_json::from_value(case["results"].clone()).unwrap();
        assert_eq!(results.len(), constraints.len());
        for (constraint, expected) in constraints.iter().zip(results) {
            let mut found = before.clone();
            let result = constraint.apply(&shape, &mut found);
            let Some(expected) = expected else {
                assert!(result.is_err(), "{constraint:?} of {shape:?}");
                assert_eq!(found, before);
                continue;
            };
            assert!(result.is_ok(), "{constraint:?} of {shape:?}: {result:?}");
            for (&found, expected) in found.iter().zip(expected) {
                assert!(close(found, expected), "{constraint:?} of {shape:?}: {found}, not {expected}");
                compared += 1;
            }
        }
    }
    assert!(compared > 250, "{compared}");
    Ok(())
}

/// What `keras.constraints.serialize` of Keras 3.15.1 writes.
#[test]
fn keras_s_json_is_the_constraint() -> Result<(), Error> {
    let read = |class: &str, config: &str| {
        let json = format!(
            r#"{{"module": "keras.constraints", "class_name": "{class}", "config": {config}, "registered_name": null}}"#
        );
        Constraint::from_json(&json).map(|constraint| format!("{constraint:?}"))
    };
    for (class, config, expected) in [
        ("NonNeg", "{}", Constraint::non_negative()),
        ("MaxNorm", r#"{"max_value": 1.5, "axis": 0}"#, Constraint::max_norm(1.5, 0)?),
        ("MaxNorm", r#"{"max_value": 2, "axis": [0, 1, 2]}"#, Constraint::max_norm(2.0, [0, 1, 2])?),
        ("MaxNorm", r#"{"max_value": 2, "axis": null}"#, Constraint::max_norm(2.0, Axes::All)?),
        ("UnitNorm", r#"{"axis": -1}"#, Constraint::unit_norm(-1)),
        (
            "MinMaxNorm",
            r#"{"min_value": 0.5, "max_value": 1.5, "rate": 0.3, "axis": [0, 1]}"#,
            Constraint::min_max_norm(0.5, 1.5, 0.3, [0, 1])?,
        ),
        // Keras's defaults.
        ("MaxNorm", "{}", Constraint::max_norm(2.0, 0)?),
        ("UnitNorm", "null", Constraint::unit_norm(0)),
        ("MinMaxNorm", "{}", Constraint::min_max_norm(0.0, 1.0, 1.0, 0)?),
    ] {
        assert_eq!(read(class, config)?, format!("{expected:?}"));
    }
    for (class, config, expected) in [
        (
            "UnitNorm",
            r#"{"axis": "0"}"#,
            r#"config.axis is "0", and must be an axis, a list of axes or null"#,
        ),
        ("UnitNorm", r#"{"axis": 0.5}"#, "config.axis is 0.5, and must be an axis, a list of axes or null"),
        ("UnitNorm", r#"{"axes": 0}"#, "config.axes is not a known key; known: axis"),
        ("MaxNorm", r#"{"max_value": true}"#, "config.max_value is true, and must be a number"),
        ("Norm", "{}", r#"class_name is "Norm", and must be one of NonNeg, MaxNorm, UnitNorm or MinMaxNorm"#),
    ] {
        assert_eq!(read(class, config).unwrap_err().to_string(), expected);
    }
    let found = Constraint::from_json("1").unwrap_err().to_string();
    assert_eq!(found, "the constraint is 1, and must be an object");
    let custom = r#"{"module": "mine", "class_name": "MaxNorm", "config": {}}"#;
    assert!(matches!(Constraint::from_json(custom), Err(Error::Custom { .. })));
    Ok(())
}

/// As Keras gives them too.
#[test]
fn numbers_that_are_none() -> Result<(), Error> {
    let (nan, inf) = (f32::NAN, f32::INFINITY);
    let bits = |values: [f32; 5]| values.map(f32::to_bits);
    let found = applied(&Constraint::non_negative(), &[5], [-0.0, 1.0, -1.0, inf, -inf]);
    assert_eq!(bits(found), bits([0.0, 1.0, 0.0, inf, 0.0]));
    assert!(applied(&Constraint::non_negative(), &[1], [nan])[0].is_nan());

    let max = Constraint::max_norm(2.0, 0)?;
    let [a, b, c, d] = applied(&max, &[2, 2], [inf, 1.0, 1.0, 2.0]);
    assert!(a.is_nan() && close(b, 0.894_427_2) && c == 0.0 && close(d, 1.788_854_4));
    let [a, b, c, d] = applied(&Constraint::min_max_norm(0.5, 1.0, 0.3, 0)?, &[2, 2], [nan, 1.0, 1.0, 2.0]);
    assert!(a.is_nan() && close(b, 0.834_164) && c.is_nan() && close(d, 1.668_328));
    // The squares are beyond f32.
    assert_eq!(applied(&max, &[2], [1e30, 1e30]), [0.0, 0.0]);
    let zeros = applied(&Constraint::unit_norm(0), &[2], [0.0, -0.0]);
    assert_eq!(zeros.map(f32::to_bits), [0.0_f32, -0.0].map(f32::to_bits));
    Ok(())
}

#[test]
fn a_closure_sees_shape_and_values() {
    let own = Constraint::from_fn(|shape, values| {
        let row = shape[1];
        values.iter_mut().step_by(row).for_each(|value| *value = 0.0);
    });
    assert_eq!(applied(&own, &[2, 3], [1.0; 6]), [0.0, 1.0, 1.0, 0.0, 1.0, 1.0]);
}

#[test]
fn another_epsilon() -> Result<(), Error> {
    let constraint = Constraint::unit_norm(0).epsilon(1.0)?;
    assert_eq!(applied(&constraint, &[1], [1.0]), [0.5]);
    Ok(())
}

#[test]
fn shapes_of_nothing() -> Result<(), Error> {
    for shape in [&[0][..], &[3, 0], &[0, usize::MAX, usize::MAX], &[usize::MAX, usize::MAX, 0]] {
        Constraint::max_norm(1.0, 0)?.apply(shape, &mut [])?;
        Constraint::unit_norm(Axes::Of(vec![])).apply(shape, &mut [])?;
    }
    Ok(())
}

#[test]
fn wrong_arguments_are_named() -> Result<(), Error> {
    let values = &mut [1.0; 6];
    for (found, expected) in [
        (Constraint::max_norm(-1.0, 0).map(drop), "max_value is -1, and must be in [0, inf)"),
        (
            Constraint::min_max_norm(f64::NAN, 1.0, 1.0, 0).map(drop),
            "min_value is NaN, and must be in [0, inf)",
        ),
        (
            Constraint::min_max_norm(2.0, 1.0, 1.0, 0).map(drop),
            "max_value is 1, and must be in [2, inf), from min_value",
        ),
        (Constraint::min_max_norm(0.0, 1.0, 1.5, 0).map(drop), "rate is 1.5, and must be in [0, 1]"),
        (Constraint::unit_norm(0).epsilon(0.0).map(drop), "epsilon is 0, and must be in (0, inf)"),
        (
            Constraint::unit_norm(2).apply(&[2, 3], values),
            "axis is 2, and must be an axis of the shape [2, 3]",
        ),
        (
            Constraint::unit_norm(-3).apply(&[2, 3], values),
            "axis is -3, and must be an axis of the shape [2, 3]",
        ),
        (
            Constraint::unit_norm(isize::MIN).apply(&[6], values),
            "axis is -9223372036854775808, and must be an axis of the shape [6]",
        ),
        (Constraint::unit_norm([0, -2]).apply(&[2, 3], values), "axis is -2, and must be given once"),
        (Constraint::non_negative().apply(&[2, 2], values), "the shape [2, 2] does not match the 6 values"),
        (
            Constraint::non_negative().apply(&[usize::MAX, 2], values),
            "the shape [18446744073709551615, 2] does not match the 6 values",
        ),
        (Constraint::non_negative().apply(&[0, 2], values), "the shape [0, 2] does not match the 6 values"),
    ] {
        assert_eq!(found.unwrap_err().to_string(), expected);
    }
    assert_eq!(*values, [1.0; 6]);
    Ok(())
}
