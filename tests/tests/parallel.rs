//! Lists of tasks on many threads: for every plan, the same bits as each pass alone on one thread of the scalar
//! backend.

use half::{bf16, f16};
use lion_kernels::{
    Arena, Backend, Clip, Dtype, Ema, Error, GradientStatistics, GradientTransform, LionStep, Plan, Prefetch,
    Role, STATISTICS_BLOCK, StepTensors, Task, TensorMut, TensorRef, run, run_on,
};
use lion_tests::alone::{accumulate, apply, block_statistics, convert, update_ema};
use lion_tests::{Rng, Sample, on_each_backend, tensor_bits, values, with_sample};
use rayon::{ThreadPool, ThreadPoolBuilder};

on_each_backend!(any_list_under_any_plan, any_list_on_any_host, a_list_that_runs_again);

/// The tensors of one variable, in the order of an arena, and the pass over them.
#[derive(Clone)]
struct Job {
    kind: usize,
    tensors: Arena,
    blocks: Vec<GradientStatistics>,
    step: LionStep,
}

const KINDS: usize = 7;

/// The bits of a block's sum, its count, and the bits of its largest magnitude.
type Block = (u64, u64, u32);

fn fill<T: Sample>(rng: &mut Rng, tensor: &mut [T]) {
    // A long tensor repeats a few values.
    let some: Vec<T> = values(rng, tensor.len().min(1000));
    for (to, from) in tensor.iter_mut().zip(some.iter().cycle()) {
        *to = *from;
    }
}

fn fill_streams(rng: &mut Rng, mut tensor: TensorMut<'_>) {
    for stream in 0..tensor.dtype().streams().len() {
        let stream = tensor.stream_mut(stream).expect("it has as many");
        with_sample!(stream.dtype(), T => fill(rng, stream.into_slice::<T>().expect("its dtype")));
    }
}

impl Job {
    fn new(rng: &mut Rng) -> Self {
        let len = match rng.usize(0..6) {
            0 => 0,
            1 => rng.usize(1..100),
            2 => rng.usize(STATISTICS_BLOCK - 2..=STATISTICS_BLOCK + 2),
            3 => rng.usize(1..6) * STATISTICS_BLOCK,
            _ => rng.usize(1..5 * STATISTICS_BLOCK),
        };
        let mut dtype = |role| {
            let dtypes: Vec<_> = Dtype::for_role(role).collect();
            dtypes[rng.usize(..dtypes.len())]
        };
        let roles = [Role::Parameter, Role::Gradient, Role::Momentum, Role::Gradient];
        let [p, g, m, copy] = roles.map(&mut dtype);
        let mut tensors = Arena::new();
        for dtype in [p, g, m, copy, p, Dtype::F32, Dtype::F32] {
            tensors.push(dtype, len).expect("memory");
        }
        for tensor in tensors.tensors_mut() {
            fill_streams(rng, tensor);
        }
        let gradient =
            GradientTransform::new().loss_scale(3.0).and_then(|it| it.average_over(2)).expect("valid");
        let step = LionStep::new(0.1, 0.9, 0.99).expect("valid");
        let kind = rng.usize(..KINDS);
        let step = match kind {
            0 => step,
            1 => step.weight_decay(0.1).expect("valid"),
            _ => step
                .gradient(gradient)
                .clip(Clip::Value(1.0))
                .expect("valid")
                .ema(Ema::new(0.9).expect("valid")),
        };
        Job {
            kind,
            tensors,
            blocks: vec![GradientStatistics::default(); len.div_ceil(STATISTICS_BLOCK)],
            step,
        }
    }

