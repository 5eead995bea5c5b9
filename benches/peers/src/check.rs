//! Checks three steps of a peer against the formula of its optimizer.
//!
//! With the two gradients, Lion's sign follows the momentum in some elements, follows the gradient in others, and is
//! zero in the rest. The check therefore finds a sign taken from the gradient alone, a momentum that is not kept, and a
//! zero sign that moves the parameter. No momentum decays towards a subnormal number while steps are timed.

use crate::{BETA_1, BETA_2, Failure, LEARNING_RATE, Peer};

/// Far below the learning rate, and above the rounding error of a few operations near 2.
const TOLERANCE: f32 = 1e-6;

/// Returns the parameter and the two gradients of the element at `index`.
fn element(index: usize) -> (f32, f32, f32) {
    let parameter = 1.0 + (index % 7) as f32 / 8.0;
    let first = (index % 13) as f32 / 6.0 - 1.0;
    let then = first * if index % 2 == 0 { -0.05 } else { -0.2 };
    (parameter, first, then)
}

/// Returns a peer after three steps whose results were checked.
pub(crate) fn prepare<P: Peer>(len: usize) -> Result<P, Failure> {
    let elements = || (0..len).map(element);
    let mut peer = P::new(elements().map(|it| it.0).collect(), elements().map(|it| it.1).collect())?;
    peer.step()?;
    peer.set_gradient(elements().map(|it| it.2).collect())?;
    peer.step()?;
    peer.step()?;
    let found = peer.parameter()?;
    if found.len() != len {
        return Err(format!("{} elements of {len}", found.len()).into());
    }
    for (index, &found) in found.iter().enumerate() {
        let (parameter, first, then) = element(index);
        let expected = (P::EXPECTED)(parameter, first, then);
        // Written so that a NaN counts as wrong unless its bits are equal.
        if !((found - expected).abs() <= TOLERANCE || found.to_bits() == expected.to_bits()) {
            return Err(format!("wrong: element {index} is {found} and should be {expected}").into());
        }
    }
    Ok(peer)
}

/// Returns the parameter after three steps of Lion without weight decay.
pub fn lion(parameter: f32, first: f32, then: f32) -> f32 {
    let (mut p, mut m) = (f64::from(parameter), 0.0);
    for g in [first, then, then].map(f64::from) {
        let c = BETA_1 * m + (1.0 - BETA_1) * g;
        let sign = if c == 0.0 { 0.0 } else { c.signum() };
        p -= LEARNING_RATE * sign;
        m = BETA_2 * m + (1.0 - BETA_2) * g;
    }
    p as f32
}

/// Returns the parameter after three steps of AdamW without weight decay, with Lion's betas and an epsilon of 1e-8.
pub fn adamw(parameter: f32, first: f32, then: f32) -> f32 {
    let (mut p, mut m, mut v) = (f64::from(parameter), 0.0, 0.0);
    for (step, g) in (1..).zip([first, then, then].map(f64::from)) {
        m = BETA_1 * m + (1.0 - BETA_1) * g;
        v = BETA_2 * v + (1.0 - BETA_2) * g * g;
        let (mean, square) = (m / (1.0 - BETA_1.powi(step)), v / (1.0 - BETA_2.powi(step)));
        p -= LEARNING_RATE * mean / (square.sqrt() + 1e-8);
    }
    p as f32
}

/// Returns the parameter after three passes of the bandwidth bound. A pass is an exclusive or of bits, so the second
/// and the third undo each other.
pub fn stream(parameter: f32, first: f32, _then: f32) -> f32 {
    f32::from_bits(parameter.to_bits() ^ first.to_bits())
}
