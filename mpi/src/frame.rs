//! [`run`]: a program on MPI that ends on all ranks when it fails on one.
//!
//! MPI has no notion of a rank that has failed. If one rank panics, unwinding finalises MPI there, and the others wait for
//! messages that never come. So a panic ends the job before it unwinds, an error ends the job too, and a program that
//! returns waits for the other ranks.

use std::io::{self, Write as _};
use std::process::ExitCode;
use std::sync::mpsc;
use std::time::Duration;
use std::{panic, process, thread};

use lion_distributed::{Communicator as _, end};
use mpi::topology::SimpleCommunicator;
use mpi::traits::Communicator as _;

use crate::MpiCommunicator;

/// How long a rank that has returned waits for the others.
const PATIENCE: Duration = Duration::from_secs(60);

/// Starts MPI and runs a program on its ranks.
///
/// The job ends on all ranks, with a status other than 0, if on any rank the program panics, returns an error, or returns
/// while others are in a collective call of the optimizer. A rank that has returned waits a minute for the others. Returns
/// a failure if MPI cannot be started or runs already.
pub fn run(program: impl FnOnce(&mut MpiCommunicator) -> Result<(), Box<dyn std::error::Error>>) -> ExitCode {
    let Some(universe) = mpi::initialize() else {
        say("MPI cannot be started, or has been started before");
        return ExitCode::FAILURE;
    };
    abort_on_panic();
    let mut communicator = MpiCommunicator::new(&universe.world());
    if let Err(error) = program(&mut communicator) {
        // Returning would finalise MPI, and the other ranks may wait for this one.
        communicator.abort(&error.to_string());
        return ExitCode::FAILURE;
    }
    let (done, wait) = mpsc::channel::<()>();
    // Only the main thread may call MPI. So the watch aborts the process, and the launcher ends the other ranks.
    let rank = communicator.rank();
    let watch = thread::Builder::new().spawn(move || {
        if wait.recv_timeout(PATIENCE) == Err(mpsc::RecvTimeoutError::Timeout) {
            say(&format!("rank {rank} has returned, and others have not for {PATIENCE:?}"));
            process::abort();
        }
    });
    if let Err(error) = end(&mut communicator) {
        communicator.abort(&error.to_string());
        return ExitCode::FAILURE;
    }
    drop(done);
    // If the thread could not be started, a rank may wait longer.
    let _ = watch.map(thread::JoinHandle::join);
    drop(communicator);
    drop(universe);
    ExitCode::SUCCESS
}

/// Writes a line to stderr in one piece, as other ranks write there too.
pub(crate) fn say(message: &str) {
    let line = format!("lion-mpi: {message}\n");
    // An error here cannot be reported anywhere.
    let _ = io::stderr().write_all(line.as_bytes());
}

/// Makes a panic print its message and end the job.
fn abort_on_panic() {
    let main = thread::current().id();
    let before = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        before(info);
        if thread::current().id() == main {
            SimpleCommunicator::world().abort(101);
        }
        // The launcher ends the others when a rank dies.
        process::abort();
    }));
}
