//! The IEEE default floating-point state while a kernel runs: round to nearest even, keep subnormals.
//!
//! The host may have changed the state. `torch.set_flush_denormal` does so, and a library linked with -ffast-math sets
//! flush-to-zero in every thread created later. The kernels would then silently give different bits. So every kernel
//! entry holds an [`IeeeState`]. It reads the control register, and writes it only if bits that affect results differ.
//! Dropping it restores the caller's state.
//!
//! The control register is MXCSR on x86-64 and FPCR on 64-bit Arm. On other architectures, nothing is read or set.

use core::hint::black_box;

/// A guard that holds the IEEE default state on this thread until it is dropped.
#[must_use]
pub(crate) struct IeeeState {
    /// The caller's state, if it differed.
    saved: Option<Register>,
}

impl IeeeState {
    #[inline(always)]
    pub(crate) fn enter() -> Self {
        let found = read();
        let default = found & !RESULTS | DEFAULT;
        if found == default {
            return IeeeState { saved: None };
        }
        write(default);
        IeeeState { saved: Some(found) }
    }
}

impl Drop for IeeeState {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(saved) = self.saved {
            // Exception flags that the kernel raised stay raised.
            write(saved | read() & FLAGS);
        }
    }
}

/// Runs a function under the IEEE default floating-point state, then restores the caller's state.
///
/// Tasks do this themselves. Use it to compute learning rates or other hyperparameters on a thread whose state may
/// differ.
///
/// ```
/// assert_eq!(lion_kernels::with_ieee_state(|| 0.1_f32 + 0.2), 0.3);
/// ```
#[inline]
pub fn with_ieee_state<T>(compute: impl FnOnce() -> T) -> T {
    /// Keeps the arithmetic between the two state changes. The compiler does not model the state, so it could move
    /// arithmetic, or a pure call, across a change. A separate function and two black boxes prevent that: the input
    /// becomes opaque after the first change, and the output before the second.
    #[inline(never)]
    fn isolated<T>(compute: impl FnOnce() -> T) -> T {
        compute()
    }
    let _state = IeeeState::enter();
    black_box(isolated(black_box(compute)))
}

#[cfg(target_arch = "x86_64")]
mod register {
    use core::arch::asm;

    pub(super) type Register = u32;
    /// The bits that affect results: flush-to-zero, rounding mode, exception masks, denormals-are-zero.
    pub(super) const RESULTS: u32 = 0xffc0;
    /// All exceptions masked.
    pub(super) const DEFAULT: u32 = 0x1f80;
    pub(super) const FLAGS: u32 = 0x3f;

    #[inline(always)]
    pub(super) fn read() -> u32 {
        let mut value = 0_u32;
        // SAFETY: stores MXCSR to a variable of four bytes; SSE is part of the architecture.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
        value
    }

    #[inline(always)]
    pub(super) fn write(value: u32) {
        // SAFETY: loads MXCSR from a variable of four bytes. The value was read from it, or differs from such a value
        // only in bits that every processor of the architecture has.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod register {
    use core::arch::asm;

    pub(super) type Register = u64;
    /// The bits that affect results: alternative half precision, default NaN, flush-to-zero (also of halves), rounding
    /// mode, exception traps, and the three bits of FEAT_AFP.
    pub(super) const RESULTS: u64 = 0x07c8_9f07;
    pub(super) const DEFAULT: u64 = 0;
    /// None: the exception flags are in another register, which is not written.
    pub(super) const FLAGS: u64 = 0;

    #[inline(always)]
    pub(super) fn read() -> u64 {
        let value: u64;
        // SAFETY: reads a register that user code may read.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    #[inline(always)]
    pub(super) fn write(value: u64) {
        // SAFETY: writes a register that user code may write. The value was read from it, or has some of its bits
        // cleared.
        unsafe { asm!("msr fpcr, {}", in(reg) value, options(nomem, nostack, preserves_flags)) };
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
mod register {
    pub(super) type Register = u32;
    pub(super) const RESULTS: u32 = 0;
    pub(super) const DEFAULT: u32 = 0;
    pub(super) const FLAGS: u32 = 0;

    pub(super) fn read() -> u32 {
        0
    }

    pub(super) fn write(_: u32) {}
}

use register::{DEFAULT, FLAGS, RESULTS, Register, read, write};
