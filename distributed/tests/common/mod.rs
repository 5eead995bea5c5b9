//! A training on ranks that are threads, and the same on one process.
#![allow(dead_code)]

pub(crate) mod model;
pub(crate) mod rank;

use std::ops::Range;

use lion::{Lion, TensorBuf, TensorRef};
use lion_distributed::{Error, Settings, Sharded, ThreadCommunicator, Update, Variable};
use lion_kernels::{Backend, Dtype, reference};
use lion_tests::scenario::Scenario;
use lion_tests::{Rng, bits, fill, tensor_bits, widened, with_sample};

/// What each rank of a group of threads gives.
pub(crate) fn on_ranks<T: Send>(ranks: usize, run: impl Fn(ThreadCommunicator) -> T + Sync) -> Vec<T> {
    std::thread::scope(|scope| {
        let run = &run;
        let threads: Vec<_> = ThreadCommunicator::group(ranks)
            .into_iter()
            .map(|communicator| scope.spawn(move || run(communicator)))
            .collect();
        threads.into_iter().map(|thread| thread.join().expect("no panic on a rank")).collect()
    })
}

/// A training whose gradients come from several leaves.
pub(crate) struct Training {
    pub(crate) scenario: Scenario,
    pub(crate) leaves: usize,
    /// By call, variable and leaf.
    pub(crate) gradients: Vec<Vec<Option<Vec<TensorBuf>>>>,
}

impl Training {
    /// Each gradient of the scenario is that of the first leaf; the other leaves have others of the same kind.
    pub(crate) fn new(scenario: Scenario, leaves: usize, rng: &mut Rng) -> Self {
        let of_leaf = |rng: &mut Rng, gradient: &TensorBuf, leaf: usize| {
            let mut made = gradient.clone();
            if leaf > 0 {
                fill(rng, &mut made.to_mut(), false);
            }
            made
        };
        let gradients = scenario.gradients.iter().map(|call| {
            let variables = call.iter().map(|gradient| {
                let gradient = gradient.as_ref()?;
                Some((0..leaves).map(|leaf| of_leaf(rng, gradient, leaf)).collect())
            });
            variables.collect()
        });
        let gradients = gradients.collect();
        Training { scenario, leaves, gradients }
    }

    pub(crate) fn lengths(&self) -> Vec<usize> {
        self.scenario.variables.iter().map(|variable| variable.values.len()).collect()
    }

    /// The parameters at the start.
    pub(crate) fn parameters(&self) -> Vec<TensorBuf> {
        self.scenario.variables.iter().map(|variable| variable.values.clone()).collect()
    }

    /// The means of a call by the reference, as f32.
    fn means(&self, call: usize) -> Vec<Option<TensorBuf>> {
        let mean = |leaves: &Vec<TensorBuf>| {
            let mut mean = TensorBuf::zeroed(Dtype::F32, leaves[0].len()).expect("memory");
            with_sample!(leaves[0].dtype(), T => {
                let slices: Vec<&[T]> = leaves.iter().map(|leaf| leaf.to_ref().as_slice::<T>().expect("dtype")).collect();
                reference::sum(&slices, true, mean.to_mut().into_slice::<f32>().expect("f32"));
            });
            mean
        };
        self.gradients[call].iter().map(|leaves| leaves.as_ref().map(mean)).collect()
    }

    /// One process's run: what it has after each call.
    pub(crate) fn alone(&self, backend: Backend) -> Vec<Snapshot> {
        let mut snapshots = Vec::new();
        self.run_alone(backend, self.gradients.len(), |optimizer, parameters, metrics| {
            snapshots.push(Snapshot::new(optimizer, parameters, metrics));
        });
        snapshots
    }

