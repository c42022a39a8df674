//! The program; everything is in the library.

use std::process::ExitCode;

fn main() -> ExitCode {
    // Returns only if the variables are set already, or could not be.
    edgellm::engine::openmp::restart_with_short_spins();
    edgellm::cli::main()
}
