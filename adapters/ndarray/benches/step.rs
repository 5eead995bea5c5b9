//! Benchmark of the step on arrays against the slice API: `cargo bench -p lion-ndarray --bench step [-- SECONDS
//! [MOST-ELEMENTS]]`.

use lion_ndarray::{Lion, Update, VariableId};
use lion_testing::speed::{LEARNING_RATE, Size, Step, ordinary, table};
use ndarray::Array1;

struct Arrays {
    optimizer: Lion,
    variables: Vec<(VariableId, Array1<f32>, Array1<f32>)>,
}

impl Arrays {
    fn new(size: Size) -> Self {
        let mut optimizer = Lion::new(Lion::builder().learning_rate(LEARNING_RATE)).expect("valid options");
        let variable = |index: usize| {
            let (parameter, gradient) = ordinary(size.elements);
            let (parameter, gradient) = (Array1::from(parameter), Array1::from(gradient));
            let id = optimizer.register(&index.to_string(), &parameter).expect("memory");
            (id, parameter, gradient)
        };
        let variables = (0..size.tensors).map(variable).collect();
        Arrays { optimizer, variables }
    }
}

impl Step for Arrays {
    fn adapter(&mut self) {
        let updates = self.variables.iter_mut();
        let mut updates: Vec<_> =
            updates.map(|(id, parameter, gradient)| Update::new(*id, parameter, gradient)).collect();
        self.optimizer.apply(&mut updates).expect("valid arrays");
    }

    fn stock(&mut self) -> bool {
        false
    }
}

fn main() {
    table("ndarray", Arrays::new);
}
