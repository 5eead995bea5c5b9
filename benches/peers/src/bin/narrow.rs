//! This project's Lion in narrow formats, for narrow.py: `narrow PARAMETER/GRADIENT/MOMENTUM [stochastic|split]`.
//!
//! Answers `prepare N`, `time N` and `release` as the other peers do, but `prepare` does not check the steps.
//! `trace N STEPS PATH` runs STEPS steps on N elements and writes the parameter after each step, in f32.
//! `python/narrow.py` uses the same parameters and gradients.

use std::io::{BufRead, Write};
use std::time::Instant;

use lion::{Dtype, Lion, TensorBuf, Update, VariableId};
use lion_kernels::{Backend, Task};
use lion_peers::{BETA_1, BETA_2, Failure, LEARNING_RATE};

fn main() -> Result<(), Failure> {
    let words: Vec<String> = std::env::args().skip(1).collect();
    let mut ready = None;
    for line in std::io::stdin().lock().lines() {
        let answer = answer(&words, &mut ready, &line?).unwrap_or_else(|failure| format!("error {failure}"));
        let mut output = std::io::stdout().lock();
        writeln!(output, "{}", answer.replace('\n', " "))?;
        output.flush()?;
    }
    Ok(())
}

fn answer(kind: &[String], ready: &mut Option<Ours>, line: &str) -> Result<String, Failure> {
    let words: Vec<&str> = line.split(' ').collect();
    match (&words[..], ready.as_mut()) {
        (["prepare", number], _) => {
            *ready = None;
            *ready = Some(Ours::new(kind, number.parse()?)?);
            Ok("ok".into())
        }
        (["time", number], Some(peer)) => {
            let steps: usize = number.parse()?;
            (0..steps.div_ceil(10)).try_for_each(|_| peer.step())?;
            let start = Instant::now();
            (0..steps).try_for_each(|_| peer.step())?;
            Ok(start.elapsed().as_secs_f64().to_string())
        }
        (["trace", number, steps, path], _) => {
            let mut peer = Ours::new(kind, number.parse()?)?;
            let mut file = std::io::BufWriter::new(std::fs::File::create(path)?);
            for step in 0..steps.parse()? {
                peer.set_gradient(step)?;
                peer.step()?;
                for value in peer.values()? {
                    file.write_all(&value.to_le_bytes())?;
                }
            }
            file.flush()?;
            Ok("ok".into())
        }
        (["release"], _) => {
            *ready = None;
            Ok("ok".into())
        }
        _ => Err(format!("no answer to {line:?}").into()),
    }
}

struct Ours {
    optimizer: Lion,
    variable: VariableId,
    parameter: TensorBuf,
    gradient: TensorBuf,
}

impl Ours {
    fn new(kind: &[String], len: usize) -> Result<Self, Failure> {
        let usage = "usage: narrow PARAMETER/GRADIENT/MOMENTUM [stochastic|split]";
        let formats: Vec<Dtype> =
            kind.first().ok_or(usage)?.split('/').map(str::parse).collect::<Result<_, _>>()?;
        let [parameter, gradient, momentum] = formats[..] else { return Err(usage.into()) };
        let builder = Lion::builder().learning_rate(LEARNING_RATE).beta_1(BETA_1).beta_2(BETA_2);
        let builder = match kind.get(1).map(String::as_str) {
            None => builder,
            Some("stochastic") => builder.stochastic_rounding(17),
            Some("split") => builder.split_master(true),
            Some(_) => return Err(usage.into()),
        };
        let mut optimizer = builder.momentum_dtype(momentum).build()?;
        let variable = optimizer.register("parameter", &[len], parameter)?;
        let zeros = |dtype| TensorBuf::zeroed(dtype, len);
        let mut ours = Ours { optimizer, variable, parameter: zeros(parameter)?, gradient: zeros(gradient)? };
        let start: Vec<f32> = (0..len).map(parameter_of).collect();
        ours.optimizer.parameter_from_f32(variable, &start, ours.parameter.to_mut())?;
        ours.set_gradient(0)?;
        Ok(ours)
    }

    fn set_gradient(&mut self, step: u32) -> Result<(), Failure> {
        let values: Vec<f32> = (0..self.gradient.to_ref().len()).map(|index| gradient(step, index)).collect();
        Ok(Task::convert(&values, self.gradient.to_mut())?.run(Backend::best())?)
    }

    fn step(&mut self) -> Result<(), Failure> {
        let update = Update::new(self.variable, self.parameter.to_mut(), self.gradient.to_ref());
        self.optimizer.apply(&mut [update])?;
        Ok(())
    }

    /// Returns the parameter, including its low halves if it has any.
    fn values(&self) -> Result<Vec<f32>, Failure> {
        let mut values = vec![0.0; self.parameter.to_ref().len()];
        self.optimizer.parameter_to_f32(self.variable, self.parameter.to_ref(), &mut values)?;
        Ok(values)
    }
}

/// Returns a parameter element from 1/16 to 1.75, exact in bf16.
fn parameter_of(index: usize) -> f32 {
    (1.0 + (index % 7) as f32 / 8.0) / (1 << (index % 5)) as f32
}

/// Returns a gradient element, exact in bf16: noise around a mean per element, at most 0.6 of the noise's amplitude.
fn gradient(step: u32, index: usize) -> f32 {
    let mut x = (index as u32).wrapping_mul(0x9e37_79b9).wrapping_add(step.wrapping_mul(0x85eb_ca6b));
    x = (x ^ (x >> 16)).wrapping_mul(0x7feb_352d);
    x = (x ^ (x >> 15)).wrapping_mul(0x846c_a68b);
    let noise = ((x ^ (x >> 16)) >> 24) as i32 - 128;
    let mean = 12 * ((index % 13) as i32 - 6);
    (noise + mean) as f32 / 1024.0
}
