//! Backends: one table of instruction sets. It generates the enum, the names, the detection, and the kernel dispatch.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::error::Error;
use crate::float_state::IeeeState;
use crate::isa::{self, Isa, Kernel};

/// Rows: variant, name, token, compilation targets, detection, documentation; from the slowest to the fastest. A row's
/// detection must check everything that `new_unchecked` of its token requires.
macro_rules! backends {
    ($($variant:ident, $name:literal, $token:ty, $target:meta, $detect:expr, $what:literal;)+) => {
        /// An instruction set that kernels are compiled for. All backends give the same bits, except that the sign and
        /// payload of a NaN may differ.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Backend {
            $(#[doc = $what] $variant,)+
        }

        impl Backend {
            /// All backends of the library, available or not, from the slowest to the fastest.
            pub const ALL: &'static [Backend] = &[$(Backend::$variant),+];

            /// Returns the name that `LION_ISA` accepts.
            pub const fn name(self) -> &'static str {
                match self { $(Backend::$variant => $name,)+ }
            }

            fn detect(self) -> bool {
                match self {
                    $(
                        #[cfg($target)]
                        Backend::$variant => $detect,
                        #[cfg(not($target))]
                        Backend::$variant => false,
                    )+
                }
            }

            /// Runs a kernel with this backend's instruction set, under the IEEE default floating-point state.
            #[inline]
            pub(crate) fn run<K: Kernel>(self, kernel: K) -> Result<K::Output, Error> {
                if !self.is_available() {
                    return Err(Error::UnavailableBackend { backend: self });
                }
                let _state = IeeeState::enter();
                match self {
                    $(
                        #[cfg($target)]
                        // SAFETY: the row's detection, checked above, covers what its token requires.
                        Backend::$variant => Ok(unsafe { <$token>::new_unchecked() }.vectorize(kernel)),
                        #[cfg(not($target))]
                        Backend::$variant => Err(Error::UnavailableBackend { backend: self }),
                    )+
                }
            }
        }
    };
}

backends! {
    Scalar, "scalar", isa::scalar::Scalar, all(), true,
        "Plain Rust, on every processor.";
    Neon, "neon", isa::neon::Neon, target_arch = "aarch64", true,
        "NEON, on every 64-bit Arm processor.";
    Avx2, "avx2", isa::avx2::Avx2, any(target_arch = "x86", target_arch = "x86_64"), x86::avx2(),
        "AVX2 with FMA and F16C.";
    Avx512, "avx512", isa::avx512::Avx512, any(target_arch = "x86", target_arch = "x86_64"), x86::avx512(),
        "AVX-512 F, BW, VL and DQ.";
    Avx512Bf16, "avx512bf16", isa::avx512::Avx512<isa::avx512::bf16::Bf16>,
        any(target_arch = "x86", target_arch = "x86_64"), x86::avx512bf16(),
        "AVX-512 F, BW, VL, DQ and BF16.";
}

/// The detection result: one bit per backend, one for profitable prefetching, one for completed detection.
static DETECTED: AtomicU8 = AtomicU8::new(0);
const KNOWN: u8 = 0x80;
const PREFETCH: u8 = 0x40;
const _: () = assert!(Backend::ALL.len() < 7);

#[inline]
fn detected() -> u8 {
    match DETECTED.load(Ordering::Relaxed) {
        0 => detect_all(),
        known => known,
    }
}

/// Returns whether software prefetch speeds up streams from beyond the L2 cache. On Intel's server cores, a step with
/// prefetch runs at the bandwidth bound; without prefetch, 16-bit formats are up to a third slower. On AMD's Zen 4,
/// prefetch is reported to be slower.
#[inline]
pub(crate) fn prefetch_is_profitable() -> bool {
    detected() & PREFETCH != 0
}

impl Backend {
    /// Returns whether the processor and the operating system support the backend. Detection runs once.
    #[inline]
    pub fn is_available(self) -> bool {
        detected() & (1 << self as u8) != 0
    }

