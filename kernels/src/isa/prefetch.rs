//! The hint that every processor of an architecture has, whatever its vectors.

/// Says that the cache line at an address will soon be read, so that reading it need not wait for memory. The address
/// may be any, and where nothing can be read at it nothing happens; nor does it on an architecture other than x86-64.
///
/// A framework's adapter that must look at thousands of scattered records asks for each some places ahead.
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
    // SAFETY: a hint that reads nothing, of any address; SSE is part of the architecture.
    unsafe {
        core::arch::x86_64::_mm_prefetch::<{ core::arch::x86_64::_MM_HINT_T0 }>(
            core::ptr::without_provenance(address),
        );
    }
    #[cfg(not(target_arch = "x86_64"))]
    let _ = address;
}
