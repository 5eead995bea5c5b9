//! A model of Keras's Lion in plain, slow loops: one `apply`, operation by operation, over tensors held as f32.
//!
//! It follows the description of the optimizer and is written for review. It shares no code with the optimizer or the
//! kernels. It shares 8-bit momentum and stochastic rounding with the kernels' reference, and has its own norms,
//! conversions and options.

// Written as the description writes it.
#![allow(clippy::assign_op_pattern, clippy::eq_op, clippy::manual_is_multiple_of)]

use half::{bf16, f16};
use lion_kernels::reference;

/// How the elements of a tensor are stored.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Storage {
    F32,
    F16,
    BF16,
    /// Momentum in codes of 8 bits, in blocks of 64.
    Q8,
}

impl Storage {
    /// The nearest number of the format.
    pub fn rounded(self, value: f32) -> f32 {
        match self {
            // In 8 bits a number depends on those around it: see the step.
            Storage::F32 | Storage::Q8 => value,
            Storage::F16 => f16::from_f32(value).to_f32(),
            Storage::BF16 => bf16::from_f32(value).to_f32(),
        }
    }
}

/// What weight decay is multiplied by.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum DecayScale {
    LearningRate,
    Relative(f32),
    Corrected(f32),
}

/// How gradients are clipped.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Clip {
    Off,
    Norm(f64),
    GlobalNorm(f64),
    Value(f64),
}

/// How the loss is scaled.
#[derive(Clone, Copy, Debug, PartialEq)]
#[allow(missing_docs)]
pub enum Scale {
    Off,
    Static(f64),
    Dynamic { initial: f64, growth: u64 },
}

/// What a variable is made to fulfil.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Rule {
    /// `max(w, 0)`.
    NonNegative,
    /// `w * (clip(norm, 0, max) / (1e-7 + norm))`, with the norm over all elements.
    MaxNorm(f64),
    /// The caller's own: halves every element.
    Halved,
}

/// The options of the optimizer.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Options {
    /// By call; the last one stays.
    pub learning_rates: Vec<f32>,
    pub beta_1: f32,
    pub beta_2: f32,
    pub weight_decay: Option<f32>,
    /// Decays only where the step does not move an element away from zero.
    pub cautious_decay: bool,
    pub decay_scale: DecayScale,
    pub clip: Clip,
    pub ema_momentum: Option<f32>,
    pub ema_overwrite_frequency: Option<u64>,
    /// Whether the average moves on calls that update only.
    pub ema_every_update: bool,
    pub scale: Scale,
    pub accumulation_steps: Option<u32>,
}

/// A variable, with its own options and its state.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Variable {
    pub values: Vec<f32>,
    /// F32 of a parameter in two halves, too.
    pub storage: Storage,
    /// The seed and the name by which a bf16 parameter is rounded at random.
    pub stochastic: Option<(u64, String)>,
    pub momentum_storage: Storage,
    pub excluded_from_weight_decay: bool,
    pub overwritten: bool,
    pub rule: Option<Rule>,
    pub learning_rate_multiplier: f32,
    pub momentum: Vec<f32>,
    pub average: Vec<f32>,
    pub accumulator: Vec<f32>,
}

/// What a call did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[allow(missing_docs)]
pub enum Did {
    Nothing,
    Refused,
    Skipped,
    Overwritten,
    Accumulated,
    Updated,
}

/// The optimizer and its variables.
#[derive(Clone, Debug)]
#[allow(missing_docs)]
pub struct Model {
    pub options: Options,
    pub variables: Vec<Variable>,
    pub iteration: u64,
    /// Of dynamic loss scaling.
    pub dynamic_scale: f32,
    pub counter: u64,
}

impl Model {
    /// Before the first call.
    pub fn new(options: Options, variables: Vec<Variable>) -> Self {
        let dynamic_scale = match options.scale {
            Scale::Dynamic { initial, .. } => initial as f32,
            _ => 0.0,
        };
        Model { options, variables, iteration: 0, dynamic_scale, counter: 0 }
    }

