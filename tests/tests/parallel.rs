//! Lists of tasks on many threads: the bits of each pass made alone, on one thread, by plain Rust, whatever the plan.

use half::{bf16, f16};
use lion_kernels::{
    Arena, BLOCK, Backend, Clip, Dtype, Ema, Error, Gradient, Plan, Prefetch, Slice, SliceMut, Statistics,
    Step, Task, Tensors, accumulate, average, block_statistics, convert, run, stream,
};
use lion_tests::{Rng, Sample, on_each_backend, slice_bits, values};
use rayon::{ThreadPool, ThreadPoolBuilder};

on_each_backend!(any_list_under_any_plan);

/// Tensors of one variable, in the order of an arena, and what is done to them.
#[derive(Clone)]
struct Job {
    kind: usize,
    tensors: Arena,
    blocks: Vec<Statistics>,
    step: Step,
}

const KINDS: usize = 7;

/// The bits of a block's sum and of its largest magnitude, and the count between them.
type Block = (u64, u64, u32);

fn fill<T: Sample>(rng: &mut Rng, tensor: &mut [T]) {
    // Some values are enough for a long tensor.
    let some: Vec<T> = values(rng, tensor.len().min(1000));
    for (to, from) in tensor.iter_mut().zip(some.iter().cycle()) {
        *to = *from;
    }
}

impl Job {
    fn new(rng: &mut Rng) -> Self {
        let len = match rng.usize(0..6) {
            0 => 0,
            1 => rng.usize(1..100),
            2 => rng.usize(BLOCK - 2..=BLOCK + 2),
            3 => rng.usize(1..6) * BLOCK,
            _ => rng.usize(1..5 * BLOCK),
        };
        let mut dtype = || Dtype::ALL[rng.usize(..Dtype::ALL.len())];
        let [p, g, m, copy] = [dtype(), dtype(), dtype(), dtype()];
        let mut tensors = Arena::new();
        for dtype in [p, g, m, copy, p, Dtype::F32, Dtype::F32] {
            tensors.push(dtype, len).expect("memory");
        }
        for tensor in tensors.tensors_mut() {
            match tensor {
                SliceMut::F32(elements) => fill(rng, elements),
                SliceMut::F16(elements) => fill(rng, elements),
                SliceMut::BF16(elements) => fill(rng, elements),
            }
        }
        let gradient = Gradient::new().unscale(3.0).and_then(|it| it.accumulated(2)).expect("valid");
        let step = Step::new(0.1, 0.9, 0.99).expect("valid");
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
        Job { kind, tensors, blocks: vec![Statistics::default(); len.div_ceil(BLOCK)], step }
    }

    fn parts(&mut self) -> ([SliceMut<'_>; 7], &mut [Statistics]) {
        let mut tensors = self.tensors.tensors_mut();
        let tensors = std::array::from_fn(|_| tensors.next().expect("seven"));
        (tensors, &mut self.blocks)
    }

    fn task(&mut self) -> Task<'_> {
        let (kind, step) = (self.kind, self.step);
        let ([p, g, m, copy, source, sum, mean], blocks) = self.parts();
        let (g, source) = (borrowed(g), borrowed(source));
        let (sum, mean) = (single(sum), single(mean));
        let averaged = Gradient::new().accumulated(4).expect("valid");
        let task = match kind {
            0 | 1 => Task::step(step, Tensors::in_place(p, g, m)),
            2 => {
                let tensors = Tensors::out_of_place(source, p, g, m);
                Task::step(step, tensors.accumulator(sum).ema(mean).copy(copy))
            }
            3 => Task::accumulate(&Gradient::new(), sum, g),
            4 => Task::average(&Ema::new(0.5).expect("valid").overwrite(true), mean, p),
            5 => Task::convert(g, copy),
            _ => Task::statistics(&averaged, g, Some(sum), blocks),
        };
        task.expect("fits")
    }

    fn alone(&mut self) {
        let backend = Backend::Scalar;
        let (kind, step) = (self.kind, self.step);
        let ([p, g, m, copy, source, sum, mean], blocks) = self.parts();
        let (g, source) = (borrowed(g), borrowed(source));
        let (sum, mean) = (single(sum), single(mean));
        let averaged = Gradient::new().accumulated(4).expect("valid");
        let done = match kind {
            0 | 1 => step.apply(backend, Tensors::in_place(p, g, m)),
            2 => {
                let tensors = Tensors::out_of_place(source, p, g, m);
                step.apply(backend, tensors.accumulator(sum).ema(mean).copy(copy))
            }
            3 => accumulate(backend, &Gradient::new(), sum, g),
            4 => average(backend, &Ema::new(0.5).expect("valid").overwrite(true), mean, p),
            5 => convert(backend, g, copy),
            _ => block_statistics(backend, &averaged, g, Some(sum), blocks),
        };
        done.expect("a pass");
    }

    /// Of each tensor, and of each block's statistics.
    fn bits(&self) -> (Vec<Vec<u32>>, Vec<Block>) {
        let tensors =
            (0..self.tensors.len()).map(|index| slice_bits(self.tensors.tensor(index).expect("is there")));
        let sum = |of: f64| if of.is_nan() { f64::NAN.to_bits() } else { of.to_bits() };
        let blocks =
            self.blocks.iter().map(|it| (sum(it.sum_of_squares), it.non_finite, it.largest.to_bits()));
        (tensors.collect(), blocks.collect())
    }
}

