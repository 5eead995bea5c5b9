//! State memory: aligned, zeroed, whole.

use half::bf16;
use lion_kernels::Buffer;

#[test]
fn buffers_are_aligned_zeroed_and_writable_to_the_end() {
    for len in [0, 1, 15, 4096, (2 << 20) / 4 - 1, (2 << 20) / 4, 3_000_000] {
        let mut buffer = Buffer::<f32>::zeroed(len).expect("memory");
        let boundary = if len * 4 < 2 << 20 { 64 } else { 2 << 20 };
        assert!(len == 0 || (buffer.as_ptr() as usize).is_multiple_of(boundary), "{len} elements");
        assert!(buffer.iter().all(|value| value.to_bits() == 0));
        buffer.fill(1.5);
        assert_eq!(buffer.len(), len);
        let copy = buffer.clone();
        drop(buffer);
        assert!(copy.iter().all(|value| *value == 1.5));
    }
    assert_eq!(Buffer::<bf16>::zeroed(7).expect("memory")[..], [bf16::ZERO; 7]);
}

#[test]
fn buffers_cross_threads() {
    let buffer = Buffer::<f32>::zeroed(100).expect("memory");
    let sum: f32 = std::thread::spawn(move || buffer.iter().sum()).join().expect("no panic");
    assert_eq!(sum, 0.0);
}
