//! Which instruction sets ggml's kernels use, and whether this processor has them.
//!
//! The usual build compiles one set, for the machine that builds
//! (`deploy/cpu-kernels.sh`); a processor without it would die of SIGILL in the
//! first matrix product, so it is asked first. The `portable` build carries a
//! library for each generation, of which `portable` takes one.

use std::sync::OnceLock;

#[cfg(any(test, feature = "portable"))]
pub mod portable;

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
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnsupportedCpu {
    /// The processor has not what the kernels were compiled for.
    #[error(
        "this edgellm was built for processors with {}, which this one lacks; build it on this machine with ./run.sh, or anywhere with EDGELLM_KERNELS=baseline",
        .missing.join(", ")
    )]
    Lacks {
        /// Instruction sets by name.
        missing: Vec<&'static str>,
    },
    /// There is no library of kernels for the processor.
    #[cfg(feature = "portable")]
    #[error(transparent)]
    NoLibrary(#[from] portable::NoLibrary),
}

/// The folder of the libraries of which [`prepare`] loads one; `None` where the kernels are in the program.
#[must_use]
pub fn kernels_folder() -> Option<std::path::PathBuf> {
    #[cfg(feature = "portable")]
    return portable::folder().ok();
    #[cfg(not(feature = "portable"))]
    None
}

/// Makes sure of kernels that this processor can run, and logs which; only the first call does anything.
///
/// # Errors
/// Names what is missing.
pub fn prepare() -> Result<(), UnsupportedCpu> {
    static PREPARED: OnceLock<Result<(), UnsupportedCpu>> = OnceLock::new();
    PREPARED
        .get_or_init(|| {
            check_with(&built_for(), has)?;
            let kernels = choose()?;
            tracing::info!(kernels, "CPU kernels");
            Ok(())
        })
        .clone()
}

/// The usual build has them linked in.
#[cfg(not(feature = "portable"))]
#[allow(clippy::unnecessary_wraps)] // the other build can fail
fn choose() -> Result<String, UnsupportedCpu> {
    Ok(env!("EDGELLM_KERNELS").to_owned())
}

#[cfg(feature = "portable")]
fn choose() -> Result<String, UnsupportedCpu> {
    let library = portable::load()?;
    Ok(library.display().to_string())
}

fn check_with(needed: &[&'static str], has: impl Fn(&str) -> bool) -> Result<(), UnsupportedCpu> {
    let missing: Vec<_> = needed.iter().copied().filter(|name| !has(name)).collect();
    if missing.is_empty() {
        Ok(())
    } else {
        Err(UnsupportedCpu::Lacks { missing })
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_machine_runs_what_was_built_on_it() {
        assert_eq!(prepare(), Ok(()));
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
}
