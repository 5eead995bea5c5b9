//! Wrong arguments, one at a time: each is the error that the header promises, and changes nothing.

#![allow(unsafe_code)]

mod common;

use std::ffi::c_void;
use std::ptr;
use std::sync::atomic::{AtomicUsize, Ordering};

use common::{METRICS, Optimizer, UPDATE, VARIABLE, last_error, ok, options, refused, text, update};
use lion::Dtype;
use lion_c::*;

/// An optimizer with the variables `a`, of 8 elements, and `b`, of 4.
fn optimizer() -> Optimizer {
    let c = Optimizer::new(Some(&LionOptions { learning_rate: 0.5, ..options() }));
    assert_eq!(c.register("a", &[2, 4], Dtype::F32, &VARIABLE), 0);
    assert_eq!(c.register("b", &[4], Dtype::BF16, &VARIABLE), 1);
    c
}

#[test]
fn pointers() {
    let c = optimizer();
    let mut memory = [0.0_f32; 16];
    let right = update(0, &mut (&mut memory[..8]).into(), None);
    let gradient = [1.0_f32; 8];
    let right = LionUpdate { gradient: gradient.as_ptr().cast(), gradient_dtype: LION_F32, ..right };
    let null = ptr::null_mut();
    // SAFETY: null is allowed, and the others are right.
    unsafe {
        refused(lion_apply(ptr::null_mut(), &raw const right, 1), LION_ERROR_POINTER, "optimizer is null");
        refused(
            lion_apply(c.0.wrapping_byte_add(1), &raw const right, 1),
            LION_ERROR_POINTER,
            "optimizer is misaligned",
        );
        refused(lion_apply(c.0, ptr::null(), 1), LION_ERROR_POINTER, "updates is null");
        let odd = (&raw const right).wrapping_byte_add(4);
        refused(lion_apply(c.0, odd, 1), LION_ERROR_POINTER, "updates is misaligned");
        ok(lion_apply(c.0, ptr::null(), 0));
        ok(lion_free(ptr::null_mut()));
        refused(lion_new(ptr::null(), ptr::null_mut()), LION_ERROR_POINTER, "optimizer is null");
        let mut made = ptr::null_mut();
        refused(lion_new_from_config(ptr::null(), &raw mut made), LION_ERROR_POINTER, "json is null");
        refused(lion_metrics(c.0, ptr::null_mut()), LION_ERROR_POINTER, "metrics is null");
        refused(lion_set(c.0, ptr::null(), ptr::null()), LION_ERROR_POINTER, "name is null");
        refused(lion_save(c.0, ptr::null(), ptr::null(), 0), LION_ERROR_POINTER, "path is null");
        refused(lion_load(c.0, ptr::null(), ptr::null(), 0), LION_ERROR_POINTER, "path is null");
        refused(lion_options_init(ptr::null_mut(), 48), LION_ERROR_POINTER, "options is null");
        refused(lion_advise_huge_pages(null, 4, ptr::null_mut()), LION_ERROR_POINTER, "memory is null");
    }
    let wrong = |wrong: LionUpdate, message: &str| refused(c.apply(&[wrong]), LION_ERROR_POINTER, message);
    wrong(LionUpdate { parameter: null, ..right }, "updates[0].parameter is null");
    let misaligned = right.parameter.wrapping_byte_add(2);
    wrong(LionUpdate { parameter: misaligned, ..right }, "updates[0].parameter is misaligned");
    let misaligned = right.gradient.wrapping_byte_add(1);
    wrong(LionUpdate { gradient: misaligned, ..right }, "updates[0].gradient is misaligned");
    wrong(LionUpdate { source: misaligned, ..right }, "updates[0].source is misaligned");
    wrong(
        LionUpdate { copy: misaligned.cast_mut(), copy_dtype: LION_F16, ..right },
        "updates[0].copy is misaligned",
    );
    assert_eq!(memory, [0.0; 16]);
}

