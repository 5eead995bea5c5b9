//! The ranges of hyperparameters. They are f64 in Python and in JSON and f32 where they are used: a number must be in
//! its range as both.

use lion_kernels::with_ieee_state;

use crate::Error;

/// The nearest f32, the even one of two, whatever rounding the host has set.
pub(crate) fn single(value: f64) -> f32 {
    with_ieee_state(|| value as f32)
}

pub(crate) fn positive(name: &str, value: f64) -> Result<f64, Error> {
    check(name, value, "in (0, inf)", |x| x > 0.0 && x.is_finite())
}

pub(crate) fn not_negative(name: &str, value: f64) -> Result<f64, Error> {
    check(name, value, "in [0, inf)", |x| x >= 0.0 && x.is_finite())
}

pub(crate) fn at_least_one(name: &str, value: f64) -> Result<f64, Error> {
    check(name, value, "in [1, inf)", |x| x >= 1.0 && x.is_finite())
}

pub(crate) fn fraction(name: &str, value: f64) -> Result<f64, Error> {
    check(name, value, "in [0, 1]", |x| (0.0..=1.0).contains(&x))
}

pub(crate) fn positive_fraction(name: &str, value: f64) -> Result<f64, Error> {
    check(name, value, "in (0, 1]", |x| x > 0.0 && x <= 1.0)
}

fn check(name: &str, value: f64, range: &'static str, within: impl Fn(f64) -> bool) -> Result<f64, Error> {
    // Widened in the same state: a host may have the processor take a subnormal f32 for zero.
    let (single, widened) = with_ieee_state(|| (value as f32, f64::from(value as f32)));
    if !within(value) {
        Err(Error::argument(name, value, range))
    } else if !within(widened) {
        Err(Error::argument(name, format_args!("{value:e}, which is {single} as f32"), range))
    } else {
        Ok(value)
    }
}
