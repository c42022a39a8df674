# Included by CMake after llama.cpp's project() line (see cpu-kernels.sh), to set what its Rust crate sets otherwise
# and lets no environment variable change.

# Chat parsers, JSON schemas and command-line helpers: half of the compile time, and edgellm uses none of it.
set(LLAMA_BUILD_COMMON OFF CACHE BOOL "" FORCE)

# The crate pins armv8-a. The build of all variants (cargo feature `portable`) must stay without a choice.
if (DEFINED ENV{EDGELLM_ARM_ARCH} AND NOT GGML_CPU_ALL_VARIANTS)
    set(GGML_CPU_ARM_ARCH "$ENV{EDGELLM_ARM_ARCH}" CACHE STRING "" FORCE)
endif ()

# Two of Arm's variants are for SME, which GCC knows from version 14 on (Debian 12 has 12) and llama.cpp uses only in
# KleidiAI, which is not built: they are compiled without, and package.sh leaves them out.
if (GGML_CPU_ALL_VARIANTS AND PROJECT_NAME STREQUAL "ggml" AND CMAKE_SYSTEM_PROCESSOR STREQUAL "aarch64")
    function(compile_without_sme)
        foreach (variant ggml-cpu-armv9.2_1 ggml-cpu-armv9.2_2)
            get_target_property(options ${variant} COMPILE_OPTIONS)
            string(REPLACE "armv9.2-a" "armv8.6-a" options "${options}")
            string(REPLACE "+sme" "" options "${options}")
            set_target_properties(${variant} PROPERTIES COMPILE_OPTIONS "${options}")
        endforeach ()
    endfunction()
    # When the variants are there.
    cmake_language(DEFER CALL compile_without_sme)
endif ()
