//! Records which instruction sets ggml's kernels were compiled for, so that the
//! binary can refuse, in words, a processor that lacks one of them.
//!
//! The same `GGML_*` variables steer llama.cpp's own build; `deploy/cpu-kernels.sh`
//! writes them to `.cargo/config.toml`.

use std::env;

/// (variable, name as `is_x86_feature_detected!` spells it, ggml's default in a non-native build)
const X86: [(&str, &str, bool); 11] = [
    ("GGML_SSE42", "sse4.2", true),
    ("GGML_AVX", "avx", true),
    ("GGML_AVX2", "avx2", true),
    ("GGML_BMI2", "bmi2", true),
    ("GGML_FMA", "fma", true),
    ("GGML_F16C", "f16c", true),
    ("GGML_AVX_VNNI", "avxvnni", false),
    ("GGML_AVX512", "avx512f", false),
    ("GGML_AVX512_VBMI", "avx512vbmi", false),
    ("GGML_AVX512_VNNI", "avx512vnni", false),
    ("GGML_AVX512_BF16", "avx512bf16", false),
];

fn main() {
    println!("cargo:rerun-if-changed=build.rs");
    let target = env::var("CARGO_CFG_TARGET_ARCH").unwrap_or_default();
    let portable = env::var_os("CARGO_FEATURE_PORTABLE").is_some();
    let kernels = match target.as_str() {
        "x86_64" if !portable => x86_kernels(),
        "aarch64" if !portable => arm_kernels(),
        _ => Vec::new(),
    };
    println!("cargo:rustc-env=EDGELLM_KERNELS={}", kernels.join(","));
    println!(
        "cargo:rustc-env=EDGELLM_TARGET={}",
        env::var("TARGET").unwrap_or_default()
    );
    if portable {
        // The package's own libraries. RPATH and not RUNPATH, because it also holds for what those
        // libraries need in turn: the package brings libgomp, which a bare box may lack.
        println!("cargo:rustc-link-arg-bins=-Wl,--disable-new-dtags,-rpath,$ORIGIN/../lib/edgellm");
    }
}

fn x86_kernels() -> Vec<String> {
    X86.iter()
        .filter(|(variable, _, default)| switch(variable).unwrap_or(*default))
        .map(|(_, feature, _)| (*feature).to_owned())
        .collect()
}

fn switch(variable: &str) -> Option<bool> {
    println!("cargo:rerun-if-env-changed={variable}");
    env::var(variable)
        .ok()
        .map(|value| matches!(value.as_str(), "ON" | "on" | "1" | "TRUE" | "YES"))
}

/// `armv8.2-a+dotprod+i8mm` → `dotprod`, `i8mm`.
fn arm_kernels() -> Vec<String> {
    println!("cargo:rerun-if-env-changed=GGML_CPU_ARM_ARCH");
    let arch = env::var("GGML_CPU_ARM_ARCH").unwrap_or_default();
    arch.split('+').skip(1).map(str::to_owned).collect()
}
