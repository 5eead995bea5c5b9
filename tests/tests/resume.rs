//! Random replays of a recorded run. A replay that stops after any step, writes a checkpoint and resumes gives the bits
//! of a replay without a stop. So does a replay whose tensors are split into smaller ones.

use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};

use lion::checkpoint::{Checkpoint, SavedVariable, Tensor};
use lion::replay::{self, Recording};
use lion::schedule::{
    CosineDecay, CosineDecayRestarts, ExponentialDecay, InverseSquareRoot, InverseTimeDecay, OneCycle,
    PolynomialDecay,
};
use lion::{Config, Hyperparameter, Lion, TensorBuf, VariableId};
use lion_kernels::Backend;
use lion_tests::model::{Clip, Rule};
use lion_tests::safetensors::tensors;
use lion_tests::scenario::Scenario;
use lion_tests::widened;
use lion_tests::{bits, checkpoint_text};
use proptest::prelude::*;
use tempfile::tempdir;

/// Writes the calls in `range` as a run of their own.
fn record(scenario: &Scenario, range: Range<usize>, path: &Path) {
    let mut all = Vec::new();
    for (index, variable) in scenario.variables.iter().enumerate() {
        let (name, shape) = (&variable.name, variable.shape.as_slice());
        all.push((format!("param/{name}"), shape, variable.values.to_ref()));
        for (step, call) in range.clone().enumerate() {
            if let Some(gradient) = &scenario.gradients[call][index] {
                all.push((format!("grad/{step}/{name}"), shape, gradient.to_ref()));
            }
        }
    }
    fs::write(path, tensors(&all)).expect("written");
}

/// An optimizer with its parameters, at the beginning or between two calls.
struct Training {
    optimizer: Lion,
    ids: Vec<VariableId>,
    parameters: Vec<TensorBuf>,
}

impl Training {
    fn new(scenario: &Scenario, config: Config) -> Self {
        let mut optimizer = scenario.optimizer(config, Backend::best()).expect("valid");
        let ids = scenario.register(&mut optimizer).expect("registered");
        let parameters = scenario.variables.iter().map(|variable| variable.values.clone()).collect();
        Training { optimizer, ids, parameters }
    }

    fn replay(&mut self, path: &Path) {
        let recording = Recording::open(path).expect("valid");
        let Training { optimizer, ids, parameters } = self;
        replay::run(&recording, optimizer, ids, parameters, |_| {}).expect("replayed");
    }

    fn checkpoint(&self) -> Checkpoint<'_> {
        let mut checkpoint = self.optimizer.checkpoint().expect("no open step");
        for (variable, parameter) in checkpoint.variables.iter_mut().zip(&self.parameters) {
            variable.parameter = Some(Tensor::from(parameter.to_ref()));
        }
        checkpoint
    }

    /// Goes through a file into an optimizer that is built of nothing but what the file says.
    fn stopped_and_resumed(&self, scenario: &Scenario, path: &Path) -> Self {
        self.checkpoint().write(path).expect("written");
        let checkpoint = Checkpoint::read(path).expect("read");
        let config = checkpoint.config().expect("valid").expect("it has one");
        let mut resumed = Training::new(scenario, config);
        resumed.optimizer.restore(&checkpoint).expect("restored");
        for (parameter, saved) in resumed.parameters.iter_mut().zip(checkpoint.variables) {
            let Some(Tensor::Owned(values)) = saved.parameter else { panic!("no parameter") };
            *parameter = values;
        }
        resumed
    }

    /// All of it as text, which tells every number from every other, and only NaN from no NaN.
    fn text(&self) -> String {
        checkpoint_text(&self.checkpoint())
    }
}

/// A learning rate that follows the calls in a way of its own.
fn schedule(which: u8) -> Option<Hyperparameter> {
    let schedule = match which {
        0 => CosineDecay::new(0.1, 5.0).map(Into::into),
        1 => CosineDecayRestarts::new(0.1, 2.0).map(Into::into),
        2 => ExponentialDecay::new(0.1, 3.0, 0.5).map(Into::into),
        3 => InverseTimeDecay::new(0.1, 2.0, 0.7).map(Into::into),
        4 => PolynomialDecay::new(0.1, 4.0).map(Into::into),
        5 => OneCycle::new(0.1, 6.0).map(Into::into),
        6 => InverseSquareRoot::new(0.1, 2.0).map(Into::into),
        // The scenario's own: a constant, or one constant after another.
        _ => return None,
    };
    Some(schedule.expect("valid"))
}

fn config(scenario: &Scenario, which: u8) -> Config {
    let mut config = scenario.config().expect("valid");
    if let Some(schedule) = schedule(which) {
        config.learning_rate = schedule;
    }
    config
}

