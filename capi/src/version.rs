//! The version of the ABI.

/// The version of the ABI that this header describes. It grows when a function, a constant, or a field at the end of a struct is
/// added. Any other change gives the library a new name.
pub const LION_ABI_VERSION: u32 = 1;

/// Returns the ABI version of the loaded library. A program can use the library if this is at least the `LION_ABI_VERSION` that
/// the program was compiled with.
#[unsafe(no_mangle)]
pub extern "C" fn lion_abi_version() -> u32 {
    LION_ABI_VERSION
}
