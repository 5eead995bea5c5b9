//! The backends: one table, from which the enum, its names, detection and the dispatch of kernels follow.

use alloc::string::String;
use alloc::vec::Vec;
use core::sync::atomic::{AtomicU8, Ordering};

use crate::error::Error;
use crate::float_state::IeeeState;
use crate::isa::{self, Isa, Kernel};

/// Rows: variant, name, token, the targets it is compiled for, detection, documentation; from the slowest to the
/// fastest. The detection of a row is what `new_unchecked` of its token demands.
macro_rules! backends {
    ($($variant:ident, $name:literal, $token:ty, $target:meta, $detect:expr, $what:literal;)+) => {
        /// An instruction set that kernels are compiled for. All give the same bits; of a NaN only that it is one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum Backend {
            $(#[doc = $what] $variant,)+
        }

        impl Backend {
            /// Every backend that the library knows, on this machine or not, from the slowest to the fastest.
            pub const ALL: &'static [Backend] = &[$(Backend::$variant),+];

            /// The name, as `LION_ISA` takes it.
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
                        // SAFETY: the row's detection, asked for above, is what its token demands.
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
        "Plain Rust, on every machine.";
    Neon, "neon", isa::neon::Neon, target_arch = "aarch64", true,
        "NEON on 64-bit Arm, which always has it.";
    Avx2, "avx2", isa::avx2::Avx2, any(target_arch = "x86", target_arch = "x86_64"), x86::avx2(),
        "AVX2 with FMA and F16C.";
    Avx512, "avx512", isa::avx512::Avx512, any(target_arch = "x86", target_arch = "x86_64"), x86::avx512(),
        "AVX-512 F, BW, VL and DQ.";
}

/// A bit per backend, one for prefetching, and one that says that the others have been found.
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

/// Whether a stream that comes from beyond the second-level cache is faster with prefetching in software. It is on
/// Intel's server cores, where a step then runs at the streaming limit and without it up to a third slower in 16-bit
/// formats; on AMD's Zen 4 it is reported slower, and off.
#[inline]
pub(crate) fn prefetch_is_profitable() -> bool {
    detected() & PREFETCH != 0
}

impl Backend {
    /// Whether this machine and its operating system support the backend. Looked up once, then remembered.
    #[inline]
    pub fn is_available(self) -> bool {
        detected() & (1 << self as u8) != 0
    }

    /// The backends of this machine, from the slowest to the fastest.
    pub fn available() -> impl Iterator<Item = Backend> {
        Self::ALL.iter().copied().filter(|backend| backend.is_available())
    }

    /// The fastest backend of this machine.
    pub fn best() -> Self {
        Self::available().last().unwrap_or(Backend::Scalar)
    }

    /// The backend that `LION_ISA` names, or the fastest where the variable is not set, empty or `auto`.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`] and [`Error::UnavailableBackend`], each listing what there is.
    #[cfg(feature = "std")]
    pub fn from_env() -> Result<Self, Error> {
        match std::env::var_os("LION_ISA").filter(|name| !name.is_empty()) {
            None => Ok(Self::best()),
            Some(name) => Self::from_name(&name.to_string_lossy()),
        }
    }

    /// The backend of that name; `auto` is the fastest.
    ///
    /// # Errors
    /// [`Error::UnknownBackend`] and [`Error::UnavailableBackend`], each listing what there is.
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

    /// This backend, if the machine has it.
    ///
    /// # Errors
    /// [`Error::UnavailableBackend`], listing what there is.
    pub fn ensure_available(self) -> Result<Self, Error> {
        if self.is_available() { Ok(self) } else { Err(Error::UnavailableBackend { backend: self }) }
    }

    /// The names of this machine's backends, as one text.
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

/// cpufeatures asks the operating system too whether it keeps the wide registers.
#[cfg(any(target_arch = "x86", target_arch = "x86_64"))]
mod x86 {
    #[cfg(target_arch = "x86")]
    use core::arch::x86::__cpuid;
    #[cfg(target_arch = "x86_64")]
    use core::arch::x86_64::__cpuid;

    cpufeatures::new!(cpu_avx2, "avx2", "fma");
    cpufeatures::new!(cpu_avx512, "avx512f", "avx512bw", "avx512vl", "avx512dq");

    /// F16C is the one feature that cpufeatures does not know; its registers are AVX's.
    fn f16c() -> bool {
        __cpuid(1).ecx & (1 << 29) != 0
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
}
