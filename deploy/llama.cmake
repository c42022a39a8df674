# Included by CMake after llama.cpp's project() line (see cpu-kernels.sh), to set what its Rust crate sets otherwise
# and lets no environment variable change.

# Chat parsers, JSON schemas and command-line helpers: half of the compile time, and edgellm uses none of it.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)

# The crate pins armv8-a. The build of all variants (cargo feature `portable`) must stay without a choice.
if (DEFINED ENV{EDGELLM_ARM_ARCH} AND NOT GGML_CPU_ALL_VARIANTS)
    set(GGML_CPU_ARM_ARCH "$ENV{EDGELLM_ARM_ARCH}" CACHE STRING "" FORCE)
endif ()
