//! ggml's CPU libraries of the `portable` build: where they lie, and which one this processor gets.
//!
//! The choice is made here rather than by ggml, which looks at CPUID alone and
//! so picks AMX under hypervisors that do not enable it. Rust's detection asks
//! the operating system as well (XCR0).

use std::path::{Path, PathBuf};

/// Why there are no kernels. The messages are for whoever installed the package.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NoLibrary {
    /// The program was copied without its libraries.
    #[error("the CPU libraries of this edgellm are missing: there is no folder {}; unpack the whole package, and keep its bin and lib beside each other", .0.display())]
    NoFolder(PathBuf),
    /// None of those that are there suits.
    #[error("no CPU library in {} suits this processor, which runs {}; unpack the whole package, made for this kind of processor", folder.display(), suitable.join(", "))]
    NoneSuits {
        /// Where they were looked for.
        folder: PathBuf,
        /// What would suit, best first.
        suitable: Vec<String>,
    },
    /// The system's loader or ggml refused what suits.
    #[error("cannot load the CPU libraries in {}: {reason}; unpack the whole package again, all of one version", folder.display())]
    Refused {
        /// Where they are.
        folder: PathBuf,
        /// The first refusal, in the words of the loader or ggml.
        reason: String,
    },
}

/// ggml's x86 libraries from best to plainest with what each needs, as
/// `ggml/src/CMakeLists.txt` builds them. The AMX ones are left out on purpose.
#[cfg(any(test, target_arch = "x86_64"))]
const VARIANTS: [(&str, &[&str]); 13] = {
    const AVX2: &[&str] = &["sse4.2", "avx", "f16c", "fma", "avx2", "bmi2"];
    [
        (
            "zen4",
            &[
                "avx2",
                "fma",
                "bmi2",
                "avx512f",
                "avx512vbmi",
                "avx512vnni",
                "avx512bf16",
            ],
        ),
        (
            "cooperlake",
            &["avx2", "fma", "bmi2", "avx512f", "avx512vnni", "avx512bf16"],
        ),
        (
            "icelake",
            &["avx2", "fma", "bmi2", "avx512f", "avx512vbmi", "avx512vnni"],
        ),
        (
            "cascadelake",
            &["avx2", "fma", "bmi2", "avx512f", "avx512vnni"],
        ),
        (
            "cannonlake",
            &["avx2", "fma", "bmi2", "avx512f", "avx512vbmi"],
        ),
        ("skylakex", &["avx2", "fma", "bmi2", "avx512f"]),
        ("alderlake", &["avx2", "fma", "bmi2", "avxvnni"]),
        ("haswell", AVX2),
        ("piledriver", &["sse4.2", "avx", "f16c", "fma"]),
        ("ivybridge", &["sse4.2", "avx", "f16c"]),
        ("sandybridge", &["sse4.2", "avx"]),
        ("sse42", &["sse4.2"]),
        ("x64", &[]),
    ]
};

/// Names of the libraries that a processor with these instruction sets runs, best first.
#[cfg(any(test, target_arch = "x86_64"))]
fn suitable(has: impl Fn(&str) -> bool) -> Vec<&'static str> {
    VARIANTS
        .iter()
        .filter(|(_, needs)| needs.iter().all(|feature| has(feature)))
        .map(|(name, _)| *name)
        .collect()
}

/// The libraries of a program that lies in `bin`: in the package's `lib/edgellm/backends`. A
/// program that still lies where cargo put it takes those that were built with it; one that has
/// been moved must not, since that folder is on the building machine only.
fn folder_for(bin: &Path, built: Option<&Path>) -> Result<PathBuf, NoLibrary> {
    let prefix = bin.parent().unwrap_or(bin);
    let packaged = prefix.join("lib/edgellm/backends");
    if packaged.is_dir() {
        return Ok(packaged);
    }
    // target/release/edgellm or target/release/deps/edgellm-…, and target/release/build/…/backends
    match built {
        Some(built) if built.starts_with(bin) || built.starts_with(prefix) => Ok(built.to_owned()),
        _ => Err(NoLibrary::NoFolder(packaged)),
    }
}

/// Loads the best library that this processor runs, and says where it is.
///
/// # Errors
/// See [`NoLibrary`].
#[cfg(feature = "portable")]
pub(super) fn load() -> Result<PathBuf, NoLibrary> {
    let folder = folder()?;
    // What is refused is said in a log line only.
    crate::engine::route_logs();
    crate::engine::logs::clear_last_error();
    load_from(&folder)
}

