//! The two protocols by which arrays show their memory: numpy's `__array_struct__` and DLPack.
//!
//! Both return a capsule with a C struct. The capsule keeps the memory alive. It is not consumed, so its own destructor
//! releases everything. The structs are those of numpy's `PyArrayInterface` and of dlpack.h, version 1.

use std::ffi::{CStr, c_char, c_int, c_void};
use std::slice;

use lion_kernels::Dtype;
use pyo3::exceptions::{PyTypeError, PyValueError};
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::{PyCapsule, PyDict};

use crate::tensor::Tensor;

/// numpy's `PyArrayInterface`.
#[repr(C)]
struct ArrayStruct {
    /// The number 2.
    two: c_int,
    dimensions: c_int,
    kind: c_char,
    itemsize: c_int,
    flags: c_int,
    shape: *const isize,
    /// In bytes.
    strides: *const isize,
    data: *mut c_void,
}

const NOT_SWAPPED: c_int = 0x200;
const WRITEABLE: c_int = 0x400;

#[repr(C)]
#[derive(Clone, Copy, Debug)]
pub(crate) struct DlTensor {
    data: *mut c_void,
    device_type: i32,
    device_id: i32,
    dimensions: i32,
    dtype: DlDataType,
    shape: *const i64,
    /// In elements; null for row-major order.
    strides: *const i64,
    byte_offset: u64,
}

#[repr(C)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct DlDataType {
    code: u8,
    bits: u8,
    lanes: u16,
}

const DL_CPU: i32 = 1;

impl DlTensor {
    pub(crate) const EMPTY: Self = DlTensor {
        data: std::ptr::null_mut(),
        device_type: 0,
        device_id: 0,
        dimensions: 0,
        dtype: DlDataType { code: 0, bits: 0, lanes: 0 },
        shape: std::ptr::null(),
        strides: std::ptr::null(),
        byte_offset: 0,
    };

    pub(crate) fn is_on_cpu(&self) -> bool {
        self.device_type == DL_CPU
    }

    /// The format, if it is one of ours.
    pub(crate) fn dtype(&self) -> Option<Dtype> {
        match (self.dtype.code, self.dtype.bits, self.dtype.lanes) {
            (2, 32, 1) => Some(Dtype::F32),
            (2, 16, 1) => Some(Dtype::F16),
            (4, 16, 1) => Some(Dtype::BF16),
            _ => None,
        }
    }

    /// Returns the dtype, also of the integers in a state: low halves and 8-bit codes.
    pub(crate) fn state_dtype(&self) -> Option<Dtype> {
        match (self.dtype.code, self.dtype.bits, self.dtype.lanes) {
            (0, 16, 1) => Some(Dtype::I16),
            (0, 8, 1) => Some(Dtype::I8),
            _ => self.dtype(),
        }
    }

    /// The address of the first element.
    pub(crate) fn address(&self) -> *mut u8 {
        self.data.cast::<u8>().wrapping_add(self.byte_offset as usize)
    }

    /// The sides, and the strides in elements if it does not lie in row-major order.
    ///
    /// # Safety
    /// The exporter's arrays are alive.
    pub(crate) unsafe fn layout(&self) -> (&[i64], Option<&[i64]>) {
        let rank = usize::try_from(self.dimensions).unwrap_or(0);
        let of = |start: *const i64| match rank {
            0 => &[][..],
            // SAFETY: by DLPack the array has an entry for each dimension, and is alive by this function's contract.
            _ => unsafe { slice::from_raw_parts(start, rank) },
        };
        (of(self.shape), (!self.strides.is_null()).then(|| of(self.strides)))
    }

    /// A tensor that lies on the CPU, if its format is one of ours.
    ///
    /// # Safety
    /// As [`layout`](Self::layout), and `owner` keeps the elements.
    pub(crate) unsafe fn tensor(&self, writable: bool, owner: Py<PyAny>) -> Option<Tensor> {
        let dtype = self.dtype()?;
        // SAFETY: by this function's contract.
        let (shape, strides) = unsafe { self.layout() };
        let shape = shape.iter().map(|&side| usize::try_from(side)).collect::<Result<Vec<_>, _>>().ok()?;
        let strides = match strides {
            None => row_major(&shape, dtype.size()),
            Some(strides) => {
                strides.iter().map(|&stride| (stride as isize).wrapping_mul(dtype.size() as isize)).collect()
            }
        };
        Some(Tensor::new(dtype, self.address(), shape, strides, writable, owner))
    }
}

#[repr(C)]
struct DlManagedTensor {
    tensor: DlTensor,
    context: *mut c_void,
    deleter: *mut c_void,
}

#[repr(C)]
struct DlManagedTensorVersioned {
    major: u32,
    minor: u32,
    context: *mut c_void,
    deleter: *mut c_void,
    flags: u64,
    tensor: DlTensor,
}

const READ_ONLY: u64 = 1;

/// Reads an array of any library that has one of the protocols.
///
/// # Errors
/// `TypeError` for an object without them or of other elements, `ValueError` for another device or byte order.
pub(crate) fn read(object: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    if let Ok(capsule) = object.getattr("__array_struct__") {
        return of_array_struct(object, &capsule);
    }
    let Ok(export) = object.getattr("__dlpack__") else {
        return Err(PyTypeError::new_err(format!(
            "is {}; expected a numpy array or an object with __dlpack__",
            type_name(object)
        )));
    };
    let keywords = PyDict::new(object.py());
    keywords.set_item("max_version", (1, 0))?;
    let capsule = match export.call((), Some(&keywords)) {
        // From before DLPack 1.0.
        Err(error) if error.is_instance_of::<PyTypeError>(object.py()) => export.call0()?,
        other => other?,
    };
    of_dlpack(&capsule)
}

