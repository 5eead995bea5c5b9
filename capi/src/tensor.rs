//! Checks the caller's tensors: dtype, address, alignment, length, and overlaps.

use std::ffi::c_void;

use lion::{Dtype, TensorMut, TensorRef};

use crate::status::{Failure, LION_ERROR_TENSOR};

/// IEEE binary32.
pub const LION_F32: u32 = 1;
/// IEEE binary16.
pub const LION_F16: u32 = 2;
/// bfloat16, the upper half of an IEEE binary32.
pub const LION_BF16: u32 = 3;

/// A dtype of the caller's tensors.
#[derive(Clone, Copy, Debug)]
struct Row {
    dtype: Dtype,
    /// Bytes of an element, which is also its alignment.
    size: usize,
    /// The most elements of one object.
    most: usize,
}

/// The dtypes of the caller's tensors: number 1 is the first.
const DTYPES: [Row; 3] = [row(Dtype::F32, 4), row(Dtype::F16, 2), row(Dtype::BF16, 2)];

const fn row(dtype: Dtype, size: usize) -> Row {
    Row { dtype, size, most: isize::MAX as usize / size }
}

/// Returns the dtype of a number.
pub(crate) fn dtype(name: &str, number: u32) -> Result<Dtype, Box<Failure>> {
    Ok(row_of(name, number)?.dtype)
}

#[inline]
fn row_of(name: &str, number: u32) -> Result<&'static Row, Box<Failure>> {
    const ROWS: &[Row; 3] = &DTYPES;
    ROWS.get((number as usize).wrapping_sub(1)).ok_or_else(|| wrong_dtype(name, number))
}

#[cold]
fn wrong_dtype(name: &str, number: u32) -> Box<Failure> {
    let known: Vec<_> =
        (1..).zip(DTYPES).map(|(number, Row { dtype, .. })| format!("{number} ({dtype})")).collect();
    Failure::value(name, number, &format!("one of {}", known.join(", ")))
}

/// The names of a tensor and of its dtype in errors.
pub(crate) type Names = (&'static str, &'static str);

pub(crate) const PARAMETER: Names = ("parameter", "parameter_dtype");
pub(crate) const GRADIENT: Names = ("gradient", "gradient_dtype");
pub(crate) const MOMENTUM: Names = ("momentum", "momentum_dtype");
pub(crate) const SOURCE: Names = ("source", "parameter_dtype");
pub(crate) const COPY: Names = ("copy", "copy_dtype");

/// One of the caller's tensors. Its address and dtype have been checked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Raw {
    name: &'static str,
    start: *mut u8,
    dtype: Dtype,
    len: usize,
    bytes: usize,
}

impl Raw {
    /// Checks a tensor's dtype, address, alignment and length.
    #[inline(always)]
    pub(crate) fn new(
        names: Names,
        start: *const c_void,
        number: u32,
        len: usize,
    ) -> Result<Self, Box<Failure>> {
        let (name, dtype_name) = names;
        let &Row { dtype, size, most } = row_of(dtype_name, number)?;
        if len == 0 {
            return Ok(Raw { name, start: std::ptr::without_provenance_mut(64), dtype, len, bytes: 0 });
        }
        // The alignment of an element is its size, a power of two.
        if start.is_null() || start.addr() & (size - 1) != 0 {
            return Err(Failure::pointer(name, if start.is_null() { "null" } else { "misaligned" }));
        }
        if len > most || start.addr().checked_add(len * size).is_none() {
            return Err(too_long(name, start, len));
        }
        Ok(Raw { name, start: start.cast_mut().cast(), dtype, len, bytes: len * size })
    }

    pub(crate) fn dtype(&self) -> Dtype {
        self.dtype
    }

    #[inline(always)]
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Checks that this tensor, which is written, shares no memory with another of its struct.
    #[inline(always)]
    pub(crate) fn check_apart(&self, other: &Raw) -> Result<(), Box<Failure>> {
        let (one, two) = (self.start.addr(), other.start.addr());
        // A tensor without elements begins and ends below all others.
        match (two < one + self.bytes) & (one < two + other.bytes) {
            false => Ok(()),
            true => Err(overlap(self.name, other.name)),
        }
    }

    #[inline(always)]
    pub(crate) fn is_same_memory_as(&self, other: &Raw) -> bool {
        (self.start, self.bytes) == (other.start, other.bytes)
    }

    /// # Safety
    /// The memory is readable and initialised while the tensor is used, and nothing writes it but a task that has the same
    /// memory as its parameter.
    pub(crate) unsafe fn tensor_ref<'a>(self) -> TensorRef<'a> {
        // SAFETY: aligned, as has been checked, and by this function's contract. The dtypes have one stream.
        unsafe { TensorRef::from_raw_parts(self.dtype, [self.start, self.start], self.len) }
    }

    /// # Safety
    /// The memory is readable, writable and initialised while the tensor is used, and nothing else reads or writes it.
    pub(crate) unsafe fn tensor_mut<'a>(self) -> TensorMut<'a> {
        // SAFETY: as in `tensor_ref`.
        unsafe { TensorMut::from_raw_parts(self.dtype, [self.start, self.start], self.len) }
    }
}

#[cold]
fn too_long(name: &str, start: *const c_void, len: usize) -> Box<Failure> {
    let found = format!("at {:#x} with {len} elements, which goes beyond the address space", start.addr());
    Failure::pointer(name, &found)
}

/// The memory of one tensor.
#[derive(Clone, Copy, Debug)]
struct Span {
    start: usize,
    end: usize,
    name: &'static str,
    /// Index of its struct in the call.
    index: usize,
    written: bool,
}

