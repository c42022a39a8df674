//! What the process finds around itself, looked up before anything is decided.

use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use crate::engine::cpu;

/// What the settings do not say.
#[derive(Debug, Clone, Default)]
pub(super) struct Surroundings {
    pub(super) config_files: Vec<PathBuf>,
    /// The program that runs, by a name that leads to it as long as it runs.
    pub(super) program: PathBuf,
    /// The libraries that it was started with.
    pub(super) libraries: Vec<PathBuf>,
    /// Where further ones are, of which one is chosen for the processor.
    pub(super) kernels_folder: Option<PathBuf>,
    /// What systemd keeps for the service.
    pub(super) runtime_directory: Option<PathBuf>,
    /// Whether systemd is told by a socket that is no file how the service is.
    pub(super) notify_socket_is_abstract: bool,
    pub(super) is_root: bool,
}

impl Surroundings {
    pub(super) fn look(config_files: &[PathBuf]) -> Self {
        let directories = std::env::var_os("RUNTIME_DIRECTORY");
        let socket = std::env::var_os("NOTIFY_SOCKET").unwrap_or_default();
        Self {
            config_files: config_files.to_vec(),
            program: PathBuf::from("/proc/self/exe"),
            libraries: libraries(&fs::read_to_string("/proc/self/maps").unwrap_or_default()),
            kernels_folder: cpu::kernels_folder(),
            runtime_directory: directories
                .and_then(|directories| std::env::split_paths(&directories).next())
                .filter(|directory| !directory.as_os_str().is_empty()),
            notify_socket_is_abstract: socket.as_encoded_bytes().starts_with(b"@"),
            is_root: fs::metadata("/proc/self").is_ok_and(|process| process.uid() == 0),
        }
    }
}

/// The shared libraries among the files that are mapped into memory (`proc_pid_maps(5)`).
fn libraries(maps: &str) -> Vec<PathBuf> {
    let path = |line: &str| {
        let path = line.find('/').map(|at| &line[at..])?;
        let name = path.rsplit('/').next()?;
        name.contains(".so").then(|| PathBuf::from(path))
    };
    let mut libraries: Vec<_> = maps.lines().filter_map(path).collect();
    libraries.sort();
    libraries.dedup();
    libraries
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn libraries_are_found_among_what_is_mapped() {
        let maps = "\
            7f00-7f01 r--p 00000000 fe:00 12  /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f01-7f02 r-xp 00001000 fe:00 12  /usr/lib/x86_64-linux-gnu/libc.so.6\n\
            7f02-7f03 r--p 00000000 fe:00 13  /usr/lib64/ld-linux-x86-64.so.2\n\
            7f03-7f04 r--p 00000000 fe:00 14  /opt/edgellm/bin/edgellm\n\
            7f04-7f05 rw-p 00000000 00:00 0   [heap]\n\
            7f05-7f06 rw-p 00000000 00:00 0\n";
        let expected = [
            "/usr/lib/x86_64-linux-gnu/libc.so.6",
            "/usr/lib64/ld-linux-x86-64.so.2",
        ];
        assert_eq!(libraries(maps), expected.map(PathBuf::from));
    }

    #[test]
    fn this_process_has_a_loader_and_a_program() {
        let surroundings = Surroundings::look(&[]);
        let names = surroundings.libraries.iter();
        let mut names = names.filter_map(|file| file.file_name()?.to_str());
        assert!(names.any(|name| name.starts_with("ld")));
        assert!(surroundings.program.exists());
    }
}
