//! Shared code of the benchmarks: tensors in any formats, a step on them, and the bandwidth bound on the same tensors.

use lion_kernels::{AlignedBuffer, Backend, Element, LionStep, StepTensors, Task};

/// A storage format, with an ordinary value that fills the tensors.
pub trait Trial: Element {
    /// A number whose sign and exponent do not change during a benchmark.
    const ORDINARY: Self;
}

impl Trial for f32 {
    const ORDINARY: Self = 1.0;
}

impl Trial for half::f16 {
    const ORDINARY: Self = half::f16::ONE;
}

impl Trial for half::bf16 {
    const ORDINARY: Self = half::bf16::ONE;
}

/// The tensors of a step.
#[derive(Debug)]
pub struct State<P: Trial, G: Trial, M: Trial> {
    step: LionStep,
    parameter: AlignedBuffer<P>,
    gradient: AlignedBuffer<G>,
    momentum: AlignedBuffer<M>,
}

impl<P: Trial, G: Trial, M: Trial> State<P, G, M> {
    /// Returns tensors of `len` elements, and a step with or without weight decay.
    ///
    /// # Panics
    /// Panics if the allocation fails.
    pub fn new(len: usize, decay: bool) -> Self {
        let plain = LionStep::new(1e-4, 0.9, 0.99).expect("valid settings");
        let mut state = State {
            step: if decay { plain.weight_decay(0.1).expect("valid settings") } else { plain },
            parameter: AlignedBuffer::zeroed(len).expect("memory"),
            gradient: AlignedBuffer::zeroed(len).expect("memory"),
            momentum: AlignedBuffer::zeroed(len).expect("memory"),
        };
        state.parameter.fill(P::ORDINARY);
        state.gradient.fill(G::ORDINARY);
        state.momentum.fill(M::ORDINARY);
        state
    }

    /// Returns the bytes that a step moves: it reads all three tensors and writes two.
    pub fn bytes(&self) -> u64 {
        let each = 2 * size_of::<P>() + size_of::<G>() + 2 * size_of::<M>();
        (each * self.parameter.len()) as u64
    }

    /// Runs one step.
    ///
    /// # Panics
    /// Panics if this machine lacks the backend.
    pub fn step(&mut self, backend: Backend) {
        let tensors = StepTensors::in_place(&mut self.parameter, &self.gradient, &mut self.momentum);
        let mut task = Task::step(self.step, tensors).expect("tensors of one length");
        task.run(backend).expect("an available backend");
    }

    /// Runs one pass with the memory traffic of a step and no arithmetic. A second pass undoes it.
    ///
    /// # Panics
    /// Panics if this machine lacks the backend.
    pub fn stream(&mut self, backend: Backend) {
        let task = Task::bandwidth_step(&mut self.parameter, &self.gradient, &mut self.momentum);
        task.expect("tensors of one length").run(backend).expect("an available backend");
    }
}