    fn parts(&mut self) -> ([TensorMut<'_>; 7], &mut [GradientStatistics]) {
        let mut tensors = self.tensors.tensors_mut();
        let tensors = std::array::from_fn(|_| tensors.next().expect("seven"));
        (tensors, &mut self.blocks)
    }

    fn task(&mut self) -> Task<'_> {
        let (kind, step) = (self.kind, self.step);
        let ([p, g, m, copy, source, sum, mean], blocks) = self.parts();
        let (g, source) = (TensorRef::from(g), TensorRef::from(source));
        let (sum, mean) = (single(sum), single(mean));
        let averaged = GradientTransform::new().average_over(4).expect("valid");
        let task = match kind {
            0 | 1 => Task::step(step, StepTensors::in_place(p, g, m)),
            2 => {
                let tensors = StepTensors::out_of_place(source, p, g, m);
                Task::step(step, tensors.accumulator(sum).ema(mean).copy(copy))
            }
            3 => Task::accumulate(&GradientTransform::new(), sum, g),
            4 => Task::update_ema(&Ema::new(0.5).expect("valid").overwrite(true), mean, p),
            5 => Task::convert(g, copy),
            _ => Task::statistics(&averaged, g, Some(sum), blocks),
        };
        task.expect("fits")
    }

    fn alone(&mut self) {
        let backend = Backend::Scalar;
        let (kind, step) = (self.kind, self.step);
        let ([p, g, m, copy, source, sum, mean], blocks) = self.parts();
        let (g, source) = (TensorRef::from(g), TensorRef::from(source));
        let (sum, mean) = (single(sum), single(mean));
        let averaged = GradientTransform::new().average_over(4).expect("valid");
        let done = match kind {
            0 | 1 => apply(step, backend, StepTensors::in_place(p, g, m)),
            2 => {
                let tensors = StepTensors::out_of_place(source, p, g, m);
                apply(step, backend, tensors.accumulator(sum).ema(mean).copy(copy))
            }
            3 => accumulate(backend, &GradientTransform::new(), sum, g),
            4 => update_ema(backend, &Ema::new(0.5).expect("valid").overwrite(true), mean, p),
            5 => convert(backend, g, copy),
            _ => block_statistics(backend, &averaged, g, Some(sum), blocks),
        };
        done.expect("a pass");
    }

    /// Returns the bits of each tensor and of each block's statistics.
    fn bits(&self) -> (Vec<Vec<u32>>, Vec<Block>) {
        let tensors =
            (0..self.tensors.len()).map(|index| tensor_bits(self.tensors.tensor(index).expect("is there")));
        let sum = |of: f64| if of.is_nan() { f64::NAN.to_bits() } else { of.to_bits() };
        let blocks =
            self.blocks.iter().map(|it| (sum(it.sum_of_squares), it.non_finite, it.max_abs.to_bits()));
        (tensors.collect(), blocks.collect())
    }
}

