//! State memory: alignment, zeros, growth and copies.

use half::{bf16, f16};
use lion_kernels::{AlignedBuffer, Arena, Dtype, Error, TensorBuf, TensorMut, TensorRef, advise_huge_pages};
use lion_tests::{Rng, Sample, tensor_bits, with_sample};

#[test]
fn buffers_are_aligned_zeroed_and_writable_to_the_end() {
    for len in [0, 1, 15, 4096, (2 << 20) / 4 - 1, (2 << 20) / 4, 3_000_000] {
        let mut buffer = AlignedBuffer::<f32>::zeroed(len).expect("memory");
        let boundary = if len * 4 < 2 << 20 { 64 } else { 2 << 20 };
        assert!(len == 0 || (buffer.as_ptr() as usize).is_multiple_of(boundary), "{len} elements");
        assert!(buffer.iter().all(|value| value.to_bits() == 0));
        buffer.fill(1.5);
        assert_eq!(buffer.len(), len);
        let copy = buffer.clone();
        drop(buffer);
        assert!(copy.iter().all(|value| *value == 1.5));
    }
    assert_eq!(AlignedBuffer::<bf16>::zeroed(7).expect("memory")[..], [bf16::ZERO; 7]);
}

#[test]
fn values_know_their_format_and_length() {
    for &dtype in Dtype::ALL {
        for len in [0, 1, 2] {
            let mut values = TensorBuf::zeroed(dtype, len).expect("memory");
            assert_eq!((values.dtype(), values.len(), values.is_empty()), (dtype, len, len == 0));
            let tensor = values.to_mut();
            assert_eq!((tensor.dtype(), tensor.len(), tensor.is_empty()), (dtype, len, len == 0));
            let tensor = tensor.to_ref();
            assert_eq!((tensor.dtype(), tensor.len(), tensor.is_empty()), (dtype, len, len == 0));
        }
    }
}

#[test]
fn parts_of_tensors_and_copies_between_them() {
    let mut to = TensorBuf::zeroed(Dtype::F16, 5).expect("memory");
    let from = [1.0, 2.0].map(f16::from_f32);
    for range in [4..6, 6..6] {
        assert_eq!(to.to_ref().range(range.clone()).is_err(), range.end > 5, "{range:?}");
        assert_eq!(to.to_mut().range(range.clone()).is_err(), range.end > 5, "{range:?}");
    }
    let mut part = to.to_mut().range(2..4).expect("within");
    assert!(part.copy_from(TensorRef::from(&from[..])));
    assert!(!part.copy_from(TensorRef::from(&from[..1])), "another length");
    assert!(!part.copy_from(TensorRef::from(&[1.0_f32, 2.0][..])), "another format");
    assert_eq!(tensor_bits(to.to_ref().range(1..5).expect("within")), [0, 0x3c00, 0x4000, 0]);
    assert_eq!(tensor_bits(TensorRef::from(to.to_mut())), [0, 0, 0x3c00, 0x4000, 0]);
}

#[test]
fn buffers_cross_threads() {
    let buffer = AlignedBuffer::<f32>::zeroed(100).expect("memory");
    let sum: f32 = std::thread::spawn(move || buffer.iter().sum()).join().expect("no panic");
    assert_eq!(sum, 0.0);
}

#[test]
fn arenas_hold_every_tensor_apart_and_zero() {
    let mut rng = Rng::with_seed(0xa1);
    for round in 0..40 {
        let mut arena = Arena::new();
        let mut expected: Vec<(Dtype, Vec<u32>)> = Vec::new();
        for turn in 0..rng.usize(1..60) {
            if rng.usize(..8) == 0 {
                let len = rng.usize(..=arena.len());
                arena.truncate(len);
                expected.truncate(len);
            }
            let dtype = Dtype::ALL[rng.usize(..Dtype::ALL.len())];
            let len = if rng.usize(..20) == 0 { rng.usize(..1 << 20) } else { rng.usize(..300) };
            assert_eq!(arena.push(dtype, len), Ok(expected.len()), "round {round}, tensor {turn}");
            let entries: usize = dtype.streams().iter().map(|stream| len.div_ceil(stream.per)).sum();
            expected.push((dtype, vec![0; entries]));
            if rng.usize(..4) == 0 {
                // Writes the whole tensor, and no other.
                let place = rng.usize(..arena.len());
                let fill = rng.u32(1..100);
                let mut tensor = arena.tensor_mut(place).expect("is there");
                for stream in 0..tensor.dtype().streams().len() {
                    let mut stream = tensor.stream_mut(stream).expect("it has as many");
                    with_sample!(stream.dtype(), T => {
                        stream.as_slice_mut::<T>().expect("its dtype").fill(T::from_low_bits(fill));
                    });
                }
                expected[place].1.fill(fill);
            }
        }
        let mut copy = arena.clone();
        for arena in [&mut arena, &mut copy] {
            for (place, (dtype, bits)) in expected.iter().enumerate() {
                let tensor = arena.tensor(place).expect("is there");
                assert_eq!(
                    (tensor.dtype(), &tensor_bits(tensor)),
                    (*dtype, bits),
                    "round {round}, tensor {place}"
                );
            }
            let writable = arena.tensors_mut();
            assert_eq!(writable.len(), expected.len());
            for (tensor, (dtype, bits)) in writable.zip(&expected) {
                assert_eq!((tensor.dtype(), tensor_bits(tensor.to_ref()).len()), (*dtype, bits.len()));
                assert!(start(&tensor).is_multiple_of(64));
            }
        }
        assert!(arena.tensor(expected.len()).is_none() && arena.tensor_mut(expected.len()).is_none());
    }
}

fn start(tensor: &TensorMut<'_>) -> usize {
    tensor.to_ref().as_bytes(0).expect("a stream").as_ptr() as usize
}

#[test]
fn lengths_that_no_memory_has_are_errors() {
    let mut arena = Arena::new();
    arena.push(Dtype::F32, 100).expect("memory");
    for len in [usize::MAX, usize::MAX / 4, isize::MAX as usize / 4, 1 << 58] {
        let failed = Err(Error::OutOfMemory { elements: len, dtype: Dtype::F32 });
        assert_eq!(arena.push(Dtype::F32, len), failed);
        assert_eq!(AlignedBuffer::<f32>::zeroed(len).map(drop), failed.map(drop));
    }
    assert_eq!(arena.push(Dtype::F16, 3), Ok(1));
}

#[test]
fn advice_changes_no_content() {
    for len in [0, 1, 1 << 18, (2 << 20) + 17] {
        let mut tensor: Vec<f32> = (0..len).map(|value| value as f32).collect();
        let pages = advise_huge_pages(&mut tensor);
        assert!(pages.collapsed <= pages.whole && pages.whole <= (len * 4) >> 21, "{pages:?}");
        assert!(tensor.iter().enumerate().all(|(place, value)| *value == place as f32));
    }
}
