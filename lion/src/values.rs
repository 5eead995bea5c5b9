use lion_kernels::{Buffer, Dtype, Slice, SliceMut};

/// Owned elements of a format chosen at run time, in aligned memory.
#[derive(Clone, Debug)]
pub enum Values {
    /// IEEE binary32.
    F32(Buffer<f32>),
    /// IEEE binary16.
    F16(Buffer<half::f16>),
    /// The upper half of an IEEE binary32.
    BF16(Buffer<half::bf16>),
}

impl Values {
    /// `len` zeros.
    ///
    /// # Errors
    /// Memory that cannot be had.
    pub fn zeroed(dtype: Dtype, len: usize) -> Result<Self, lion_kernels::Error> {
        Ok(match dtype {
            Dtype::F32 => Values::F32(Buffer::zeroed(len)?),
            Dtype::F16 => Values::F16(Buffer::zeroed(len)?),
            Dtype::BF16 => Values::BF16(Buffer::zeroed(len)?),
        })
    }

    /// The format.
    pub fn dtype(&self) -> Dtype {
        self.as_slice().dtype()
    }

    /// The number of elements.
    pub fn len(&self) -> usize {
        self.as_slice().len()
    }

    /// Whether there is no element.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The elements, for reading.
    pub fn as_slice(&self) -> Slice<'_> {
        match self {
            Values::F32(buffer) => Slice::F32(buffer),
            Values::F16(buffer) => Slice::F16(buffer),
            Values::BF16(buffer) => Slice::BF16(buffer),
        }
    }

    /// The elements, for writing.
    pub fn as_slice_mut(&mut self) -> SliceMut<'_> {
        match self {
            Values::F32(buffer) => SliceMut::F32(buffer),
            Values::F16(buffer) => SliceMut::F16(buffer),
            Values::BF16(buffer) => SliceMut::BF16(buffer),
        }
    }
}
