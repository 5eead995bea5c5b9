//! The IEEE default floating-point state while a kernel runs: round to nearest even, subnormals kept.
//!
//! A host may have set another: `torch.set_flush_denormal`, or a library linked with -ffast-math, which sets
//! flush-to-zero in every thread that is made afterwards. The arithmetic here would then give other bits, in silence.
//! So every entry to a kernel holds an [`IeeeState`], on whatever thread. It reads the control register, writes it only
//! if it differs in what affects results, and puts the caller's state back when it goes.
//!
//! The control register is MXCSR on x86-64 and FPCR on 64-bit Arm. Other architectures have none that is known here.

use core::hint::black_box;

/// Holds the IEEE default state on this thread until it is dropped.
#[must_use]
pub(crate) struct IeeeState {
    /// The caller's state, if it was another.
    callers: Option<Register>,
}

impl IeeeState {
    #[inline(always)]
    pub(crate) fn enter() -> Self {
        let found = read();
        let default = found & !RESULTS | DEFAULT;
        if found == default {
            return IeeeState { callers: None };
        }
        write(default);
        IeeeState { callers: Some(found) }
    }
}

impl Drop for IeeeState {
    #[inline(always)]
    fn drop(&mut self) {
        if let Some(callers) = self.callers {
            // Flags that the kernel raised stay raised.
            write(callers | read() & FLAGS);
        }
    }
}

/// Runs a function under the IEEE default floating-point state, and puts the caller's state back, whatever it was.
///
/// Tasks do this themselves. A caller that computes learning rates or other hyperparameters in a thread whose state may
/// differ wraps that arithmetic in it.
///
/// ```
/// assert_eq!(lion_kernels::with_ieee_state(|| 0.1_f32 + 0.2), 0.3);
/// ```
#[inline]
pub fn with_ieee_state<T>(compute: impl FnOnce() -> T) -> T {
    /// In a function of its own. The compiler knows nothing of the state and could move arithmetic past its change, or even
    /// a call that only computes: what goes in is made opaque after the one change, and what comes out before the other.
    #[inline(never)]
    fn apart<T>(compute: impl FnOnce() -> T) -> T {
        compute()
    }
    let _state = IeeeState::enter();
    black_box(apart(black_box(compute)))
}

#[cfg(target_arch = "x86_64")]
mod register {
    use core::arch::asm;

    pub(super) type Register = u32;
    /// Flush-to-zero, rounding, the exceptions that trap, denormals-are-zero.
    pub(super) const RESULTS: u32 = 0xffc0;
    /// Nothing traps.
    pub(super) const DEFAULT: u32 = 0x1f80;
    pub(super) const FLAGS: u32 = 0x3f;

    #[inline(always)]
    pub(super) fn read() -> u32 {
        let mut value = 0_u32;
        // SAFETY: stores MXCSR to a place of four bytes; SSE is part of the architecture.
        unsafe { asm!("stmxcsr [{}]", in(reg) &raw mut value, options(nostack, preserves_flags)) };
        value
    }

    #[inline(always)]
    pub(super) fn write(value: u32) {
        // SAFETY: loads MXCSR from a place of four bytes. The value is one that was read, or differs in bits that every
        // processor of the architecture has.
        unsafe { asm!("ldmxcsr [{}]", in(reg) &raw const value, options(nostack, preserves_flags)) };
    }
}

#[cfg(target_arch = "aarch64")]
mod register {
    use core::arch::asm;

    pub(super) type Register = u64;
    /// Alternative half precision, default NaN, flush-to-zero (of halves too), rounding, the exceptions that trap, and
    /// the three bits of FEAT_AFP.
    pub(super) const RESULTS: u64 = 0x07c8_9f07;
    pub(super) const DEFAULT: u64 = 0;
    /// They are in another register, which is not written.
    pub(super) const FLAGS: u64 = 0;

    #[inline(always)]
    pub(super) fn read() -> u64 {
        let value: u64;
        // SAFETY: reads a register that every process may read.
        unsafe { asm!("mrs {}, fpcr", out(reg) value, options(nomem, nostack, preserves_flags)) };
        value
    }

    #[inline(always)]
    pub(super) fn write(value: u64) {
        // SAFETY: writes a register that every process may write; the value clears bits, or was read.
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
