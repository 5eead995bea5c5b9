//! Momentum in a checkpoint: its conversion to another dtype, and the two tensors of an 8-bit momentum.

use std::ops::Range;

use lion_kernels::{Backend, Dtype, Role, Task};

use super::{Checkpoint, Tensor};
use crate::tensor_file::{TensorFile, TensorInfo};
use crate::{Error, TensorBuf};

impl Checkpoint<'_> {
    /// Converts every momentum to another dtype: rounded to nearest even, or for [`Dtype::Q8`] quantized in blocks of 64.
    /// A run with f32 momentum can so continue with 8-bit momentum, and the reverse.
    ///
    /// ```
    /// use lion::checkpoint::{Checkpoint, Tensor, SavedVariable};
    /// use lion::{Dtype, Lion};
    ///
    /// let mut bias = SavedVariable::new("bias", &[2]);
    /// bias.momentum = Some(Tensor::from(&[0.5_f32, -0.5]));
    /// let mut checkpoint = Checkpoint { variables: vec![bias], iterations: 7, ..Checkpoint::default() };
    ///
    /// let mut optimizer = Lion::builder().momentum_dtype(Dtype::Q8).build()?;
    /// let bias = optimizer.register("bias", &[2], Dtype::F32)?;
    /// checkpoint.convert_momentum(Dtype::Q8)?;
    /// optimizer.restore(&checkpoint)?;
    /// assert_eq!(optimizer.momentum(bias).map(|momentum| momentum.to_f32()), Some(vec![0.5, -0.5]));
    /// # Ok::<(), lion::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Error::MomentumDtype`] for a dtype that momentum cannot have; nothing has changed then. Out of memory; the
    /// variables before the failing one are converted then.
    pub fn convert_momentum(&mut self, dtype: Dtype) -> Result<(), Error> {
        for variable in &mut self.variables {
            if !dtype.fits(Role::Momentum) {
                return Err(Error::MomentumDtype { name: variable.name.clone(), dtype });
            }
            let Some(momentum) = variable.momentum.as_ref().map(Tensor::to_ref) else { continue };
            if momentum.dtype() == dtype {
                continue;
            }
            let mut converted = TensorBuf::zeroed(dtype, momentum.len())?;
            Task::convert(momentum, converted.to_mut())?.run(Backend::best())?;
            variable.momentum = Some(Tensor::Owned(converted));
        }
        Ok(())
    }
}

/// Checks that an 8-bit momentum has the right number of scales, and that scales belong to an 8-bit momentum.
pub(super) fn check(
    file: &TensorFile,
    momentum: Option<&TensorInfo>,
    scale: Option<&TensorInfo>,
) -> Result<(), Error> {
    let codes = momentum.filter(|momentum| momentum.dtype() == Dtype::I8);
    match (codes, scale) {
        (None, None) => Ok(()),
        (Some(codes), None) => {
            Err(file.error(Some(codes.name()), "is i8, and its momentum_scale is missing"))
        }
        (None, Some(scale)) => Err(file.error(Some(scale.name()), "is present, and its momentum is not i8")),
        (Some(codes), Some(scale)) => {
            let blocks = codes.elements().div_ceil(Dtype::Q8.block());
            match *scale.shape() == [blocks] {
                true => Ok(()),
                false => {
                    let reason = format!(
                        "has the shape {:?}, and must have [{blocks}], one scale for each {} elements",
                        scale.shape(),
                        Dtype::Q8.block()
                    );
                    Err(file.error(Some(scale.name()), reason))
                }
            }
        }
    }
}

/// Reads a range of an 8-bit momentum. Requires that [`check`] has accepted codes and scales.
pub(super) fn read(
    file: &TensorFile,
    codes: &TensorInfo,
    scale: &TensorInfo,
    range: Range<usize>,
) -> Result<TensorBuf, Error> {
    let (block, len) = (Dtype::Q8.block(), codes.elements());
    let whole_blocks = |at: usize| at.is_multiple_of(block) || at == len;
    if !(whole_blocks(range.start) && whole_blocks(range.end) && range.start <= range.end) {
        let reason = format!("the requested range {}..{} cuts a block of {block}", range.start, range.end);
        return Err(file.error(Some(codes.name()), reason));
    }
    let blocks = range.start / block..range.end.div_ceil(block);
    let mut momentum = TensorBuf::zeroed(Dtype::Q8, range.len())?;
    let mut whole = momentum.to_mut();
    for (index, tensor, range) in [(0, codes, range), (1, scale, blocks.clone())] {
        if let Some(stream) = whole.stream_mut(index) {
            file.read_range(tensor, range, stream)?;
        }
    }
    let scales = momentum.to_ref().stream(1).and_then(|scales| scales.as_slice::<f32>()).unwrap_or_default();
    let wrong = scales.iter().position(|scale| !scale.is_finite() || scale.is_sign_negative());
    match wrong.and_then(|block| Some((block, scales.get(block)?))) {
        None => Ok(momentum),
        Some((block, found)) => {
            let block = blocks.start + block;
            let reason = format!("the scale of block {block} is {found}, and must be in [0, inf)");
            Err(file.error(Some(scale.name()), reason))
        }
    }
}