    /// One call: a gradient, or none, for each variable.
    pub fn apply(&mut self, gradients: &[Option<Vec<f32>>]) -> Did {
        if gradients.is_empty() {
            return Did::Nothing;
        }
        if gradients.iter().all(Option::is_none) {
            return Did::Refused;
        }
        let Scale::Dynamic { growth, .. } = self.options.scale else {
            let factor = match self.options.scale {
                Scale::Static(factor) => Some(factor as f32),
                _ => None,
            };
            return self.apply_scaled(gradients, factor);
        };
        if gradients.iter().flatten().flatten().any(|g| !g.is_finite()) {
            self.counter = 0;
            self.dynamic_scale = self.dynamic_scale / 2.0;
            return Did::Skipped;
        }
        let did = self.apply_scaled(gradients, Some(self.dynamic_scale));
        if growth > 0 && self.counter == growth - 1 {
            self.counter = 0;
            self.dynamic_scale = self.dynamic_scale * 2.0;
        } else {
            self.counter += 1;
        }
        did
    }

    /// The optimizer within the loss scale.
    fn apply_scaled(&mut self, gradients: &[Option<Vec<f32>>], factor: Option<f32>) -> Did {
        let n = self.iteration;
        let k = u64::from(self.options.accumulation_steps.unwrap_or(1));
        let updates = (n + 1) % k == 0;
        let mut trained: Vec<Option<Vec<f32>>> = Vec::new();
        for (variable, gradient) in self.variables.iter_mut().zip(gradients) {
            trained.push(match gradient {
                Some(gradient) if variable.overwritten => {
                    overwrite(variable, gradient, self.options.accumulation_steps.is_some(), updates);
                    None
                }
                other => other.clone(),
            });
        }
        let did = if trained.iter().all(Option::is_none) {
            Did::Overwritten
        } else {
            self.train(trained, factor, n, k, updates)
        };
        self.iteration += 1;
        did
    }

    fn train(
        &mut self,
        mut gradients: Vec<Option<Vec<f32>>>,
        factor: Option<f32>,
        n: u64,
        k: u64,
        updates: bool,
    ) -> Did {
        if let Some(factor) = factor {
            for g in gradients.iter_mut().flatten().flatten() {
                *g = *g / factor;
            }
        }
        if let Some(steps) = self.options.accumulation_steps {
            for (variable, gradient) in self.variables.iter_mut().zip(&mut gradients) {
                for (acc, g) in variable.accumulator.iter_mut().zip(gradient.iter_mut().flatten()) {
                    if updates {
                        *g = (*g + *acc) / steps as f32;
                    } else {
                        *acc = *g + *acc;
                    }
                }
            }
        }
        if updates {
            self.clip(&mut gradients);
            self.step(&gradients, n);
            if self.options.accumulation_steps.is_some() {
                for variable in &mut self.variables {
                    variable.accumulator.fill(0.0);
                }
            }
        }
        if updates || !self.options.ema_every_update {
            self.average(n / k);
        }
        for (variable, gradient) in self.variables.iter_mut().zip(&gradients) {
            if gradient.is_some() {
                constrain(variable);
            }
        }
        if updates { Did::Updated } else { Did::Accumulated }
    }

    fn clip(&self, gradients: &mut [Option<Vec<f32>>]) {
        match self.options.clip {
            Clip::Off => {}
            Clip::Norm(limit) => {
                let c = limit as f32;
                for gradient in gradients.iter_mut().flatten() {
                    let norm = norm(sum_of_squares(gradient));
                    for g in gradient {
                        *g = (*g * c) / maximum(norm, c);
                    }
                }
            }
            Clip::GlobalNorm(limit) => {
                let sum = gradients.iter().flatten().fold(0.0, |sum, g| sum + sum_of_squares(g));
                let all = norm(sum);
                let factor = limit as f32 * minimum(1.0 / all, (1.0 / limit) as f32) + (all - all);
                for g in gradients.iter_mut().flatten().flatten() {
                    *g = *g * factor;
                }
            }
            Clip::Value(limit) => {
                let v = limit as f32;
                for g in gradients.iter_mut().flatten().flatten() {
                    *g = minimum(maximum(*g, -v), v);
                }
            }
        }
    }

