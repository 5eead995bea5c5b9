//! Reads and writes the caller's structs, also those of an older or a newer header.
//!
//! Every struct begins with `struct_size`, which the caller sets to its `sizeof`. A shorter struct comes from an older
//! header: fields that it lacks get their defaults. A longer struct comes from a newer header: it is accepted if all
//! unknown fields are zero, the default of every later field.

use std::ffi::{CStr, c_char};
use std::ptr;

use crate::status::{Failure, LION_ERROR_UNSUPPORTED};

/// A struct of the ABI.
///
/// # Safety
/// The type is `repr(C)`, begins with `struct_size: usize`, has no padding, and every bit pattern is a valid value.
pub(crate) unsafe trait Struct: Copy {
    /// Its name in the header.
    const NAME: &'static str;
    /// The values of absent fields.
    const DEFAULT: Self;
}

/// Larger than any struct will ever be. A larger size comes from uninitialised memory.
const LARGEST: usize = 4096;

/// Reads a struct.
///
/// # Safety
/// The pointer is null, or the caller's struct is readable for as many bytes as it says.
#[inline]
pub(crate) unsafe fn read<T: Struct>(name: &str, at: *const T) -> Result<T, Box<Failure>> {
    // SAFETY: by this function's contract.
    unsafe {
        let size = size::<T>(name, at)?;
        read_sized(name, at, size)
    }
}

/// Returns the caller's struct itself, if it is of this version.
///
/// # Safety
/// As for [`read`], and nothing writes the struct while it is used.
#[inline(always)]
pub(crate) unsafe fn of_this_version<'a, T: Struct>(at: *const T) -> Option<&'a T> {
    if at.is_null() || !at.is_aligned() {
        return None;
    }
    // SAFETY: not null and aligned, and readable by this function's contract; every pattern of bytes is a value.
    unsafe { (at.cast::<usize>().read() == size_of::<T>()).then(|| &*at) }
}

/// Reads a struct; its defaults if the pointer is null.
///
/// # Safety
/// As for [`read`].
pub(crate) unsafe fn read_or_default<T: Struct>(name: &str, at: *const T) -> Result<T, Box<Failure>> {
    if at.is_null() {
        return Ok(T::DEFAULT);
    }
    // SAFETY: by this function's contract.
    unsafe { read(name, at) }
}

/// Reads and checks a struct's own size.
///
/// # Safety
/// As for [`read`].
#[inline]
pub(crate) unsafe fn size<T: Struct>(name: &str, at: *const T) -> Result<usize, Box<Failure>> {
    check_pointer(name, at)?;
    // SAFETY: not null and aligned, and readable by this function's contract.
    let size = unsafe { at.cast::<usize>().read() };
    check_size::<T>(name, size)?;
    Ok(size)
}

/// Checks that a struct can have this size.
#[inline]
pub(crate) fn check_size<T: Struct>(name: &str, size: usize) -> Result<(), Box<Failure>> {
    match size < size_of::<usize>() || size > LARGEST || !size.is_multiple_of(size_of::<usize>()) {
        false => Ok(()),
        true => Err(wrong_size::<T>(name, size)),
    }
}

/// Reads a struct of a known size.
///
/// # Safety
/// The pointer is aligned, and readable for so many bytes.
#[inline]
pub(crate) unsafe fn read_sized<T: Struct>(name: &str, at: *const T, size: usize) -> Result<T, Box<Failure>> {
    if size == size_of::<T>() {
        // SAFETY: by this function's contract; every pattern of bytes is a value.
        return Ok(unsafe { at.read() });
    }
    let mut value = T::DEFAULT;
    let known = size.min(size_of::<T>());
    // SAFETY: as above; the value is as long, and of bytes that are any value.
    unsafe { ptr::copy_nonoverlapping(at.cast::<u8>(), (&raw mut value).cast(), known) };
    // SAFETY: as above.
    let is_known = (known..size).all(|at_byte| unsafe { at.cast::<u8>().add(at_byte).read() } == 0);
    if is_known {
        return Ok(value);
    }
    let message = format!("{name}: a {} of {size} bytes uses fields that this version lacks", T::NAME);
    Err(Failure::new(LION_ERROR_UNSUPPORTED, message))
}

/// Writes the fields that the caller's struct has room for. Its size stays.
///
/// # Safety
/// As for [`read`], and the caller's struct is writable.
pub(crate) unsafe fn write<T: Struct>(name: &str, to: *mut T, mut value: T) -> Result<(), Box<Failure>> {
    // SAFETY: by this function's contract.
    let size = unsafe { size::<T>(name, to)? };
    // SAFETY: a struct begins with its size; the caller's is writable for as many bytes.
    unsafe {
        (&raw mut value).cast::<usize>().write(size);
        let known = size.min(size_of::<T>());
        ptr::copy_nonoverlapping((&raw const value).cast::<u8>(), to.cast(), known);
        ptr::write_bytes(to.cast::<u8>().add(known), 0, size - known);
    }
    Ok(())
}

