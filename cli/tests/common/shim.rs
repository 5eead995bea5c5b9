//! Fault injection: a preloaded C library lets one system call of the command fail. `shim.c` lists the calls and faults.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::{TempDir, tempdir};

/// Two error numbers, the same on every Linux.
pub const EIO: &str = "5";
pub const ENOSPC: &str = "28";

/// One system call of a process, and its fault.
#[derive(Clone, Copy, Debug)]
pub struct Fault {
    pub call: &'static str,
    /// The number of the call, from 1.
    pub at: usize,
    pub how: &'static str,
}

pub struct Shim {
    library: PathBuf,
    hit: PathBuf,
    _folder: TempDir,
}

impl Shim {
    /// Compiles the library. Prints a message and returns `None` if this machine has no compiler.
    pub fn compile() -> Option<Self> {
        let folder = tempdir().expect("a folder");
        let [library, hit] = ["shim.so", "hit"].map(|name| folder.path().join(name));
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/common/shim.c");
        let mut compiler = Command::new("cc");
        compiler.args(["-shared", "-fPIC", "-O1", "-Wall", "-Werror", "-o"]).arg(&library).arg(source);
        let Ok(done) = compiler.arg("-ldl").output() else {
            super::skip("there is no cc to compile a library that injects faults");
            return None;
        };
        assert!(done.status.success(), "{}", super::said(&done));
        Some(Shim { library, hit, _folder: folder })
    }

    /// Lets this call fail if its file is below the folder.
    pub fn inject<'a>(&self, fault: Fault, folder: &Path, command: &'a mut Command) -> &'a mut Command {
        let _ = fs::remove_file(&self.hit);
        // Without symbolic links, as the system names it.
        let folder = fs::canonicalize(folder).expect("there").join("");
        command.env("LD_PRELOAD", &self.library).env("SHIM_FOLDER", folder).env("SHIM_HIT", &self.hit);
        command.env("SHIM_CALL", fault.call).env("SHIM_AT", fault.at.to_string()).env("SHIM_HOW", fault.how)
    }

    /// Returns whether the command reached the call. The filter for `rename` leaves no trace, but each writer renames once.
    pub fn was_hit(&self, fault: Fault) -> bool {
        self.hit.exists() || fault.call == "rename" && fault.at == 1
    }
}
