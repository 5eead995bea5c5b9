//! Shared helpers of the workspace's tests: tensors between canaries, values of every class, comparison by bits, and a
//! macro that runs the same tests on each backend.
//!
//! The tests are in `tests/`, one file per subject.

#[cfg(doctest)]
mod pages {
    //! The examples of the READMEs and of the guide are compiled and run.

    #[doc = include_str!("../../README.md")]
    struct Workspace;

    #[doc = include_str!("../../kernels/README.md")]
    struct Kernels;

    #[doc = include_str!("../../autotune/README.md")]
    struct Autotune;

    #[doc = include_str!("../../docs/start.md")]
    struct Start;

    #[doc = include_str!("../../docs/formats.md")]
    struct Formats;

    #[doc = include_str!("../../docs/resume.md")]
    struct Resume;

    #[doc = include_str!("../../docs/embed.md")]
    struct Embed;
}

#[cfg(doctest)]
mod two_threads {
    //! One thread at a time is in an optimizer's call:
    //!
    //! ```
    //! let mut optimizer = lion::Lion::builder().build().expect("valid");
    //! std::thread::scope(|scope| {
    //!     scope.spawn(|| optimizer.apply(&mut []).map(drop));
    //! });
    //! ```
    //!
    //! A second one does not compile.
    //!
    //! ```compile_fail,E0499
    //! let mut optimizer = lion::Lion::builder().build().expect("valid");
    //! std::thread::scope(|scope| {
    //!     scope.spawn(|| optimizer.apply(&mut []).map(drop));
    //!     scope.spawn(|| optimizer.apply(&mut []).map(drop));
    //! });
    //! ```
}

pub mod alone;
mod case;
pub mod counting;
mod guarded;
pub mod model;
pub mod parts;
pub mod safetensors;
pub mod scenario;
pub mod simulated;
mod state;
mod stored;
mod values;

pub use case::{Case, PLAIN, settings};
pub use fastrand::Rng;
pub use guarded::Guarded;
pub use state::checkpoint_text;
pub use stored::{Draws, Stored, StoredCase};
pub use values::{Sample, bits, fill, ordinary, tensor_bits, values, widened};

use lion_kernels::Backend;

/// Runs a test on a backend, or prints why it is skipped.
///
/// The variable `LION_EXPECT_BACKENDS` lists the backends that must be available, separated by commas. The test of a
/// listed backend fails if the backend is unavailable.
pub fn on(backend: Backend, test: impl FnOnce(Backend)) {
    if backend.is_available() {
        return test(backend);
    }
    let expected = std::env::var("LION_EXPECT_BACKENDS").unwrap_or_default();
    assert!(
        !expected.split(',').any(|name| name == backend.name()),
        "the backend {backend} is expected here and is not available"
    );
    println!("skipped: this processor has no {backend}");
}

/// Generates a module of tests for each backend, from functions that take the backend.
#[macro_export]
macro_rules! on_each_backend {
    ($($test:ident),+ $(,)?) => {
        $crate::on_each_backend!(@modules [scalar Scalar, neon Neon, avx2 Avx2, avx512 Avx512, avx512bf16 Avx512Bf16] [$($test),+]);
    };
    (@modules [$($module:ident $backend:ident),+] $tests:tt) => {
        $($crate::on_each_backend!(@module $module $backend $tests);)+

        #[test]
        fn no_backend_is_forgotten() {
            assert_eq!([$(lion_kernels::Backend::$backend),+], lion_kernels::Backend::ALL);
        }
    };
    (@module $module:ident $backend:ident [$($test:ident),+]) => {
        mod $module {
            $(
                #[test]
                fn $test() {
                    $crate::on(lion_kernels::Backend::$backend, super::$test);
                }
            )+
        }
    };
}

/// Calls a generic function with a backend for every triple of formats of parameter, gradient and momentum.
#[macro_export]
macro_rules! for_each_triple {
    ($function:ident, $backend:expr) => {
        $crate::for_each_triple!(@p $function, $backend, [f32, half::f16, half::bf16]);
    };
    (@p $function:ident, $backend:expr, [$($p:ty),+]) => {
        $($crate::for_each_triple!(@g $function, $backend, $p, [f32, half::f16, half::bf16]);)+
    };
    (@g $function:ident, $backend:expr, $p:ty, [$($g:ty),+]) => {
        $($crate::for_each_triple!(@m $function, $backend, $p, $g, [f32, half::f16, half::bf16]);)+
    };
    (@m $function:ident, $backend:expr, $p:ty, $g:ty, [$($m:ty),+]) => {
        $($function::<$p, $g, $m>($backend);)+
    };
}
