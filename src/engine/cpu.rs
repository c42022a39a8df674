//! Which instruction sets ggml's kernels use, and whether this processor has them.
//!
//! The usual build compiles one set, for the machine that builds
//! (`deploy/cpu-kernels.sh`); a processor without it would die of SIGILL in the
//! first matrix product, so it is asked first. The `portable` build carries a
//! library for each generation and one is chosen here rather than by ggml,
//! which looks at CPUID alone and so picks AMX under hypervisors that do not
//! enable it. Rust's detection asks the operating system as well (XCR0).

/// Instruction sets that this build's kernels need, e.g. `avx2`. Empty when they are chosen at start.
#[must_use]
pub fn built_for() -> Vec<&'static str> {
    env!("EDGELLM_KERNELS")
        .split(',')
        .filter(|name| !name.is_empty())
        .collect()
}

/// Cores that compute side by side: physical ones, because the threads of one core share
/// what matrix products need, and no more than a container's quota or an affinity allows.
#[must_use]
pub fn usable_cores() -> u32 {
    let cores = num_cpus::get_physical().min(num_cpus::get());
    let cores = u32::try_from(cores).unwrap_or(1);
    cores.max(1)
}

/// This build cannot run here.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "this edgellm was built for processors with {}, which this one lacks; build it on this machine with ./run.sh, or anywhere with EDGELLM_KERNELS=baseline",
    .missing.join(", ")
)]
pub struct UnsupportedCpu {
    missing: Vec<&'static str>,
}

/// Whether this processor has what the kernels need.
///
/// # Errors
/// Names every instruction set that is missing.
pub fn check() -> Result<(), UnsupportedCpu> {
    check_with(&built_for(), has)
}

fn check_with(needed: &[&'static str], has: impl Fn(&str) -> bool) -> Result<(), UnsupportedCpu> {
    let missing: Vec<_> = needed.iter().copied().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(UnsupportedCpu { missing })
    }
}

#[cfg(target_arch = "x86_64")]
fn has(feature: &str) -> bool {
    use std::arch::is_x86_feature_detected as detected;
    match feature {
        "sse4.2" => detected!("sse4.2"),
        "avx" => detected!("avx"),
        "avx2" => detected!("avx2"),
        "bmi2" => detected!("bmi2"),
        "fma" => detected!("fma"),
        "f16c" => detected!("f16c"),
        "avxvnni" => detected!("avxvnni"),
        // ggml's AVX512 switch compiles for all five.
        "avx512f" => {
            detected!("avx512f")
                && detected!("avx512cd")
                && detected!("avx512vl")
                && detected!("avx512dq")
                && detected!("avx512bw")
        }
        "avx512vbmi" => detected!("avx512vbmi"),
        "avx512vnni" => detected!("avx512vnni"),
        "avx512bf16" => detected!("avx512bf16"),
        _ => false,
    }
}

#[cfg(target_arch = "aarch64")]
fn has(feature: &str) -> bool {
    use std::arch::is_aarch64_feature_detected as detected;
    match feature {
        "dotprod" => detected!("dotprod"),
        "i8mm" => detected!("i8mm"),
        "fp16" => detected!("fp16"),
        "sve" => detected!("sve"),
        _ => false,
    }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn has(_feature: &str) -> bool {
    true
}

/// ggml's x86 libraries from best to plainest with what each needs, as
/// `ggml/src/CMakeLists.txt` builds them. The AMX ones are left out on purpose.
#[cfg(any(test, all(feature = "portable", target_arch = "x86_64")))]
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

#[cfg(any(test, all(feature = "portable", target_arch = "x86_64")))]
fn candidates(has: impl Fn(&str) -> bool) -> impl Iterator<Item = &'static str> {
    VARIANTS
        .iter()
        .filter(move |(_, needs)| needs.iter().all(|feature| has(feature)))
        .map(|(name, _)| *name)
}

/// Loads the kernels of the `portable` build; the usual build has them linked in.
#[cfg(not(feature = "portable"))]
pub(super) fn load_kernels() {
    tracing::info!(kernels = env!("EDGELLM_KERNELS"), "CPU kernels");
}

/// Loads the best library that this processor can run.
#[cfg(feature = "portable")]
pub(super) fn load_kernels() {
    let Some(folder) = portable::folder() else {
        tracing::error!("no folder `backends` with ggml's CPU libraries beside the program");
        return;
    };
    portable::load(&folder);
}

#[cfg(feature = "portable")]
mod portable {
    use std::path::{Path, PathBuf};

    /// Beside the binary, in the package's library folder, or where cargo built it.
    pub(super) fn folder() -> Option<PathBuf> {
        let program = std::env::current_exe().ok()?;
        let here = program.parent()?;
        [
            here.join("backends"),
            here.join("../lib/edgellm/backends"),
            PathBuf::from(llama_cpp_sys_2::BACKENDS_DIR.unwrap_or_default()),
        ]
        .into_iter()
        .find(|folder| folder.is_dir())
    }

    #[cfg(target_arch = "x86_64")]
    pub(super) fn load(folder: &Path) {
        use std::ffi::CString;
        use std::os::unix::ffi::OsStrExt;

        for name in super::candidates(super::has) {
            let library = folder.join(format!("libggml-cpu-{name}.so"));
            let Ok(path) = CString::new(library.as_os_str().as_bytes()) else {
                continue;
            };
            if !library.is_file() {
                continue;
            }
            // SAFETY: the path is NUL-terminated and lives during the call; the
            // library is one of ggml's own.
            let loaded = unsafe { llama_cpp_sys_2::ggml_backend_load(path.as_ptr()) };
            if !loaded.is_null() {
                tracing::info!(kernels = name, folder = %folder.display(), "CPU kernels");
                return;
            }
        }
        tracing::error!(folder = %folder.display(), "no CPU library of ggml could be loaded");
    }

    /// On other processors ggml's own choice is safe: it asks the kernel.
    #[cfg(not(target_arch = "x86_64"))]
    pub(super) fn load(folder: &Path) {
        llama_cpp_2::llama_backend::load_backends_from_path(folder);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_runs_what_was_built_on_it() {
        assert_eq!(check(), Ok(()));
    }

    #[test]
    fn a_processor_without_avx2_is_told_so() {
        let error =
            check_with(&["sse4.2", "avx2"], |name| name == "sse4.2").expect_err("avx2 is missing");
        assert!(
            error
                .to_string()
                .contains("with avx2, which this one lacks")
        );
    }

    #[test]
    fn the_best_variant_that_the_system_enables_comes_first() {
        let sapphire_rapids = |name: &str| name != "avxvnni";
        assert_eq!(candidates(sapphire_rapids).next(), Some("zen4"));
        let alder_lake = |name: &str| !name.starts_with("avx512");
        assert_eq!(candidates(alder_lake).next(), Some("alderlake"));
        let celeron = |name: &str| name == "sse4.2";
        assert_eq!(candidates(celeron).next(), Some("sse42"));
        assert_eq!(candidates(|_| false).next(), Some("x64"));
    }
}