/// The memory of the tensors of several structs, to find overlaps. It is kept between calls: addresses mostly have the order
/// of the last call, and sorting then takes linear time.
#[derive(Debug, Default)]
pub(crate) struct Spans {
    spans: Vec<Span>,
    order: Vec<u32>,
}

impl Spans {
    pub(crate) fn clear(&mut self) {
        self.spans.clear();
    }

    /// Adds a tensor that is read. `index` is that of its struct in the call.
    pub(crate) fn reads(&mut self, index: usize, tensor: &Raw) {
        self.push(index, tensor, false);
    }

    /// Adds a tensor that is written.
    pub(crate) fn writes(&mut self, index: usize, tensor: &Raw) {
        self.push(index, tensor, true);
    }

    fn push(&mut self, index: usize, tensor: &Raw, written: bool) {
        let start = tensor.start.addr();
        let Raw { name, bytes, .. } = *tensor;
        if bytes > 0 {
            self.spans.push(Span { start, end: start + bytes, name, index, written });
        }
    }

    /// Checks that no written tensor overlaps another. `array` is the name of the caller's structs.
    pub(crate) fn check(&mut self, array: &str) -> Result<(), Box<Failure>> {
        let spans = &self.spans;
        if self.order.len() != spans.len() {
            self.order.clear();
            self.order.extend((0..spans.len()).map(|index| index as u32));
        }
        self.order.sort_unstable_by_key(|&index| (spans[index as usize].start, index));
        // Of the tensors before: the one, and the written one, that reach furthest.
        let (mut furthest, mut furthest_written): (Option<Span>, Option<Span>) = (None, None);
        for &index in &self.order {
            let span = spans[index as usize];
            let before = if span.written { furthest } else { furthest_written };
            if let Some(before) = before.filter(|before| before.end > span.start) {
                let place = |span: Span| format!("{array}[{}].{}", span.index, span.name);
                return Err(overlap(&place(before), &place(span)));
            }
            let reaches = |known: Option<Span>| known.is_none_or(|known| known.end < span.end);
            if reaches(furthest) {
                furthest = Some(span);
            }
            if span.written && reaches(furthest_written) {
                furthest_written = Some(span);
            }
        }
        Ok(())
    }
}

#[cold]
fn overlap(one: &str, other: &str) -> Box<Failure> {
    let message = format!("{one} and {other} overlap; expected separate memory for what is written");
    Failure::new(LION_ERROR_TENSOR, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every order of up to four tensors, against a look at each pair.
    #[test]
    fn overlaps_are_those_of_each_pair() {
        let mut rng = fastrand::Rng::with_seed(5);
        let memory = [0.0_f32; 64];
        let mut spans = Spans::default();
        let (mut found, mut clean) = (0, 0);
        for _ in 0..20_000 {
            let tensors: Vec<_> = (0..rng.usize(0..6))
                .map(|_| {
                    let start = rng.usize(0..60);
                    let tensor = &memory[start..(start + rng.usize(0..10)).min(64)];
                    let raw = Raw::new(PARAMETER, tensor.as_ptr().cast(), LION_F32, tensor.len());
                    (raw.expect("right"), rng.bool())
                })
                .collect();
            spans.clear();
            for (index, (tensor, written)) in tensors.iter().enumerate() {
                if *written { spans.writes(index, tensor) } else { spans.reads(index, tensor) }
            }
            let pairs = (0..tensors.len()).flat_map(|one| (0..one).map(move |other| (one, other)));
            let expected = pairs.into_iter().any(|(one, other)| {
                let ((a, a_written), (b, b_written)) = (tensors[one], tensors[other]);
                // SAFETY: the tensors are of the array above, and only their addresses are looked at.
                let overlap = unsafe { a.tensor_ref().overlaps(b.tensor_ref()) };
                let overlap = overlap && a.len > 0 && b.len > 0;
                assert_eq!(a.check_apart(&b).is_err(), overlap);
                overlap && (a_written || b_written)
            });
            assert_eq!(spans.check("updates").is_err(), expected, "{tensors:?}");
            *if expected { &mut found } else { &mut clean } += 1;
        }
        assert!(found > 1000 && clean > 1000, "{found} overlaps, {clean} without");
    }

    #[test]
    fn what_is_wrong_with_a_tensor() {
        let memory = [0.0_f32; 4];
        let start: *const c_void = memory.as_ptr().cast();
        let wrong = |start: *const c_void, dtype, len| {
            Raw::new(GRADIENT, start, dtype, len).expect_err("wrong").message
        };
        assert_eq!(wrong(std::ptr::null(), LION_F32, 4), "gradient is null");
        assert_eq!(wrong(start.wrapping_byte_add(2), LION_F32, 1), "gradient is misaligned");
        assert_eq!(wrong(start.wrapping_byte_add(1), LION_BF16, 1), "gradient is misaligned");
        assert_eq!(wrong(start, 4, 4), "gradient_dtype is 4; expected one of 1 (f32), 2 (f16), 3 (bf16)");
        assert!(wrong(start, LION_F16, usize::MAX).contains("goes beyond the address space"));
        assert!(Raw::new(GRADIENT, std::ptr::null(), LION_F32, 0).is_ok(), "no elements need no memory");
        for (number, expected) in
            [LION_F32, LION_F16, LION_BF16].into_iter().zip([Dtype::F32, Dtype::F16, Dtype::BF16])
        {
            let Row { dtype, size, .. } = *row_of("dtype", number).expect("known");
            let stream = lion_kernels::Stream { dtype: expected, bytes: size, per: 1 };
            assert_eq!((dtype, dtype.streams()), (expected, &[stream][..]));
        }
    }
}
