//! The bandwidth bound, this project's Lion, and a plain loop: `lion limit|buffers|vecs|loop`.

use std::ops::DerefMut;

use lion::{Dtype, Lion, Update, VariableId};
use lion_kernels::{AlignedBuffer, Backend, Task};
use lion_peers::{BETA_1, BETA_2, Failure, LEARNING_RATE, Peer, serve};
use rayon::prelude::*;

fn main() -> Result<(), Failure> {
    match std::env::args().nth(1).as_deref() {
        Some("limit") => {
            // The calling thread takes part, so that no call waits for another thread to wake up.
            rayon::ThreadPoolBuilder::new().use_current_thread().build_global()?;
            serve::<Limit>()
        }
        Some("buffers") => serve::<Ours<AlignedBuffer<f32>>>(),
        Some("vecs") => serve::<Ours<Vec<f32>>>(),
        Some("loop") => serve::<Plain>(),
        _ => Err("usage: lion limit|buffers|vecs|loop".into()),
    }
}

fn buffer(values: &[f32]) -> Result<AlignedBuffer<f32>, Failure> {
    let mut buffer = AlignedBuffer::zeroed(values.len())?;
    buffer.copy_from_slice(values);
    Ok(buffer)
}

/// The cheapest pass with the memory traffic of a step, on huge pages.
struct Limit {
    backend: Backend,
    parameter: AlignedBuffer<f32>,
    gradient: AlignedBuffer<f32>,
    momentum: AlignedBuffer<f32>,
}

impl Limit {
    /// The elements of one work item.
    const PIECE: usize = 1 << 15;
}

impl Peer for Limit {
    const EXPECTED: fn(f32, f32, f32) -> f32 = lion_peers::stream;

    fn new(parameter: Vec<f32>, gradient: Vec<f32>) -> Result<Self, Failure> {
        Ok(Limit {
            backend: Backend::best(),
            momentum: AlignedBuffer::zeroed(parameter.len())?,
            parameter: buffer(&parameter)?,
            gradient: buffer(&gradient)?,
        })
    }

    fn set_gradient(&mut self, gradient: Vec<f32>) -> Result<(), Failure> {
        self.gradient.copy_from_slice(&gradient);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Failure> {
        let Limit { backend, parameter, gradient, momentum } = self;
        let stream =
            |p: &mut [f32], g: &[f32], m: &mut [f32]| Task::bandwidth_step(p, g, m)?.run(*backend);
        if rayon::current_num_threads() == 1 {
            return Ok(stream(&mut parameter[..], &gradient[..], &mut momentum[..])?);
        }
        let pieces = parameter.par_chunks_mut(Self::PIECE).zip(gradient.par_chunks(Self::PIECE));
        pieces.zip(momentum.par_chunks_mut(Self::PIECE)).try_for_each(|((p, g), m)| stream(p, g, m))?;
        Ok(())
    }

    fn parameter(&self) -> Result<Vec<f32>, Failure> {
        Ok(self.parameter.to_vec())
    }
}

/// The memory that holds the parameter or the gradient.
trait Memory: DerefMut<Target = [f32]> + Sized {
    fn holding(values: Vec<f32>) -> Result<Self, Failure>;
}

impl Memory for AlignedBuffer<f32> {
    fn holding(values: Vec<f32>) -> Result<Self, Failure> {
        buffer(&values)
    }
}

impl Memory for Vec<f32> {
    fn holding(values: Vec<f32>) -> Result<Self, Failure> {
        Ok(values)
    }
}

struct Ours<T> {
    optimizer: Lion,
    variable: VariableId,
    parameter: T,
    gradient: T,
}

impl<T: Memory> Peer for Ours<T> {
    const EXPECTED: fn(f32, f32, f32) -> f32 = lion_peers::lion;

    fn new(parameter: Vec<f32>, gradient: Vec<f32>) -> Result<Self, Failure> {
        let builder = Lion::builder().learning_rate(LEARNING_RATE as f32);
        let mut optimizer = builder.beta_1(BETA_1 as f32).beta_2(BETA_2 as f32).build()?;
        let variable = optimizer.register("parameter", &[parameter.len()], Dtype::F32)?;
        Ok(Ours { optimizer, variable, parameter: T::holding(parameter)?, gradient: T::holding(gradient)? })
    }

    fn set_gradient(&mut self, gradient: Vec<f32>) -> Result<(), Failure> {
        self.gradient.copy_from_slice(&gradient);
        Ok(())
    }

    fn step(&mut self) -> Result<(), Failure> {
        let update = Update::new(self.variable, &mut self.parameter[..], &self.gradient[..]);
        self.optimizer.apply(&mut [update])?;
        Ok(())
    }

    fn parameter(&self) -> Result<Vec<f32>, Failure> {
        Ok(self.parameter.to_vec())
    }
}

/// The obvious loop, which the compiler vectorises.
struct Plain {
    parameter: Vec<f32>,
    gradient: Vec<f32>,
    momentum: Vec<f32>,
}

impl Peer for Plain {
    const EXPECTED: fn(f32, f32, f32) -> f32 = lion_peers::lion;

    fn new(parameter: Vec<f32>, gradient: Vec<f32>) -> Result<Self, Failure> {
        Ok(Plain { momentum: vec![0.0; parameter.len()], parameter, gradient })
    }

    fn set_gradient(&mut self, gradient: Vec<f32>) -> Result<(), Failure> {
        self.gradient = gradient;
        Ok(())
    }

    fn step(&mut self) -> Result<(), Failure> {
        let (rate, beta_1, beta_2) = (LEARNING_RATE as f32, BETA_1 as f32, BETA_2 as f32);
        let tensors = self.parameter.iter_mut().zip(&self.gradient).zip(&mut self.momentum);
        for ((p, g), m) in tensors {
            let c = beta_1 * *m + (1.0 - beta_1) * g;
            let sign = if c == 0.0 { 0.0 } else { c.signum() };
            *p -= rate * sign;
            *m = beta_2 * *m + (1.0 - beta_2) * g;
        }
        Ok(())
    }

    fn parameter(&self) -> Result<Vec<f32>, Failure> {
        Ok(self.parameter.clone())
    }
}