fn borrowed(tensor: SliceMut<'_>) -> Slice<'_> {
    match tensor {
        SliceMut::F32(elements) => Slice::F32(elements),
        SliceMut::F16(elements) => Slice::F16(elements),
        SliceMut::BF16(elements) => Slice::BF16(elements),
    }
}

fn single(tensor: SliceMut<'_>) -> &mut [f32] {
    match tensor {
        SliceMut::F32(elements) => elements,
        other => panic!("{} is not f32", other.dtype()),
    }
}

fn pool(threads: usize) -> ThreadPool {
    ThreadPoolBuilder::new().num_threads(threads).build().expect("threads")
}

fn any_plan(rng: &mut Rng, backend: Backend) -> Plan {
    let prefetch = [Prefetch::Auto, Prefetch::On, Prefetch::Off][rng.usize(..3)];
    let plan = Plan::new(backend).chunk(rng.usize(..4 * BLOCK)).prefetch(prefetch).parallel_from(0);
    let mut plan = if rng.bool() { plan.threads(rng.usize(..70)) } else { plan };
    if rng.usize(..4) == 0 {
        // Past the door that rounds it.
        plan.chunk = rng.usize(..2 * BLOCK);
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

#[test]
fn whatever_pool_it_is_called_in() {
    let step = Step::new(0.25, 0.9, 0.99).expect("valid");
    let gradient = vec![1.0_f32; 100 * BLOCK + 7];
    let len = gradient.len();
    let plan = Plan::new(Backend::best()).parallel_from(0).chunk(BLOCK);
    let one = || {
        let (mut p, mut m) = (vec![1.0_f32; len], vec![0.0_f32; len]);
        let tensors = Tensors::in_place(&mut p, &gradient, &mut m);
        run(&plan, &mut [Task::step(step, tensors).expect("fits")]).expect("it runs");
        assert!(p.iter().all(|&value| value == 0.75));
    };
    // The global pool; from several threads at once; inside the tasks of a pool that is busy with the same; in a
    // pool that is gone afterwards.
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
    let step = Step::new(0.25, 0.9, 0.99).expect("valid");
    let tensors = Tensors::in_place(&mut p[..], &g[..], &mut m[..]);
    let done = run(&Plan::new(absent), &mut [Task::step(step, tensors).expect("fits")]);
    assert_eq!(done, Err(Error::UnavailableBackend { backend: absent }));
    assert_eq!((p, m), ([1.0; 8], [0.0; 8]));
}

#[test]
fn tensors_that_do_not_fit_make_no_task() {
    let (mut seven, eight) = ([0.0_f32; 7], [0.0_f32; 8]);
    let wrong = |task: Result<Task<'_>, Error>| matches!(task, Err(Error::Length { .. }));
    assert!(wrong(Task::accumulate(&Gradient::new(), &mut seven, &eight[..])));
    assert!(wrong(Task::average(&Ema::new(0.5).expect("valid"), &mut seven, &mut [0.0_f32; 8][..])));
    assert!(wrong(Task::convert(&eight[..], &mut seven[..])));
    assert!(wrong(Task::stream(&mut seven[..], &eight[..], &mut [0.0_f32; 7][..])));
    assert!(wrong(Task::stream(&mut seven[..], &eight[..7], &mut [0.0_f32; 8][..])));
    let mut blocks = [Statistics::default(); 2];
    let task = Task::statistics(&Gradient::new(), &eight[..], None, &mut blocks);
    assert!(matches!(task, Err(Error::Blocks { found: 2, expected: 1, elements: 8 })));
}

#[test]
fn the_streaming_limit_undoes_itself() {
    let start: Vec<u32> = (0..3 * BLOCK as u32).map(|bits| bits.wrapping_mul(0x9e37_79b9)).collect();
    let tensor = || start.iter().map(|&bits| f32::from_bits(bits)).collect::<Vec<_>>();
    let (mut p, g, mut m, mut ema) = (tensor(), tensor(), tensor(), tensor());
    let plan = Plan::new(Backend::best()).parallel_from(0).chunk(BLOCK);
    let bits = |tensor: &[f32]| tensor.iter().map(|value| value.to_bits()).collect::<Vec<_>>();
    for turn in [1, 2] {
        let mut tasks =
            [Task::stream(&mut p, &g, &mut m).expect("fits"), Task::rewrite(&mut ema), Task::read(&g)];
        run(&plan, &mut tasks).expect("it runs");
        assert_eq!(bits(&ema) == start, turn == 2);
        assert_eq!(bits(&p) == start, turn == 2);
        assert_eq!(bits(&m) == start, turn == 2);
    }
    stream(Backend::Scalar, &mut p, &g, &mut m).expect("a pass");
    assert!(p.iter().all(|value| value.to_bits() == 0), "a number is its own inverse");
}

#[test]
fn formats_are_told_apart() {
    use lion_kernels::Element;
    let (mut single, mut half) = ([1.0_f32], [f16::ONE]);
    assert_eq!(f32::elements(f32::slice(&single)), Some(&[1.0_f32][..]));
    assert_eq!(bf16::elements(f16::slice(&half)), None);
    assert!(f16::elements_mut(f16::slice_mut(&mut half)).is_some());
    assert!(f16::elements_mut(f32::slice_mut(&mut single)).is_none());
}
