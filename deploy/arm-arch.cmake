# Included by CMake after llama.cpp's project() line (see cpu-kernels.sh): replaces the armv8-a that
# its Rust crate pins. The build of all variants (cargo feature `portable`) must stay without it.
if (DEFINED ENV{EDGELLM_ARM_ARCH} AND NOT GGML_CPU_ALL_VARIANTS)
    set(GGML_CPU_ARM_ARCH "$ENV{EDGELLM_ARM_ARCH}" CACHE STRING "" FORCE)
endif ()
