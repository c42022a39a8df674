#!/usr/bin/env bash
# deploy/cpu-kernels.sh against recorded /proc/cpuinfo texts: the features that are on for each machine.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
script=$here/../../deploy/cpu-kernels.sh
failed=0

# expect MACHINE "EXPECTED" [EDGELLM_KERNELS]: EXPECTED names what is ON (without GGML_), or the Arm architecture.
expect() {
    local got
    got=$(EDGELLM_CPUINFO=$here/cpuinfo/$1 EDGELLM_KERNELS=${3:-detect} "$script" --print |
        sed -n 's/^GGML_\(.*\) = "ON"$/\1/p; s/^EDGELLM_ARM_ARCH = "\(.*\)"$/\1/p' | xargs)
    if [[ $got != "$2" ]]; then
        echo "$1 (${3:-detect}): expected '$2', got '$got'"
        failed=1
    fi
}

haswell="SSE42 AVX AVX2 BMI2 F16C FMA"
expect celeron-n3350 "SSE42"
expect haswell "$haswell"
expect alder-lake "$haswell AVX_VNNI"
expect skylake-x "$haswell AVX512"
expect ice-lake "$haswell AVX512 AVX512_VBMI AVX512_VNNI"
expect sapphire-rapids "$haswell AVX_VNNI AVX512 AVX512_VBMI AVX512_VNNI AVX512_BF16"
expect avx512-without-bw "$haswell"
expect raspberry-pi-4 "armv8-a"
expect raspberry-pi-5 "armv8.2-a+dotprod+fp16"
expect graviton3 "armv8.2-a+dotprod+fp16+i8mm"
expect no-such-file ""

expect ice-lake "SSE42" baseline
expect ice-lake "$haswell" avx2
expect celeron-n3350 "$haswell AVX512 AVX512_VBMI AVX512_VNNI" avx512
expect raspberry-pi-5 "armv8-a" baseline

if EDGELLM_KERNELS=fastest "$script" --print 2>/dev/null; then
    echo "an unknown EDGELLM_KERNELS was accepted"
    failed=1
fi
exit "$failed"
