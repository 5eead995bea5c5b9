//! What the benchmarks share: tensors of any formats, a step on them, and the streaming limit on the same ones.

use lion_kernels::{Backend, Buffer, Element, Step, Tensors, stream};

/// A format with an ordinary value to fill tensors with.
pub trait Trial: Element {
    /// A number whose step changes neither its exponent nor its sign for as long as a benchmark runs.
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
    step: Step,
    parameter: Buffer<P>,
    gradient: Buffer<G>,
    momentum: Buffer<M>,
}

impl<P: Trial, G: Trial, M: Trial> State<P, G, M> {
    /// Tensors of `len` elements, and a step with or without weight decay.
    ///
    /// # Panics
    /// Where there is no memory.
    pub fn new(len: usize, decay: bool) -> Self {
        let plain = Step::new(1e-4, 0.9, 0.99).expect("valid settings");
        let mut state = State {
            step: if decay { plain.weight_decay(0.1).expect("valid settings") } else { plain },
            parameter: Buffer::zeroed(len).expect("memory"),
            gradient: Buffer::zeroed(len).expect("memory"),
            momentum: Buffer::zeroed(len).expect("memory"),
        };
        state.parameter.fill(P::ORDINARY);
        state.gradient.fill(G::ORDINARY);
        state.momentum.fill(M::ORDINARY);
        state
    }

    /// The bytes that a step moves: it reads all three tensors and writes two.
    pub fn bytes(&self) -> u64 {
        let each = 2 * size_of::<P>() + size_of::<G>() + 2 * size_of::<M>();
        (each * self.parameter.len()) as u64
    }

    /// One step.
    ///
    /// # Panics
    /// Where this machine lacks the backend.
    pub fn step(&mut self, backend: Backend) {
        let tensors = Tensors::in_place(
            P::slice_mut(&mut self.parameter),
            G::slice(&self.gradient),
            M::slice_mut(&mut self.momentum),
        );
        self.step.apply(backend, tensors).expect("an available backend");
    }

    /// One pass with the same traffic and nothing else; a second undoes it.
    ///
    /// # Panics
    /// Where this machine lacks the backend.
    pub fn stream(&mut self, backend: Backend) {
        stream(
            backend,
            P::slice_mut(&mut self.parameter),
            G::slice(&self.gradient),
            M::slice_mut(&mut self.momentum),
        )
        .expect("an available backend");
    }
}