#[test]
fn tensors() {
    let c = optimizer();
    let mut memory = [0.0_f32; 32];
    let gradient = [1.0_f32; 8];
    let base = memory.as_mut_ptr();
    let right = LionUpdate {
        parameter: base.cast(),
        gradient: gradient.as_ptr().cast(),
        len: 8,
        parameter_dtype: LION_F32,
        gradient_dtype: LION_F32,
        ..UPDATE
    };
    let wrong =
        |wrong: LionUpdate, status: LionStatus, message: &str| refused(c.apply(&[wrong]), status, message);
    let known = "expected one of 1 (f32), 2 (f16), 3 (bf16)";
    for (dtype, text) in [(0, "0"), (4, "4"), (u32::MAX, "4294967295")] {
        let message = |field: &str| format!("updates[0].{field} is {text}; {known}");
        wrong(LionUpdate { parameter_dtype: dtype, ..right }, LION_ERROR_VALUE, &message("parameter_dtype"));
        wrong(LionUpdate { gradient_dtype: dtype, ..right }, LION_ERROR_VALUE, &message("gradient_dtype"));
        let copy = LionUpdate { copy: base.wrapping_add(16).cast(), copy_dtype: dtype, ..right };
        wrong(copy, LION_ERROR_VALUE, &message("copy_dtype"));
    }
    wrong(
        LionUpdate { parameter_dtype: LION_F16, ..right },
        LION_ERROR_TENSOR,
        r#"variable "a": the parameter is f16, and was registered as f32"#,
    );
    wrong(
        LionUpdate { len: 7, ..right },
        LION_ERROR_TENSOR,
        r#"variable "a": the parameter has 7 elements, and its shape has 8"#,
    );
    let message = "updates[0].parameter is at ";
    assert_eq!(c.apply(&[LionUpdate { len: usize::MAX, ..right }]), LION_ERROR_POINTER);
    assert!(last_error().starts_with(message), "{}", last_error());
    wrong(
        LionUpdate { range_start: 2, range_end: 9, ..right },
        LION_ERROR_STEP,
        r#"variable "a": the range 2..9 must be within 0..8"#,
    );
    wrong(
        LionUpdate { variable: 2, ..right },
        LION_ERROR_NAME,
        "variable id 2 does not exist; 2 variables are registered",
    );
    let message = format!("variable id {} does not exist; 2 variables are registered", u64::MAX);
    wrong(LionUpdate { variable: u64::MAX, ..right }, LION_ERROR_NAME, &message);
    wrong(LionUpdate { reserved: 1, ..right }, LION_ERROR_VALUE, "updates[0].reserved is 1; expected 0");
    let no_gradient = LionUpdate { gradient: ptr::null(), ..right };
    wrong(no_gradient, LION_ERROR_STEP, "no variable of the step has a gradient");

    let apart = "overlap; expected separate memory for what is written";
    let of_itself = LionUpdate { gradient: base.wrapping_add(7).cast_const().cast(), ..right };
    wrong(of_itself, LION_ERROR_TENSOR, &format!("updates[0].parameter and updates[0].gradient {apart}"));
    let copy = LionUpdate { copy: base.wrapping_add(4).cast(), copy_dtype: LION_BF16, ..right };
    wrong(copy, LION_ERROR_TENSOR, &format!("updates[0].parameter and updates[0].copy {apart}"));
    let source = LionUpdate { source: base.wrapping_add(1).cast_const().cast(), ..right };
    wrong(source, LION_ERROR_TENSOR, &format!("updates[0].parameter and updates[0].source {apart}"));
    let b = |at: usize| LionUpdate {
        variable: 1,
        parameter: base.wrapping_add(at).cast(),
        len: 4,
        parameter_dtype: LION_BF16,
        gradient_dtype: LION_BF16,
        ..right
    };
    let message = format!("updates[1].parameter and updates[0].parameter {apart}");
    refused(c.apply(&[b(7), right]), LION_ERROR_TENSOR, &message);
    assert_eq!(memory, [0.0; 32]);
    // Gradients may be the same memory.
    ok(c.apply(&[b(8), right]));
    refused(
        c.apply(&[right, right]),
        LION_ERROR_TENSOR,
        &format!("updates[0].parameter and updates[1].parameter {apart}"),
    );
    let twice = LionUpdate { parameter: base.wrapping_add(16).cast(), ..right };
    refused(c.apply(&[right, twice]), LION_ERROR_STEP, r#"variable "a" is in the step twice"#);
    assert_eq!(memory[..8], [-0.5; 8]);
}

#[test]
fn texts_and_options() {
    let built = |options: &LionOptions| {
        let mut made = ptr::dangling_mut();
        // SAFETY: the options are right in all but their values.
        let status = unsafe { lion_new(options, &raw mut made) };
        assert!(made.is_null(), "no optimizer where there is an error");
        status
    };
    let json = |json: &str| {
        let json = text(json);
        built(&LionOptions { json: json.as_ptr(), ..options() })
    };
    refused(
        built(&LionOptions { beta_1: 0.0, ..options() }),
        LION_ERROR_VALUE,
        "beta_1 is 0, and must be in (0, 1]",
    );
    let wrong = LionOptions { weight_decay: -2.0, ..options() };
    refused(built(&wrong), LION_ERROR_VALUE, "weight_decay is -2, and must be in [0, inf)");
    let wrong = LionOptions { learning_rate: f64::NAN, ..options() };
    refused(built(&wrong), LION_ERROR_VALUE, "learning_rate is NaN, and must be in [0, inf)");
    refused(
        json(r#"{"beta": 1}"#),
        LION_ERROR_NAME,
        r#"option "beta" does not exist; nearest: beta_1, beta_2"#,
    );
    refused(json("1"), LION_ERROR_VALUE, "the text is 1, and must be an object");
    assert_eq!(json("{"), LION_ERROR_FORMAT);
    let message = "clipnorm is 1 and clipvalue is 1, and at most one of clipnorm, global_clipnorm and clipvalue may be set";
    refused(json(r#"{"clipnorm": 1, "clipvalue": 1}"#), LION_ERROR_VALUE, message);
    let latin = c"\xe9";
    refused(
        built(&LionOptions { json: latin.as_ptr(), ..options() }),
        LION_ERROR_VALUE,
        "json is not UTF-8; expected text in UTF-8",
    );

    let isa = text("mmx");
    let plan = LionPlan {
        struct_size: size_of::<LionPlan>(),
        isa: isa.as_ptr(),
        threads: 0,
        chunk_elements: 0,
        parallel_threshold: 0,
    };
    assert_eq!(built(&LionOptions { plan: &raw const plan, ..options() }), LION_ERROR_NAME);
    assert!(
        last_error().starts_with(r#"backend "mmx" does not exist; available here: "#),
        "{}",
        last_error()
    );

    let c = optimizer();
    let set = |name: &str, value: &str| {
        let (name, value) = (text(name), text(value));
        // SAFETY: texts that end with a zero.
        unsafe { lion_set(c.0, name.as_ptr(), value.as_ptr()) }
    };
    ok(set("weight_decay", "0.1"));
    ok(set("weight_decay", "null"));
    refused(set("beta_2", "2"), LION_ERROR_VALUE, "beta_2 is 2, and must be in [0, 1]");
    assert_eq!(set("use_ema", "true"), LION_ERROR_UNSUPPORTED);
    assert_eq!(set("learning_rate", "fast"), LION_ERROR_FORMAT);
    // SAFETY: an optimizer.
    let status = unsafe { lion_set_learning_rate(c.0, -1.0) };
    refused(status, LION_ERROR_VALUE, "learning_rate is -1, and must be in [0, inf)");

    let register = |name: &str, rank: usize, dtype: u32, options: LionVariableOptions| {
        let (name, shape, mut id) = (text(name), [2_usize, 3], 0);
        // SAFETY: as long as the ranks that are given here, or refused.
        unsafe {
            lion_register(c.0, name.as_ptr(), shape.as_ptr(), rank, dtype, &raw const options, &raw mut id)
        }
    };
    refused(register("a", 2, LION_F32, VARIABLE), LION_ERROR_NAME, r#"variable "a" already exists"#);
    assert_eq!(register("", 2, LION_F32, VARIABLE), LION_ERROR_VALUE);
    refused(register("c", 1025, LION_F32, VARIABLE), LION_ERROR_VALUE, "rank is 1025; expected at most 1024");
    assert_eq!(register("c", 2, 9, VARIABLE), LION_ERROR_VALUE);
    assert_eq!(
        register("c", 2, LION_F32, LionVariableOptions { momentum_dtype: 9, ..VARIABLE }),
        LION_ERROR_VALUE
    );
    let shard = LionVariableOptions { shard_start: 4, shard_end: 7, ..VARIABLE };
    refused(
        register("c", 2, LION_F32, shard),
        LION_ERROR_STEP,
        r#"variable "c": the range 4..7 must be within 0..6"#,
    );
    ok(register("c", 0, LION_F32, VARIABLE));
}

#[test]
fn sizes_of_structs() {
    let mut made = ptr::null_mut();
    let with_size = |size: usize| LionOptions { struct_size: size, ..options() };
    for size in [0, 7, 12, 5000, usize::MAX] {
        // SAFETY: the sizes are refused before more is read.
        let status = unsafe { lion_new(&with_size(size), &raw mut made) };
        let message = format!("options.struct_size is {size}; expected sizeof(LionOptions)");
        refused(status, LION_ERROR_VALUE, &message);
    }

    // An older, shorter struct: the fields that it lacks have their defaults.
    let short = LionOptions { struct_size: 16, learning_rate: 0.25, beta_1: 77.0, ..options() };
    let c = Optimizer::new(Some(&short));
    assert_eq!(c.metrics().next_learning_rate, 0.25);

    // A newer, longer one, with what is unknown here at zero, and with something that is used.
    #[repr(C)]
    struct Newer {
        known: LionOptions,
        unknown: [u64; 2],
    }
    let mut newer = Newer { known: with_size(size_of::<Newer>()), unknown: [0; 2] };
    // SAFETY: as long as it says.
    unsafe {
        ok(lion_new((&raw const newer).cast(), &raw mut made));
        ok(lion_free(made));
        newer.unknown[1] = 1;
        let message = "options: a LionOptions of 72 bytes uses fields that this version lacks";
        refused(lion_new((&raw const newer).cast(), &raw mut made), LION_ERROR_UNSUPPORTED, message);
    }

    // What the library writes is as long as the caller says.
    let mut metrics = LionMetrics { struct_size: 16, iterations: 99, learning_rate: 9.0, ..METRICS };
    // SAFETY: shorter than the struct.
    ok(unsafe { lion_metrics(c.0, &raw mut metrics) });
    assert_eq!((metrics.struct_size, metrics.iterations, metrics.learning_rate), (16, 99, 9.0));

    // The structs of an array are as far apart as the first is long.
    let c = optimizer();
    let mut memory = [0.0_f32; 16];
    let (one, other) = memory.split_at_mut(8);
    let updates = [
        update(0, &mut one.into(), Some((&[1.0_f32; 8]).into())),
        LionUpdate { struct_size: 80, ..update(1, &mut (&mut other[..4]).into(), None) },
    ];
    refused(c.apply(&updates), LION_ERROR_VALUE, "updates[1].struct_size is 80; expected sizeof(LionUpdate)");
}

#[test]
fn steps_out_of_order() {
    let c = optimizer();
    let mut memory = [0.0_f32; 8];
    let gradient = [1.0_f32; 8];
    let whole = update(0, &mut (&mut memory).into(), Some((&gradient).into()));
    let first = LionUpdate { len: 3, range_start: 0, range_end: 3, ..whole };
    // SAFETY: right structs, and tensors that live.
    unsafe {
        let not_open = "this step is not open: it was finished or abandoned, or is of another optimizer";
        refused(lion_part(c.0, &raw const whole, 1), LION_ERROR_STEP, not_open);
        refused(lion_finish(c.0), LION_ERROR_STEP, not_open);
        let mut ranges = 9;
        ok(lion_abandon(c.0, &raw mut ranges));
        assert_eq!(ranges, 0);
        ok(lion_begin(c.0, ptr::null()));
        assert_eq!(lion_begin(c.0, ptr::null()), LION_ERROR_STEP);
        assert_eq!(lion_apply(c.0, &raw const whole, 1), LION_ERROR_STEP);
        ok(lion_part(c.0, &raw const first, 1));
        assert_eq!(lion_part(c.0, &raw const whole, 1), LION_ERROR_STEP);
        ok(lion_abandon(c.0, &raw mut ranges));
        assert_eq!(ranges, 1);
        let mut range = LionRange { struct_size: size_of::<LionRange>(), variable: 9, start: 9, end: 9 };
        ok(lion_abandoned_range(c.0, 0, &raw mut range));
        assert_eq!((range.variable, range.start, range.end), (0, 0, 3));
        let message = "index is 1; expected less than the 1 ranges";
        refused(lion_abandoned_range(c.0, 1, &raw mut range), LION_ERROR_VALUE, message);
        assert_eq!(c.metrics().iterations, 0);
    }
    assert_eq!(memory, [-0.5, -0.5, -0.5, 0.0, 0.0, 0.0, 0.0, 0.0]);

    let json = text(r#"{"global_clipnorm": 1}"#);
    let c = Optimizer::new(Some(&LionOptions { json: json.as_ptr(), ..options() }));
    c.register("a", &[8], Dtype::F32, &VARIABLE);
    // SAFETY: as above.
    unsafe {
        assert_eq!(lion_begin(c.0, ptr::null()), LION_ERROR_STEP, "nothing has been measured");
        let gradient = LionGradient {
            struct_size: size_of::<LionGradient>(),
            variable: 0,
            gradient: gradient.as_ptr().cast(),
            len: 8,
            gradient_dtype: LION_F32,
            reserved: 0,
            range_start: 0,
            range_end: 0,
        };
        ok(lion_measure(c.0, &raw const gradient, 1));
        assert_eq!(lion_measure(c.0, &raw const gradient, 1), LION_ERROR_STEP, "measured before");
        ok(lion_begin(c.0, ptr::null()));
        ok(lion_part(c.0, &raw const whole, 1));
        ok(lion_finish(c.0));
    }
    let metrics = c.metrics();
    let known =
        LION_KNOWS_GRADIENT_NORM | LION_KNOWS_CLIPPED_NORM | LION_KNOWS_CLIPPED | LION_KNOWS_NON_FINITE;
    assert_eq!((metrics.outcome, metrics.known, metrics.clipped), (LION_UPDATED, known, 1));
    assert_eq!((metrics.gradient_norm, metrics.iterations), (8.0_f32.sqrt(), 1));
}

#[test]
fn files() {
    let c = optimizer();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("state");
    let mut memory = [1.0_f32; 8];
    let parameter = update(0, &mut (&mut memory).into(), None);
    assert_eq!(c.load(&path, &[]), LION_ERROR_IO);
    assert_eq!(c.save(&folder.path().join("missing/state"), &[]), LION_ERROR_IO);
    std::fs::write(&path, "nothing").expect("written");
    assert_eq!(c.load(&path, &[]), LION_ERROR_FORMAT);
    ok(c.save(&path, &[]));
    refused(c.load(&path, &[parameter]), LION_ERROR_STATE, "param/a: is missing");
    ok(c.save(&path, &[parameter]));
    let short = LionUpdate { len: 7, ..parameter };
    let message = r#"parameters[0].variable "a": the parameter has 7 elements, and its shape has 8"#;
    refused(c.save(&path, &[short]), LION_ERROR_TENSOR, message);
    refused(c.load(&path, &[short]), LION_ERROR_TENSOR, message);
    assert_eq!(c.load(&path, &[LionUpdate { variable: 7, ..parameter }]), LION_ERROR_NAME);
    let other = Optimizer::new(None);
    other.register("z", &[8], Dtype::F32, &VARIABLE);
    assert_eq!(other.load(&path, &[]), LION_ERROR_STATE);
    memory.fill(0.0);
    ok(c.load(&path, &[parameter]));
    assert_eq!(memory, [1.0; 8]);
}

/// What a host does in its function for threads, and what it sees there.
struct Host {
    optimizer: *mut LionOptimizer,
    calls: AtomicUsize,
    busy: AtomicUsize,
}

/// Runs the workers backwards, and one of them twice; and tries to use the optimizer meanwhile.
///
/// # Safety
/// `context` is a `Host`; `run` and `work` are the library's, of a call that has not returned.
unsafe extern "C" fn host(context: *mut c_void, n: usize, run: LionWork, work: *mut c_void) {
    // SAFETY: what the test has given.
    let host = unsafe { &*context.cast::<Host>() };
    host.calls.fetch_add(1, Ordering::Relaxed);
    let mut metrics = METRICS;
    // SAFETY: right arguments, at a wrong time.
    let status = unsafe { lion_metrics(host.optimizer, &raw mut metrics) };
    host.busy.fetch_add(usize::from(status == LION_ERROR_BUSY), Ordering::Relaxed);
    // SAFETY: still in the call.
    assert_eq!(unsafe { lion_free(host.optimizer) }, LION_ERROR_BUSY);
    for worker in (0..n).rev().chain([0, usize::MAX]) {
        // SAFETY: the library's work.
        unsafe { run(work, worker) };
    }
}

#[test]
fn the_hosts_threads() {
    let plan = LionPlan {
        struct_size: size_of::<LionPlan>(),
        isa: ptr::null(),
        threads: 0,
        chunk_elements: 4096,
        parallel_threshold: 1,
    };
    let c = Optimizer::new(Some(&LionOptions { learning_rate: 0.25, ..options() }));
    let len = 50_000;
    c.register("a", &[len], Dtype::F32, &VARIABLE);
    let mut context = Host { optimizer: c.0, calls: AtomicUsize::new(0), busy: AtomicUsize::new(0) };
    let (mut parameter, gradient) = (vec![1.0_f32; len], vec![1.0_f32; len]);
    let step = update(0, &mut (&mut parameter).into(), Some((&gradient).into()));
    // SAFETY: the context lives until the function is replaced.
    unsafe {
        ok(lion_set_plan(c.0, &raw const plan));
        ok(lion_set_parallel_for(c.0, 3, Some(host), (&raw mut context).cast()));
        ok(lion_apply(c.0, &raw const step, 1));
        ok(lion_set_parallel_for(c.0, 3, None, ptr::null_mut()));
        ok(lion_apply(c.0, &raw const step, 1));
        ok(lion_set_plan(c.0, ptr::null()));
    }
    assert_eq!((context.calls.into_inner(), context.busy.into_inner()), (1, 1));
    assert!(parameter.iter().all(|&value| value == 0.5));
}

/// Calls of two threads at once: each is done as a whole, or refused as busy.
#[test]
fn two_threads_in_one_optimizer() {
    let c = optimizer();
    let address = c.0.expose_provenance();
    let calls = || {
        let optimizer = ptr::with_exposed_provenance_mut(address);
        let (mut parameter, gradient) = ([0.0_f32; 8], [1.0_f32; 8]);
        let step = update(0, &mut (&mut parameter).into(), Some((&gradient).into()));
        let (mut applied, mut busy) = (0, 0);
        while applied < 20_000 {
            // SAFETY: an optimizer that lives, and tensors of this thread's own.
            match unsafe { lion_apply(optimizer, &raw const step, 1) } {
                LION_OK => applied += 1,
                LION_ERROR_BUSY => busy += 1,
                status => panic!("{status}: {}", last_error()),
            }
        }
        assert_eq!(parameter, [-10_000.0; 8]);
        busy
    };
    let busy: u64 = std::thread::scope(|scope| {
        let threads = [scope.spawn(calls), scope.spawn(calls)];
        threads.map(|thread| thread.join().expect("no panic")).into_iter().sum()
    });
    println!("{busy} calls were refused");
    assert_eq!(c.metrics().iterations, 40_000);
}

#[test]
fn huge_pages_of_any_memory() {
    let mut memory = vec![1_u8; 5 << 20];
    let mut pages =
        LionHugePages { struct_size: size_of::<LionHugePages>(), whole: 9, collapsed: 9, advised: 9 };
    // SAFETY: the memory lives, and the struct has its size.
    unsafe {
        ok(lion_advise_huge_pages(memory.as_mut_ptr().add(1).cast(), memory.len() - 1, &raw mut pages));
        assert!((1..=2).contains(&pages.whole) && pages.collapsed <= pages.whole && pages.advised <= 1);
        ok(lion_advise_huge_pages(memory.as_mut_ptr().cast(), 5, ptr::null_mut()));
        assert_eq!(
            lion_advise_huge_pages(memory.as_mut_ptr().cast(), usize::MAX, ptr::null_mut()),
            LION_ERROR_POINTER
        );
    }
    assert!(memory.iter().all(|&byte| byte == 1));
}