    /// Returns the backends of this machine, from the slowest to the fastest.
    pub fn available() -> impl Iterator<Item = Backend> {
        Self::ALL.iter().copied().filter(|backend| backend.is_available())
    }

    /// Returns the fastest backend of this machine.
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Backend::Scalar)
    }

    /// Returns the backend that `LION_ISA` names, or the fastest if the variable is unset, empty or `auto`.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`] or [`Error::UnavailableBackend`]. Both list the available backends.
    #[cfg(feature = "std")]
    pub fn from_env() -> Result<Self, Error> {
        match std::env::var_os("LION_ISA").filter(|name| !name.is_empty()) {
            None => Ok(Self::best()),
            Some(name) => Self::from_name(&name.to_string_lossy()),
        }
    }

    /// Returns the backend of the given name; `auto` is the fastest.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`] or [`Error::UnavailableBackend`]. Both list the available backends.
    pub fn from_name(name: &str) -> Result<Self, Error> {
        if name == "auto" {
            return Ok(Self::best());
        }
        let backend = Self::ALL
            .iter()
            .copied()
            .find(|backend| backend.name() == name)
            .ok_or_else(|| Error::UnknownBackend { name: name.into() })?;
        backend.ensure_available()
    }

    /// Returns this backend if it is available.
    ///
    /// # Errors
    /// [`Error::UnavailableBackend`], which lists the available backends.
    pub fn ensure_available(self) -> Result<Self, Error> {
        if self.is_available() { Ok(self) } else { Err(Error::UnavailableBackend { backend: self }) }
    }

    /// Returns the names of the available backends, separated by commas.
    pub fn available_names() -> String {
        Self::available().map(Backend::name).collect::<Vec<_>>().join(", ")
    }
}

impl core::fmt::Display for Backend {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(self.name())
    }
}

impl core::str::FromStr for Backend {
    type Err = Error;

    fn from_str(name: &str) -> Result<Self, Error> {
        Self::from_name(name)
    }
}

#[cold]
fn detect_all() -> u8 {
    #[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
    let known = if x86::intel() { KNOWN | PREFETCH } else { KNOWN };
    #[cfg(not(any(target_arch = "x86", target_arch = "x86_64")))]
    let known = KNOWN;
    let detected = Backend::ALL
        .iter()
        .filter(|backend| backend.detect())
        .fold(known, |bits, backend| bits | 1 << *backend as u8);
    DETECTED.store(detected, Ordering::Relaxed);
    detected
}

/// Detection on x86. The crate cpufeatures also checks that the operating system saves the wide registers.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
mod x86 {
    #[cfg(target_arch = "x86")]
    use core::arch::x86::{__cpuid, __cpuid_count};
    #[cfg(target_arch = "x86_64")]
    use core::arch::x86_64::{__cpuid, __cpuid_count};

    cpufeatures::new!(cpu_avx2, "avx2", "fma");
    cpufeatures::new!(cpu_avx512, "avx512f", "avx512bw", "avx512vl", "avx512dq");

    /// Returns whether the processor has F16C, which cpufeatures does not know. Its registers are those of AVX2.
    fn f16c() -> bool {
        __cpuid(1).ecx & (1 << 29) != 0
    }

    /// Returns whether the processor has AVX-512 BF16, which cpufeatures does not know. Its registers are those of AVX-512.
    fn bf16() -> bool {
        __cpuid(7).eax >= 1 && __cpuid_count(7, 1).eax & (1 << 5) != 0
    }

    pub(super) fn intel() -> bool {
        let vendor = __cpuid(0);
        [vendor.ebx, vendor.edx, vendor.ecx].map(u32::to_le_bytes).concat() == b"GenuineIntel"
    }

    pub(super) fn avx2() -> bool {
        cpu_avx2::get() && f16c()
    }

    pub(super) fn avx512() -> bool {
        cpu_avx512::get()
    }

    pub(super) fn avx512bf16() -> bool {
        avx512() && bf16()
    }
}
