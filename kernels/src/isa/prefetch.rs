//! Software prefetch: a hint for each level of cache, independent of the vector set.

/// Prefetches the cache line at an address into the L1 cache. Every address is allowed: the processor ignores addresses
/// that it cannot read. Does nothing on architectures other than x86-64.
///
/// For example, an adapter that reads thousands of scattered records prefetches each record a few iterations ahead.
///
/// ```
/// let records: Vec<Box<u64>> = (0..100).map(Box::new).collect();
/// let mut sum = 0;
/// for (place, record) in records.iter().enumerate() {
///     if let Some(ahead) = records.get(place + 8) {
///         lion_kernels::prefetch(std::ptr::from_ref(&**ahead).addr());
///     }
///     sum += **record;
/// }
/// assert_eq!(sum, 4950);
/// ```
#[inline(always)]
pub fn prefetch(address: usize) {
    #[cfg(target_arch = "x86_64")]
    hint::<{ core::arch::x86_64::_MM_HINT_T0 }>(address);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

/// Like [`prefetch`], but into the L2 cache, for data that is needed later.
#[inline(always)]
pub(crate) fn prefetch_to_l2(address: usize) {
    #[cfg(target_arch = "x86_64")]
    hint::<{ core::arch::x86_64::_MM_HINT_T1 }>(address);
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}

#[cfg(target_arch = "x86_64")]
#[inline(always)]
fn hint<const LEVEL: i32>(address: usize) {
    // SAFETY: prefetch is a hint and never faults, for any address; SSE is part of the architecture.
    unsafe { core::arch::x86_64::_mm_prefetch::<LEVEL>(core::ptr::without_provenance(address)) }
}