/// Where the libraries of this program are.
#[cfg(feature = "portable")]
pub(super) fn folder() -> Result<PathBuf, NoLibrary> {
    // Resolved by the system, so that a link to the program will do. It fails without /proc only.
    let program = std::env::current_exe().unwrap_or_default();
    let bin = program.parent().unwrap_or(Path::new("/"));
    // Without links as well, or the two could not be compared.
    let built =
        llama_cpp_sys_2::BACKENDS_DIR.and_then(|folder| Path::new(folder).canonicalize().ok());
    folder_for(bin, built.as_deref())
}

#[cfg(all(feature = "portable", target_arch = "x86_64"))]
fn load_from(folder: &Path) -> Result<PathBuf, NoLibrary> {
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;

    let suitable = suitable(super::has);
    let mut any = false;
    for name in &suitable {
        let library = folder.join(format!("libggml-cpu-{name}.so"));
        if !library.is_file() {
            continue;
        }
        any = true;
        let Ok(path) = CString::new(library.as_os_str().as_bytes()) else {
            continue;
        };
        // SAFETY: the path is NUL-terminated and lives during the call; the
        // library is one of ggml's own.
        let loaded = unsafe { llama_cpp_sys_2::ggml_backend_load(path.as_ptr()) };
        if !loaded.is_null() {
            return Ok(library);
        }
    }
    if any {
        return Err(refused(folder));
    }
    Err(NoLibrary::NoneSuits {
        folder: folder.to_owned(),
        suitable: suitable.into_iter().map(str::to_owned).collect(),
    })
}

/// On other processors ggml's own choice is safe: it asks the kernel.
#[cfg(all(feature = "portable", not(target_arch = "x86_64")))]
fn load_from(folder: &Path) -> Result<PathBuf, NoLibrary> {
    llama_cpp_2::llama_backend::load_backends_from_path(folder);
    // SAFETY: it only counts what has been registered.
    if unsafe { llama_cpp_sys_2::ggml_backend_reg_count() } == 0 {
        return Err(refused(folder));
    }
    Ok(chosen_from(folder).unwrap_or_else(|| folder.to_owned()))
}

/// Which library of `folder` is loaded: ggml does not say it in a log that is kept.
#[cfg(all(feature = "portable", not(target_arch = "x86_64")))]
fn chosen_from(folder: &Path) -> Option<PathBuf> {
    let maps = std::fs::read_to_string("/proc/self/maps").ok()?;
    let mut files = maps
        .lines()
        .filter_map(|line| Some(Path::new(&line[line.find('/')?..])));
    let chosen = files.find(|file| file.starts_with(folder))?;
    Some(chosen.to_owned())
}

#[cfg(feature = "portable")]
fn refused(folder: &Path) -> NoLibrary {
    NoLibrary::Refused {
        folder: folder.to_owned(),
        reason: crate::engine::logs::last_error()
            .unwrap_or_else(|| "none is for this processor".to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_best_variant_that_the_system_enables_comes_first() {
        let sapphire_rapids = |name: &str| name != "avxvnni";
        assert_eq!(suitable(sapphire_rapids)[0], "zen4");
        let alder_lake = |name: &str| !name.starts_with("avx512");
        assert_eq!(suitable(alder_lake)[0], "alderlake");
        let celeron = |name: &str| name == "sse4.2";
        assert_eq!(suitable(celeron), ["sse42", "x64"]);
        assert_eq!(suitable(|_| false), ["x64"]);
    }

    #[test]
    fn a_package_uses_its_own_libraries_wherever_it_lies() {
        let package = tempfile::tempdir().expect("a folder");
        let backends = package.path().join("lib/edgellm/backends");
        std::fs::create_dir_all(&backends).expect("a folder");
        let built = Path::new("/src/target/release/build/sys/out/backends");
        let found = folder_for(&package.path().join("bin"), Some(built));
        assert_eq!(found, Ok(backends));
    }

    #[test]
    fn a_program_that_cargo_has_just_built_uses_what_was_built_with_it() {
        let built = Path::new("/src/target/release/build/sys/out/backends");
        for bin in ["/src/target/release", "/src/target/release/deps"] {
            let found = folder_for(Path::new(bin), Some(built));
            assert_eq!(found, Ok(built.to_owned()));
        }
    }

    #[test]
    fn a_program_copied_without_its_libraries_is_told_where_they_belong() {
        let built = Path::new("/src/target/release/build/sys/out/backends");
        let error = folder_for(Path::new("/opt/edgellm/bin"), Some(built)).expect_err("none");
        let message = error.to_string();
        assert!(message.contains("no folder /opt/edgellm/lib/edgellm/backends"));
    }
}