fn single(tensor: TensorMut<'_>) -> &mut [f32] {
    tensor.into_slice().expect("is f32")
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

fn any_plan(rng: &mut Rng, backend: Backend) -> Plan {
    let prefetch = [Prefetch::Auto, Prefetch::On, Prefetch::Off][rng.usize(..3)];
    let plan = Plan::new(backend)
        .chunk_elements(rng.usize(..4 * STATISTICS_BLOCK))
        .prefetch(prefetch)
        .parallel_threshold(0);
    let mut plan = if rng.bool() { plan.threads(rng.usize(..70)) } else { plan };
    if rng.usize(..4) == 0 {
        // Sets the public field, which the setter would round.
        plan.chunk_elements = rng.usize(..2 * STATISTICS_BLOCK);
    }
    if rng.bool() {
        // Without a threshold, the first chunk is timed, and the rest may stay on the calling thread.
        plan.parallel_threshold = None;
    }
    plan
}

fn any_list_under_any_plan(backend: Backend) {
    let mut rng = Rng::with_seed(0x91);
    let pools = [1, 2, 3, 8, 64].map(pool);
    for round in 0..60 {
        let jobs: Vec<Job> = (0..rng.usize(0..40)).map(|_| Job::new(&mut rng)).collect();
        let mut expected = jobs.clone();
        expected.iter_mut().for_each(Job::alone);
        for pool in &pools {
            let plan = any_plan(&mut rng, backend);
            let mut found = jobs.clone();
            let mut tasks: Vec<Task<'_>> = found.iter_mut().map(Job::task).collect();
            pool.install(|| run(&plan, &mut tasks)).expect("it runs");
            drop(tasks);
            for (place, (found, expected)) in found.iter().zip(&expected).enumerate() {
                let kind = found.kind;
                assert!(
                    found.bits() == expected.bits(),
                    "round {round}, task {place} of kind {kind}, {plan:?}"
                );
            }
        }
    }
}

/// A host's parallel loop.
type ParallelFor = fn(usize, &(dyn Fn(usize) + Sync));

/// The ways in which a host may run its workers, correct or not.
const HOSTS: [(&str, ParallelFor); 8] = [
    ("each once, in order", |workers, work| (0..workers).for_each(work)),
    ("each once, in reverse", |workers, work| (0..workers).rev().for_each(work)),
    ("each twice", |workers, work| (0..workers).chain(0..workers).for_each(work)),
    ("none", |_, _| ()),
    ("the last alone", |workers, work| work(workers - 1)),
    ("a worker that does not exist", |workers, work| work(workers + 100)),
    ("each on a thread", |workers, work| {
        std::thread::scope(|scope| {
            for worker in 0..workers {
                scope.spawn(move || work(worker));
            }
        });
    }),
    ("all on each of three threads", |workers, work| {
        std::thread::scope(|scope| {
            for _ in 0..3 {
                scope.spawn(move || (0..workers).rev().for_each(work));
            }
        });
    }),
];

#[track_caller]
fn assert_same(found: &[Job], expected: &[Job], what: &str) {
    for (place, (found, expected)) in found.iter().zip(expected).enumerate() {
        assert!(found.bits() == expected.bits(), "{what}: task {place} of kind {}", found.kind);
    }
}

fn any_list_on_any_host(backend: Backend) {
    let mut rng = Rng::with_seed(0x92);
    for round in 0..20 {
        let jobs: Vec<Job> = (0..rng.usize(0..40)).map(|_| Job::new(&mut rng)).collect();
        let mut expected = jobs.clone();
        expected.iter_mut().for_each(Job::alone);
        for (host, parallel_for) in HOSTS {
            let plan = any_plan(&mut rng, backend);
            let threads = rng.usize(..9);
            let mut found = jobs.clone();
            let mut tasks: Vec<Task<'_>> = found.iter_mut().map(Job::task).collect();
            run_on(&plan, threads, &parallel_for, &mut tasks).expect("it runs");
            drop(tasks);
            assert_same(&found, &expected, &format!("round {round}, {host} of {threads}, {plan:?}"));
        }
    }
}

/// A run of a millisecond or more uses other threads, for any latency.
#[test]
fn without_a_threshold_long_work_is_shared() {
    let asked = std::sync::atomic::AtomicUsize::new(0);
    let host = |workers: usize, work: &(dyn Fn(usize) + Sync)| {
        asked.fetch_add(workers, std::sync::atomic::Ordering::Relaxed);
        (0..workers).for_each(work);
    };
    let len = 300 * STATISTICS_BLOCK;
    let step = LionStep::new(0.25, 0.9, 0.99).expect("valid");
    let (mut p, g, mut m) = (vec![f16::ONE; len], vec![f16::ONE; len], vec![f16::ZERO; len]);
    for moved in [0.75, 0.5] {
        let mut tasks = [Task::step(step, StepTensors::in_place(&mut p, &g, &mut m)).expect("fits")];
        run_on(&Plan::new(Backend::Scalar), 2, &host, &mut tasks).expect("it runs");
        assert!(p.iter().all(|value| value.to_f32() == moved));
    }
    assert_eq!(asked.into_inner(), 4);
}

/// Returns the number of workers of each call of the host.
#[test]
fn a_host_is_called_once_or_not_at_all() {
    let asked = std::sync::Mutex::new(Vec::new());
    let host = |workers: usize, work: &(dyn Fn(usize) + Sync)| {
        asked.lock().expect("no panic").push(workers);
        (0..workers).for_each(work);
    };
    let plan = Plan::new(Backend::best()).chunk_elements(STATISTICS_BLOCK).parallel_threshold(0);
    let step = LionStep::new(0.25, 0.9, 0.99).expect("valid");
    let called = |plan: &Plan, threads, len| {
        let (mut p, g, mut m) = (vec![1.0_f32; len], vec![1.0_f32; len], vec![0.0_f32; len]);
        let mut tasks = [Task::step(step, StepTensors::in_place(&mut p, &g, &mut m)).expect("fits")];
        let done = run_on(plan, threads, &host, &mut tasks);
        let moved = p.iter().all(|&value| value == 0.75);
        assert_eq!(moved, done.is_ok() || len == 0);
        std::mem::take(&mut *asked.lock().expect("no panic"))
    };
    assert_eq!(called(&plan, 4, 10 * STATISTICS_BLOCK), [4]);
    assert_eq!(called(&plan.threads(3), 4, 10 * STATISTICS_BLOCK), [3]);
    assert_eq!(called(&plan, 4, 2 * STATISTICS_BLOCK), [2], "no more workers than chunks");
    assert_eq!(called(&plan, 1000, 200 * STATISTICS_BLOCK), [64], "no more than MAX_THREADS");
    for (plan, threads, len) in [
        (plan, 0, 10 * STATISTICS_BLOCK),
        (plan, 1, 10 * STATISTICS_BLOCK),
        (plan.threads(1), 4, 10 * STATISTICS_BLOCK),
        (plan, 4, STATISTICS_BLOCK),
        (plan, 4, 0),
        (plan.parallel_threshold(1 << 30), 4, 10 * STATISTICS_BLOCK),
    ] {
        assert_eq!(called(&plan, threads, len), [0; 0], "{plan:?}, {threads} threads, {len} elements");
    }
    if let Some(absent) = Backend::ALL.iter().copied().find(|backend| !backend.is_available()) {
        assert_eq!(called(&plan.backend(absent), 4, 10 * STATISTICS_BLOCK), [0; 0]);
    }
}

/// A list is prepared once and run for each step, by the pool and by a host, with changed settings.
fn a_list_that_runs_again(backend: Backend) {
    let mut rng = Rng::with_seed(0x93);
    let pool = pool(3);
    let next = LionStep::new(0.5, 0.3, 0.7).expect("valid").weight_decay(0.5).expect("valid");
    for round in 0..20 {
        let jobs: Vec<Job> = (0..rng.usize(1..30)).map(|_| Job::new(&mut rng)).collect();
        let mut expected = jobs.clone();
        for _ in 0..3 {
            expected.iter_mut().for_each(Job::alone);
        }
        for job in expected.iter_mut().filter(|job| job.kind < 2) {
            job.step = next;
        }
        expected.iter_mut().for_each(Job::alone);

        let mut found = jobs.clone();
        let steps: Vec<bool> = found.iter().map(|job| job.kind < 2).collect();
        let mut tasks: Vec<Task<'_>> = found.iter_mut().map(Job::task).collect();
        pool.install(|| run(&any_plan(&mut rng, backend), &mut tasks)).expect("it runs");
        for task in &mut tasks {
            task.run(backend).expect("it runs alone");
        }
        let (host, parallel_for) = HOSTS[round % HOSTS.len()];
        run_on(&any_plan(&mut rng, backend), 4, &parallel_for, &mut tasks).expect("it runs");
        for (task, _) in tasks.iter_mut().zip(&steps).filter(|(_, step)| **step) {
            task.set_step(next).expect("needs the same tensors");
        }
        pool.install(|| run(&any_plan(&mut rng, backend), &mut tasks)).expect("it runs");
        drop(tasks);
        assert_same(&found, &expected, &format!("round {round}, third run {host}"));
    }
}

#[test]
fn whatever_pool_it_is_called_in() {
    let step = LionStep::new(0.25, 0.9, 0.99).expect("valid");
    let gradient = vec![1.0_f32; 100 * STATISTICS_BLOCK + 7];
    let len = gradient.len();
    let plan = Plan::new(Backend::best()).parallel_threshold(0).chunk_elements(STATISTICS_BLOCK);
    let one = || {
        let (mut p, mut m) = (vec![1.0_f32; len], vec![0.0_f32; len]);
        let tensors = StepTensors::in_place(&mut p, &gradient, &mut m);
        run(&plan, &mut [Task::step(step, tensors).expect("fits")]).expect("it runs");
        assert!(p.iter().all(|&value| value == 0.75));
    };
    // On the global pool; from several threads at once; from tasks of a busy pool; on a pool that is then dropped.
    one();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(one);
        }
    });
    let busy = pool(3);
    busy.scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|_| one());
        }
    });
    drop(busy);
    one();
}