    /// One process's first calls: the optimizer and the parameters that they end with.
    pub(crate) fn run_alone(
        &self,
        backend: Backend,
        calls: usize,
        mut after: impl FnMut(&Lion, &[TensorBuf], String),
    ) -> (Lion, Vec<TensorBuf>) {
        let scenario = &self.scenario;
        let mut optimizer =
            scenario.optimizer(scenario.config().expect("a config"), backend).expect("an optimizer");
        let ids = scenario.register(&mut optimizer).expect("registered");
        let mut parameters = self.parameters();
        for call in 0..calls {
            let means = self.means(call);
            let mut updates = Vec::new();
            for ((id, parameter), mean) in ids.iter().zip(&mut parameters).zip(&means) {
                updates.push(match mean {
                    Some(mean) => lion::Update::new(*id, parameter.to_mut(), mean.to_ref()),
                    None => lion::Update::without_gradient(*id, parameter.to_mut()),
                });
            }
            let metrics = optimizer.apply(&mut updates).expect("applied");
            after(&optimizer, &parameters, metrics_text(metrics));
        }
        (optimizer, parameters)
    }

    /// The optimizer of a rank, before the first call.
    pub(crate) fn sharded(
        &self,
        communicator: ThreadCommunicator,
        backend: Backend,
        settings: Settings,
    ) -> Result<Sharded<ThreadCommunicator>, Error> {
        let scenario = &self.scenario;
        let mut optimizer =
            scenario.optimizer(scenario.config().expect("a config"), backend).expect("an optimizer");
        let variables: Vec<_> = scenario
            .variables
            .iter()
            .map(|it| {
                let options = it.options(&mut optimizer).expect("options");
                Variable::new(&it.name, &it.shape, it.values.dtype()).options(options)
            })
            .collect();
        Sharded::new(communicator, optimizer, &variables, settings)
    }

    /// One call of a rank.
    pub(crate) fn call(
        &self,
        sharded: &mut Sharded<ThreadCommunicator>,
        call: usize,
        parameters: &mut [TensorBuf],
    ) -> Result<lion::Metrics, Error> {
        use lion_distributed::Communicator;
        let each = self.leaves / sharded.communicator().size();
        let own = sharded.communicator().rank() * each..(sharded.communicator().rank() + 1) * each;
        let gradients = self.gradients[call].iter();
        let leaves: Vec<Option<Vec<TensorRef<'_>>>> = gradients
            .map(|leaves| Some(leaves.as_ref()?[own.clone()].iter().map(TensorBuf::to_ref).collect()))
            .collect();
        let ids = sharded.ids().to_vec();
        let mut updates = Vec::new();
        for ((id, parameter), leaves) in ids.into_iter().zip(parameters).zip(&leaves) {
            match leaves {
                Some(leaves) => updates.push(Update::new(id, parameter.to_mut(), leaves)),
                None => updates.push(Update::without_gradient(id, parameter.to_mut())),
            }
        }
        sharded.apply(&mut updates)
    }