#[cold]
fn wrong_size<T: Struct>(name: &str, size: usize) -> Box<Failure> {
    let allowed = format!("sizeof({})", T::NAME);
    Failure::value(&format!("{name}.struct_size"), size, &allowed)
}

/// Checks that a pointer is not null, and aligned.
#[inline]
pub(crate) fn check_pointer<T>(name: &str, at: *const T) -> Result<(), Box<Failure>> {
    match () {
        () if at.is_null() => Err(Failure::pointer(name, "null")),
        () if !at.is_aligned() => Err(Failure::pointer(name, "misaligned")),
        () => Ok(()),
    }
}

/// An array of the caller's structs. Its stride is the size of the first struct.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Array<T> {
    name: &'static str,
    first: *const T,
    count: usize,
    size: usize,
}

impl<T: Struct> Array<T> {
    /// # Safety
    /// There are no structs, or the pointer is null, or so many of the first one's size are readable while this is used.
    #[inline]
    pub(crate) unsafe fn new(
        name: &'static str,
        first: *const T,
        count: usize,
    ) -> Result<Self, Box<Failure>> {
        let size = match count {
            0 => size_of::<T>(),
            // SAFETY: by this function's contract.
            _ => unsafe { size(name, first)? },
        };
        match size.checked_mul(count).filter(|bytes| isize::try_from(*bytes).is_ok()) {
            Some(_) => Ok(Array { name, first, count, size }),
            None => Err(Failure::value(name, format_args!("{count} structs"), "no more than memory holds")),
        }
    }

    /// The structs themselves, if they have this version's size.
    #[inline]
    pub(crate) fn as_slice(&self) -> Option<&[T]> {
        match (self.count, self.size == size_of::<T>()) {
            (0, _) => Some(&[]),
            (_, false) => None,
            // SAFETY: readable by the contract of `new`, aligned, and as long; every pattern of bytes is a value.
            (count, true) => Some(unsafe { std::slice::from_raw_parts(self.first, count) }),
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.count
    }

    #[inline]
    pub(crate) fn iter(&self) -> impl Iterator<Item = Result<T, Box<Failure>>> {
        let Array { name, first, size, count } = *self;
        (0..count).map(move |index| {
            let at = first.wrapping_byte_add(index * size);
            // SAFETY: within the array, which is readable by the contract of `new`; its sizes are multiples of a word.
            unsafe {
                let own = at.cast::<usize>().read();
                if own != size {
                    return Err(wrong_size::<T>(&format!("{name}[{index}]"), own));
                }
                read_sized(name, at, size)
            }
        })
    }
}

/// An array of the caller's numbers, or of structs of numbers whose size never changes.
///
/// # Safety
/// There are none, or the pointer is null, or so many are readable while they are used. Every pattern of bytes is a value.
pub(crate) unsafe fn plain<'a, T: Copy>(
    name: &str,
    first: *const T,
    count: usize,
) -> Result<&'a [T], Box<Failure>> {
    if count == 0 {
        return Ok(&[]);
    }
    check_pointer(name, first)?;
    match count.checked_mul(size_of::<T>()).filter(|bytes| isize::try_from(*bytes).is_ok()) {
        // SAFETY: aligned and not null, and by this function's contract.
        Some(_) => Ok(unsafe { std::slice::from_raw_parts(first, count) }),
        None => Err(Failure::value(name, format_args!("{count} long"), "no more than memory holds")),
    }
}

/// A text of the caller's.
///
/// # Safety
/// The pointer is null, or a text that ends with a zero and lives as long as it is used.
pub(crate) unsafe fn text<'a>(name: &str, at: *const c_char) -> Result<&'a str, Box<Failure>> {
    check_pointer(name, at)?;
    // SAFETY: not null, and by this function's contract.
    let text = unsafe { CStr::from_ptr(at) };
    text.to_str().map_err(|_| Failure::value(name, "not UTF-8", "text in UTF-8"))
}

/// A text of the caller's; none if the pointer is null.
///
/// # Safety
/// As for [`text`].
pub(crate) unsafe fn text_or_none<'a>(
    name: &str,
    at: *const c_char,
) -> Result<Option<&'a str>, Box<Failure>> {
    // SAFETY: by this function's contract.
    if at.is_null() { Ok(None) } else { unsafe { text(name, at).map(Some) } }
}

/// Writes a result.
///
/// # Safety
/// The pointer is null, or writable.
pub(crate) unsafe fn write_result<T>(name: &str, to: *mut T, value: T) -> Result<(), Box<Failure>> {
    check_pointer(name, to)?;
    // SAFETY: not null and aligned, and writable by this function's contract.
    unsafe { to.write(value) };
    Ok(())
}

/// Checks a reserved field, which must be zero.
#[inline]
pub(crate) fn check_reserved(name: &str, reserved: u32) -> Result<(), Box<Failure>> {
    if reserved == 0 { Ok(()) } else { Err(Failure::value(name, reserved, "0")) }
}
