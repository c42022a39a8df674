//! The end of the process while threads still compute.

/// Ends the process at once with the exit code 0, whatever its threads are doing.
///
/// A usual exit runs the destructors of the libraries' global objects. A thread of llama.cpp that is within a
/// step would go on to use them, and crash the process.
pub fn end_process() -> ! {
    // SAFETY: `_exit` takes no pointer and does not return; nothing of this process runs after it. What was
    // logged is written already, because the log is not buffered.
    unsafe { libc::_exit(0) }
}