#[test]
fn an_absent_backend_is_an_error_and_writes_nothing() {
    let Some(absent) = Backend::ALL.iter().copied().find(|backend| !backend.is_available()) else { return };
    let (mut p, g, mut m) = ([1.0_f32; 8], [1.0_f32; 8], [0.0_f32; 8]);
    let step = LionStep::new(0.25, 0.9, 0.99).expect("valid");
    let tensors = StepTensors::in_place(&mut p[..], &g[..], &mut m[..]);
    let done = run(&Plan::new(absent), &mut [Task::step(step, tensors).expect("fits")]);
    assert_eq!(done, Err(Error::UnavailableBackend { backend: absent }));
    assert_eq!((p, m), ([1.0; 8], [0.0; 8]));
}

#[test]
fn tensors_that_do_not_fit_make_no_task() {
    let (mut seven, eight) = ([0.0_f32; 7], [0.0_f32; 8]);
    let wrong = |task: Result<Task<'_>, Error>| matches!(task, Err(Error::Length { .. }));
    assert!(wrong(Task::accumulate(&GradientTransform::new(), &mut seven, &eight[..])));
    assert!(wrong(Task::update_ema(&Ema::new(0.5).expect("valid"), &mut seven, &mut [0.0_f32; 8][..])));
    assert!(wrong(Task::convert(&eight[..], &mut seven[..])));
    assert!(wrong(Task::bandwidth_step(&mut seven[..], &eight[..], &mut [0.0_f32; 7][..])));
    assert!(wrong(Task::bandwidth_step(&mut seven[..], &eight[..7], &mut [0.0_f32; 8][..])));
    let mut blocks = [GradientStatistics::default(); 2];
    let task = Task::statistics(&GradientTransform::new(), &eight[..], None, &mut blocks);
    assert!(matches!(task, Err(Error::Blocks { found: 2, expected: 1, elements: 8 })));
}