pub(crate) fn type_name(object: &Bound<'_, PyAny>) -> String {
    object.get_type().fully_qualified_name().map_or("an unknown type".into(), |name| name.to_string())
}

/// The struct in a capsule of that name.
pub(crate) fn pointer<T>(capsule: &Bound<'_, PyAny>, name: Option<&CStr>) -> Option<*const T> {
    let name = name.map_or(std::ptr::null(), CStr::as_ptr);
    // SAFETY: both functions take any object and any name.
    let found = unsafe {
        match ffi::PyCapsule_IsValid(capsule.as_ptr(), name) {
            0 => return None,
            _ => ffi::PyCapsule_GetPointer(capsule.as_ptr(), name),
        }
    };
    (!found.is_null() && found.cast::<T>().is_aligned()).then_some(found.cast_const().cast())
}

fn of_array_struct(array: &Bound<'_, PyAny>, capsule: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let wrong = || PyTypeError::new_err("has an __array_struct__ that is not numpy's");
    let found = pointer::<ArrayStruct>(capsule, None).ok_or_else(wrong)?;
    // SAFETY: by the protocol such a capsule holds this struct, as long as it lives.
    let found = unsafe { &*found };
    if found.two != 2 {
        return Err(wrong());
    }
    // Only C extensions make capsules, and numpy's dtype of bfloat16 has no code of its own.
    let dtype = match (found.kind as u8, found.itemsize) {
        (b'f', 4) => Dtype::F32,
        (b'f', 2) => Dtype::F16,
        (b'V', 2) if dtype_name(array)? == "bfloat16" => Dtype::BF16,
        _ => {
            let message =
                format!("has the dtype {}; expected float32, float16 or bfloat16", dtype_name(array)?);
            return Err(PyTypeError::new_err(message));
        }
    };
    if found.flags & NOT_SWAPPED == 0 {
        return Err(PyValueError::new_err(
            "has the byte order of another machine; expected the machine's own",
        ));
    }
    let rank = usize::try_from(found.dimensions).map_err(|_| wrong())?;
    let (shape, strides) = match rank {
        0 => (&[][..], &[][..]),
        // SAFETY: by the protocol both arrays have an entry for each dimension.
        _ => unsafe {
            (slice::from_raw_parts(found.shape, rank), slice::from_raw_parts(found.strides, rank))
        },
    };
    let shape = shape.iter().map(|&side| usize::try_from(side)).collect::<Result<Vec<_>, _>>();
    let shape = shape.map_err(|_| wrong())?;
    let writable = found.flags & WRITEABLE != 0;
    Ok(Tensor::new(dtype, found.data.cast(), shape, strides.to_vec(), writable, capsule.clone().unbind()))
}

fn dtype_name(array: &Bound<'_, PyAny>) -> PyResult<String> {
    array.getattr("dtype")?.getattr("name")?.extract()
}

fn of_dlpack(capsule: &Bound<'_, PyAny>) -> PyResult<Tensor> {
    let wrong = |what: &str| PyTypeError::new_err(format!("has a __dlpack__ that gives {what}"));
    if !capsule.is_instance_of::<PyCapsule>() {
        return Err(wrong("no capsule"));
    }
    let (found, writable) =
        if let Some(found) = pointer::<DlManagedTensorVersioned>(capsule, Some(c"dltensor_versioned")) {
            // SAFETY: by DLPack a capsule of this name holds this struct, of which the version comes first.
            let found = unsafe { &*found };
            if found.major != 1 {
                return Err(wrong(&format!("version {}.{}; expected 1", found.major, found.minor)));
            }
            (&found.tensor, found.flags & READ_ONLY == 0)
        } else if let Some(found) = pointer::<DlManagedTensor>(capsule, Some(c"dltensor")) {
            // SAFETY: by DLPack a capsule of this name holds this struct.
            (unsafe { &(*found).tensor }, true)
        } else {
            return Err(wrong("a capsule of another name"));
        };
    if !found.is_on_cpu() {
        let device = (found.device_type, found.device_id);
        return Err(PyValueError::new_err(format!(
            "is on the DLPack device {device:?}; expected the CPU, (1, 0)"
        )));
    }
    // SAFETY: the capsule keeps the struct, its arrays and the elements, and is not consumed.
    unsafe { found.tensor(writable, capsule.clone().unbind()) }.ok_or_else(|| {
        PyTypeError::new_err(format!(
            "has the DLPack dtype {:?} with a shape of {} sides; expected float32 (code 2, 32 bits, 1 lane), float16 (2, 16, \
             1) or bfloat16 (4, 16, 1)",
            found.dtype, found.dimensions
        ))
    })
}

/// The strides, in bytes, of an array in row-major order.
pub(crate) fn row_major(shape: &[usize], itemsize: usize) -> Vec<isize> {
    let mut strides = vec![0; shape.len()];
    let mut next = itemsize as isize;
    for (stride, &side) in strides.iter_mut().zip(shape).rev() {
        *stride = next;
        next = next.wrapping_mul(side as isize);
    }
    strides
}