    fn step(&mut self, gradients: &[Option<Vec<f32>>], n: u64) {
        let rates = &self.options.learning_rates;
        let rate = rates[(n as usize).min(rates.len() - 1)];
        let (b1, b2) = (self.options.beta_1, self.options.beta_2);
        for (variable, gradient) in self.variables.iter_mut().zip(gradients) {
            let Some(gradient) = gradient else { continue };
            // A negative zero is zero.
            let lr = rate * variable.learning_rate_multiplier + 0.0;
            let scale = match self.options.decay_scale {
                DecayScale::LearningRate => lr,
                DecayScale::Relative(to) => (f64::from(lr) / f64::from(to)) as f32,
                DecayScale::Corrected(to) => (f64::from(lr) * f64::from(lr) / f64::from(to)) as f32,
            };
            let tensors = variable.values.iter_mut().zip(&mut variable.momentum).zip(gradient);
            for (index, ((value, momentum), &g)) in tensors.enumerate() {
                let (mut p, m) = (*value, *momentum);
                let c = m * b1 + g * (1.0 - b1);
                let decays = !self.options.cautious_decay || sign(c) * p >= 0.0;
                if let (Some(wd), false, true) =
                    (self.options.weight_decay, variable.excluded_from_weight_decay, decays)
                {
                    p = p - (p * wd) * scale;
                }
                p = p - lr * sign(c);
                *value = match &variable.stochastic {
                    None => variable.storage.rounded(p),
                    Some((seed, name)) => reference::stochastic(p, *seed, name, n, index as u64).to_f32(),
                };
                *momentum = variable.momentum_storage.rounded(m * b2 + g * (1.0 - b2));
            }
            if variable.momentum_storage == Storage::Q8 {
                let (codes, scales) = reference::q8_encode(&variable.momentum);
                variable.momentum = reference::q8_decode(&codes, &scales);
            }
        }
    }

    /// In window number `t`.
    fn average(&mut self, t: u64) {
        let Some(ema_momentum) = self.options.ema_momentum else { return };
        let mu = if t == 0 { 0.0 } else { ema_momentum };
        let overwrites = match self.options.ema_overwrite_frequency {
            Some(frequency) => (t + 1) % frequency == 0,
            None => false,
        };
        for variable in self.variables.iter_mut().filter(|variable| !variable.overwritten) {
            for (average, value) in variable.average.iter_mut().zip(&mut variable.values) {
                *average = mu * *average + (1.0 - mu) * *value;
                if overwrites {
                    *value = variable.storage.rounded(*average);
                }
            }
        }
    }
}

fn overwrite(variable: &mut Variable, gradient: &[f32], accumulates: bool, updates: bool) {
    for (i, &g) in gradient.iter().enumerate() {
        if !accumulates {
            variable.values[i] = variable.storage.rounded(g);
            continue;
        }
        let largest = maximum(g, variable.accumulator[i]);
        variable.accumulator[i] = if updates { 0.0 } else { largest };
        if updates {
            variable.values[i] = variable.storage.rounded(largest);
        }
    }
}

fn constrain(variable: &mut Variable) {
    let norm = {
        // The squares are f32, their sum is not.
        let sum = variable.values.iter().fold(0.0_f64, |sum, &w| sum + f64::from(w * w));
        norm(sum)
    };
    for w in &mut variable.values {
        let constrained = match variable.rule {
            None => continue,
            Some(Rule::NonNegative) => maximum(*w, 0.0),
            Some(Rule::MaxNorm(max)) => *w * (minimum(maximum(norm, 0.0), max as f32) / (1e-7 + norm)),
            Some(Rule::Halved) => *w * 0.5,
        };
        *w = variable.storage.rounded(constrained);
    }
}

/// In f64 and in a fixed order: element `i` of a block of 4,096 is added to partial sum `i % 32`, the upper half of the
/// partial sums to the lower one until one is left, and the blocks from the first to the last.
fn sum_of_squares(values: &[f32]) -> f64 {
    let mut all = 0.0;
    for block in values.chunks(4096) {
        let mut partial = vec![0.0_f64; 32];
        for (i, &value) in block.iter().enumerate() {
            partial[i % 32] += f64::from(value) * f64::from(value);
        }
        while partial.len() > 1 {
            let half = partial.len() / 2;
            partial = (0..half).map(|i| partial[i] + partial[i + half]).collect();
        }
        all += partial[0];
    }
    all
}

fn norm(sum_of_squares: f64) -> f32 {
    (sum_of_squares as f32).sqrt()
}

fn sign(x: f32) -> f32 {
    if x.is_nan() {
        f32::NAN
    } else if x == 0.0 {
        0.0
    } else {
        1.0_f32.copysign(x)
    }
}

/// NaN where either is; of two zeros the second.
fn maximum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::NAN
    } else if a > b {
        a
    } else {
        b
    }
}

/// NaN where either is.
fn minimum(a: f32, b: f32) -> f32 {
    if a.is_nan() || b.is_nan() {
        f32::NAN
    } else if a < b {
        a
    } else {
        b
    }
}
