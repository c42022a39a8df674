//! No file of this process's memory is written when it dies: it would hold what clients said.

use std::{fs, io};

/// Which parts of its memory the kernel would write: none.
const FILTER: &str = "/proc/self/coredump_filter";

/// For this process and its children. Whoever looks for a defect can take it back while the process runs:
/// `prlimit --pid PID --core=unlimited`, and `echo 0x33 >/proc/PID/coredump_filter`.
pub(super) fn forbid() -> io::Result<()> {
    let (_, hard) = rlimit::Resource::CORE.get()?;
    rlimit::Resource::CORE.set(0, hard)?;
    // The limit is about files alone: a system that pipes dumps to a program (systemd-coredump,
    // apport) starts it in any case.
    match fs::write(FILTER, "0") {
        // A kernel that cannot write core dumps.
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        outcome => outcome,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neither_files_nor_programs_get_a_dump() {
        forbid().expect("anybody may");
        assert_eq!(rlimit::Resource::CORE.get().expect("a limit").0, 0);
        if let Ok(filter) = fs::read_to_string(FILTER) {
            assert_eq!(filter.trim(), "00000000");
        }
    }
}
