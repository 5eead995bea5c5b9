//! Steps on the host's threads: the same bits as on one thread, however the host schedules its workers.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use lion::{BeginOptions, Dtype, Gradient, Lion, Plan, TensorBuf, TensorRef, Update, VariableId};
use lion_kernels::{Backend, STATISTICS_BLOCK};
use lion_tests::scenario::Scenario;
use lion_tests::{Rng, checkpoint_text, on_each_backend, ordinary, tensor_bits};

on_each_backend!(any_training_on_any_host);

type Host = fn(usize, &(dyn Fn(usize) + Sync));

const HOSTS: [(&str, Host); 4] = [
    ("a new thread for each worker", |workers, work| {
        std::thread::scope(|scope| {
            for worker in 0..workers {
                scope.spawn(move || work(worker));
            }
        });
    }),
    ("the calling thread, backwards", |workers, work| (0..workers).rev().for_each(work)),
    ("every worker twice", |workers, work| (0..2 * workers).for_each(|worker| work(worker / 2))),
    ("no worker at all", |_, _| {}),
];

/// Returns the result of a training: the bits of its parameters and the optimizer's state.
fn trained(scenario: &Scenario, mut optimizer: Lion) -> (Vec<Vec<u32>>, String) {
    let ids = scenario.register(&mut optimizer).expect("variables that can be");
    let mut parameters: Vec<_> = scenario.variables.iter().map(|it| it.values.clone()).collect();
    for call in 0..scenario.gradients.len() {
        optimizer.apply(&mut scenario.updates(call, &ids, &mut parameters)).expect("applied");
    }
    let parameters = parameters.iter().map(|it| tensor_bits(it.to_ref())).collect();
    (parameters, checkpoint_text(&optimizer.checkpoint().expect("no open step")))
}

fn any_training_on_any_host(backend: Backend) {
    let mut rng = Rng::with_seed(0x405);
    let mut trainings = 0;
    while trainings < 100 {
        let bytes: Vec<u8> = std::iter::repeat_with(|| rng.u8(..)).take(400).collect();
        let Some(mut scenario) = Scenario::from_bytes(&bytes) else { continue };
        trainings += 1;
        scenario.threads = 8;
        let optimizer = || {
            let config = scenario.config().expect("a config in its ranges");
            scenario.optimizer(config, backend).expect("a config in its ranges")
        };
        let mut alone = optimizer();
        alone.set_profile(lion::Profile::fixed(Plan::new(backend).threads(1))).expect("available");
        let expected = trained(&scenario, alone);
        for (name, host) in HOSTS {
            let mut hosted = optimizer();
            hosted.set_parallel_for(rng.usize(0..9), host);
            assert!(trained(&scenario, hosted) == expected, "{name} on {backend}: {scenario:?}");
        }
    }
}

/// Returns an optimizer that always uses the three threads of a host, and a counter of the calls of the host.
fn hosted() -> (Lion, VariableId, Arc<AtomicUsize>) {
    let plan = Plan::new(Backend::best()).chunk_elements(STATISTICS_BLOCK).parallel_threshold(0);
    let mut optimizer = Lion::builder().global_clipnorm(1.0).plan(plan).build().expect("valid");
    let id = optimizer.register("weights", &[10 * STATISTICS_BLOCK], Dtype::F32).expect("registered");
    let calls = Arc::new(AtomicUsize::new(0));
    let counter = Arc::clone(&calls);
    optimizer.set_parallel_for(3, move |workers, work| {
        assert_eq!(workers, 3);
        counter.fetch_add(1, Ordering::Relaxed);
        HOSTS[0].1(workers, work);
    });
    (optimizer, id, calls)
}

#[test]
fn every_pass_is_the_hosts_until_it_is_cleared() {
    let (mut optimizer, id, calls) = hosted();
    let mut rng = Rng::with_seed(1);
    let (mut parameter, gradient): (Vec<f32>, Vec<f32>) =
        (ordinary(&mut rng, 10 * STATISTICS_BLOCK), ordinary(&mut rng, 10 * STATISTICS_BLOCK));
    let mut apply = |optimizer: &mut Lion| {
        let mut copy = vec![half::bf16::ZERO; 10 * STATISTICS_BLOCK];
        let update = Update::new(id, &mut parameter, &gradient).copy(&mut copy);
        optimizer.apply(&mut [update]).expect("applied");
        calls.swap(0, Ordering::Relaxed)
    };
    assert_eq!(apply(&mut optimizer), 2, "the norm, and the step");
    let mut clone = optimizer.clone();
    assert_eq!(apply(&mut clone), 2, "a clone has the same host");
    optimizer.clear_parallel_for();
    assert_eq!(apply(&mut optimizer), 0);
}

#[test]
fn statistics_and_parts_are_the_hosts() {
    let (mut optimizer, id, calls) = hosted();
    let mut rng = Rng::with_seed(2);
    let gradient: Vec<f32> = ordinary(&mut rng, 10 * STATISTICS_BLOCK);
    let mut parameter = TensorBuf::zeroed(Dtype::F32, 10 * STATISTICS_BLOCK).expect("memory");
    let mut statistics = optimizer.statistics().expect("memory");
    let gradient = TensorRef::from(&gradient);
    optimizer.measure(&mut statistics, &mut [Gradient::new(id, gradient)]).expect("measured");
    assert_eq!(calls.swap(0, Ordering::Relaxed), 1);
    let options = BeginOptions { statistics: Some(&statistics), ..BeginOptions::default() };
    let step = optimizer.begin(options).expect("begun");
    optimizer.part(step, &mut [Update::new(id, parameter.to_mut(), gradient)]).expect("done");
    optimizer.finish(step).expect("finished");
    assert_eq!(calls.swap(0, Ordering::Relaxed), 1);
}

/// An unavailable backend returns an error, and the plan does not change.
#[test]
fn a_profile_must_be_of_this_machine() {
    let mut optimizer = Lion::builder().build().expect("valid");
    let before = optimizer.backend();
    for &backend in Backend::ALL {
        let set = optimizer.set_profile(lion::Profile::fixed(Plan::new(backend)));
        assert_eq!(set.is_ok(), backend.is_available());
        let expected = if backend.is_available() { backend } else { before };
        assert_eq!(optimizer.backend(), expected);
        optimizer.set_profile(lion::Profile::fixed(Plan::new(before))).expect("it was");
    }
}