/// A part of a tensor.
fn part(values: &TensorBuf, range: Range<usize>) -> TensorBuf {
    let mut made = TensorBuf::zeroed(values.dtype(), range.len()).expect("memory");
    assert!(made.to_mut().copy_from(values.to_ref().range(range).expect("within")), "one format");
    made
}

/// The scenario without what looks at a tensor as a whole, and the same with its tensors cut at these places, where a
/// place of 255 is the end of the tensor.
fn cut(mut scenario: Scenario, places: [u8; 3]) -> (Scenario, Scenario) {
    if matches!(scenario.options.clip, Clip::Norm(_) | Clip::GlobalNorm(_)) {
        scenario.options.clip = Clip::Off;
    }
    // Blocks and random numbers are of a variable, by its name.
    scenario.stochastic_rounding = None;
    if scenario.unit() > 1 {
        scenario.momentum_dtype = None;
    }
    for variable in &mut scenario.variables {
        variable.rule = variable.rule.filter(|rule| !matches!(rule, Rule::MaxNorm(_)));
    }
    let ranges = |len: usize| {
        let mut ends = places.map(|place| len * usize::from(place) / 255).to_vec();
        ends.push(len);
        ends.sort_unstable();
        let begins = [0].into_iter().chain(ends.clone());
        begins.zip(ends).map(|(begin, end)| begin..end).collect::<Vec<_>>()
    };
    let mut pieces = scenario.clone();
    pieces.variables.clear();
    for variable in &scenario.variables {
        for (number, range) in ranges(variable.values.len()).into_iter().enumerate() {
            let mut piece = variable.clone();
            piece.name = format!("{}/{number}", variable.name);
            piece.shape = vec![range.len()];
            piece.values = part(&variable.values, range);
            pieces.variables.push(piece);
        }
    }
    for gradients in &mut pieces.gradients {
        let whole = std::mem::take(gradients);
        for (gradient, variable) in whole.iter().zip(&scenario.variables) {
            for range in ranges(variable.values.len()) {
                gradients.push(gradient.as_ref().map(|gradient| part(gradient, range)));
            }
        }
    }
    (scenario, pieces)
}

/// The bits of every tensor, one after the other: those of a section after those of another.
fn sections(training: &Training) -> [Vec<u32>; 5] {
    let checkpoint = training.checkpoint();
    let mut all: [Vec<u32>; 5] = Default::default();
    for variable in &checkpoint.variables {
        let SavedVariable { parameter, momentum, low, ema, accumulator, .. } = variable;
        let tensors = [parameter, momentum, low, ema, accumulator];
        for (bits_of, tensor) in all.iter_mut().zip(tensors) {
            bits_of.extend(tensor.iter().flat_map(|tensor| bits(&widened(tensor.to_ref()))));
        }
    }
    all
}

fn run_of(folder: &Path) -> PathBuf {
    folder.join("run.safetensors")
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(150) })]

    #[test]
    fn stopped_and_resumed_at_any_call(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        stops in any::<u8>(),
        which in 0_u8..10,
    ) {
        let Some(scenario) = Scenario::from_bytes(&bytes) else { return Ok(()) };
        let folder = tempdir().expect("a folder");
        let (run, state) = (run_of(folder.path()), folder.path().join("state.safetensors"));
        let calls = scenario.gradients.len();
        let mut whole = Training::new(&scenario, config(&scenario, which));
        record(&scenario, 0..calls, &run);
        whole.replay(&run);

        let mut parts = Training::new(&scenario, config(&scenario, which));
        let mut begin = 0;
        for end in (0..calls).filter(|call| stops >> call & 1 == 1).chain([calls]) {
            record(&scenario, begin..end, &run);
            parts.replay(&run);
            parts = parts.stopped_and_resumed(&scenario, &state);
            begin = end;
        }
        prop_assert!(parts.text() == whole.text(), "{scenario:?}");
    }

    #[test]
    fn cut_into_smaller_tensors(
        bytes in prop::collection::vec(any::<u8>(), 0..300),
        places in any::<[u8; 3]>(),
        which in 0_u8..10,
    ) {
        let Some(scenario) = Scenario::from_bytes(&bytes) else { return Ok(()) };
        let folder = tempdir().expect("a folder");
        let run = run_of(folder.path());
        let (whole, pieces) = cut(scenario, places);
        let [whole, pieces] = [whole, pieces].map(|scenario| {
            let mut training = Training::new(&scenario, config(&scenario, which));
            record(&scenario, 0..scenario.gradients.len(), &run);
            training.replay(&run);
            training
        });
        prop_assert_eq!(sections(&whole), sections(&pieces));
        prop_assert_eq!(whole.optimizer.iterations(), pieces.optimizer.iterations());
        prop_assert_eq!(whole.optimizer.dynamic_loss_scale(), pieces.optimizer.dynamic_loss_scale());
    }
}