    /// All variables without gradients, for a call that saves or restores.
    pub(crate) fn without_gradients<'a>(
        sharded: &Sharded<ThreadCommunicator>,
        parameters: &'a mut [TensorBuf],
    ) -> Vec<Update<'a>> {
        let ids = sharded.ids().iter().zip(parameters);
        ids.map(|(&id, parameter)| Update::without_gradient(id, parameter.to_mut())).collect()
    }

    /// One call of a rank to which the means are given, but for the first variable with a gradient.
    pub(crate) fn averaged_call(
        &self,
        sharded: &mut Sharded<ThreadCommunicator>,
        call: usize,
        parameters: &mut [TensorBuf],
    ) -> lion::Metrics {
        use lion_distributed::Communicator;
        let each = self.leaves / sharded.communicator().size();
        let own = sharded.communicator().rank() * each..(sharded.communicator().rank() + 1) * each;
        let (means, ids) = (self.means(call), sharded.ids().to_vec());
        let first = means.iter().position(Option::is_some).expect("a gradient");
        let leaves = self.gradients[call][first].as_ref().expect("as its mean");
        let leaves: Vec<_> = leaves[own].iter().map(TensorBuf::to_ref).collect();
        let mut updates = Vec::new();
        for (index, (parameter, mean)) in parameters.iter_mut().zip(&means).enumerate() {
            let (id, parameter) = (ids[index], parameter.to_mut());
            updates.push(match mean {
                Some(_) if index == first => Update::new(id, parameter, &leaves),
                Some(mean) => Update::averaged(id, parameter, mean.to_ref()),
                None => Update::without_gradient(id, parameter),
            });
        }
        sharded.apply(&mut updates).expect("applied")
    }

    /// Fails unless a run on this many ranks has after each call what one process has.
    pub(crate) fn agrees(&self, ranks: usize, backend: Backend, settings: Settings, expected: &[Snapshot]) {
        on_ranks(ranks, |communicator| {
            let mut sharded = self.sharded(communicator, backend, settings).expect("an optimizer");
            let mut parameters = self.parameters();
            for (call, expected) in expected.iter().enumerate() {
                let metrics = self.call(&mut sharded, call, &mut parameters).expect("applied");
                let found = Snapshot::new(sharded.optimizer(), &parameters, metrics_text(metrics));
                found.must_be_part_of(expected, || {
                    let options = &self.scenario.options;
                    format!("call {call} on {ranks} ranks, {} leaves, {backend}, {options:?}", self.leaves)
                });
            }
        });
    }
}

/// The metrics of a call, but for the share of stalled elements: a rank samples those that it owns.
pub(crate) fn metrics_text(mut metrics: lion::Metrics) -> String {
    metrics.stalled_fraction = None;
    format!("{metrics:?}")
}

/// All that an optimizer has after a call, as bits.
#[derive(Debug, PartialEq)]
pub(crate) struct Snapshot {
    pub(crate) metrics: String,
    pub(crate) counters: String,
    pub(crate) parameters: Vec<Vec<u32>>,
    /// By variable, the elements that are held.
    pub(crate) held: Vec<Range<usize>>,
    /// By variable: momentum, low halves, average, accumulator.
    pub(crate) state: Vec<[Option<Vec<u32>>; 4]>,
}

impl Snapshot {
    pub(crate) fn new(optimizer: &Lion, parameters: &[TensorBuf], metrics: String) -> Self {
        // By value, since an 8-bit momentum of a part has not the streams of the whole's part in one row.
        let values = |tensor: TensorRef<'_>| bits(&widened(tensor));
        let state = optimizer.variables().map(|it| {
            let (ema, accumulator) = (it.ema.map(TensorRef::from), it.accumulator.map(TensorRef::from));
            [it.momentum, it.low.map(TensorRef::from), ema, accumulator].map(|it| it.map(values))
        });
        Snapshot {
            metrics,
            counters: format!("{} {:?}", optimizer.iterations(), optimizer.dynamic_loss_scale()),
            parameters: parameters.iter().map(|it| tensor_bits(it.to_ref())).collect(),
            held: optimizer.variables().map(|it| it.held.clone()).collect(),
            state: state.collect(),
        }
    }

    /// Fails unless this is what a rank has of another run's whole state.
    pub(crate) fn must_be_part_of(&self, whole: &Snapshot, place: impl Fn() -> String) {
        assert_eq!(self.metrics, whole.metrics, "{}", place());
        assert_eq!(self.counters, whole.counters, "{}", place());
        assert!(self.parameters == whole.parameters, "parameters differ: {}", place());
        for (variable, (held, state)) in self.held.iter().zip(&self.state).enumerate() {
            for (index, found) in state.iter().enumerate() {
                let expected = whole.state[variable][index].as_ref().map(|it| &it[held.clone()]);
                assert!(
                    found.as_deref() == expected,
                    "state {index} of variable {variable} differs: {}",
                    place()
                );
            }
        }
    }
}