#[test]
fn the_streaming_limit_undoes_itself() {
    let start: Vec<u32> =
        (0..3 * STATISTICS_BLOCK as u32).map(|bits| bits.wrapping_mul(0x9e37_79b9)).collect();
    let tensor = || start.iter().map(|&bits| f32::from_bits(bits)).collect::<Vec<_>>();
    let (mut p, g, mut m, mut ema) = (tensor(), tensor(), tensor(), tensor());
    let plan = Plan::new(Backend::best()).parallel_threshold(0).chunk_elements(STATISTICS_BLOCK);
    let bits = |tensor: &[f32]| tensor.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for turn in [1, 2] {
        let mut tasks = [
            Task::bandwidth_step(&mut p, &g, &mut m).expect("fits"),
            Task::bandwidth_rewrite(&mut ema),
            Task::bandwidth_read(&g),
        ];
        run(&plan, &mut tasks).expect("it runs");
        assert_eq!(bits(&ema) == start, turn == 2);
        assert_eq!(bits(&p) == start, turn == 2);
        assert_eq!(bits(&m) == start, turn == 2);
    }
}

#[test]
fn formats_are_told_apart() {
    let (single, mut half) = ([1.0_f32], [f16::ONE]);
    assert_eq!(TensorRef::from(&single).as_slice::<f32>(), Some(&[1.0_f32][..]));
    assert_eq!(TensorRef::from(&half).as_slice::<bf16>(), None);
    assert!(TensorMut::from(&mut half).into_slice::<f16>().is_some());
    assert!(TensorMut::from(&mut half).into_slice::<f32>().is_none());
}
