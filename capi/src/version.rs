//! The version of the ABI.

/// The version of the ABI that this header describes: it grows when a function is added, a field at the end of a struct, or a
/// constant. Nothing else changes without another name of the library.
pub const LION_ABI_VERSION: u32 = 1;

/// The version of the ABI that the loaded library has. A program can use it if it is at least the `LION_ABI_VERSION` that
/// the program was compiled with.
#[unsafe(no_mangle)]
pub extern "C" fn lion_abi_version() -> u32 {
    LION_ABI_VERSION
}
