#!/usr/bin/env bash
# deploy/package-fingerprint.sh: what only the package shows to be wrong changes it, and nothing else does.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
failed=0

complain() {
    echo "$*"
    failed=1
}

fresh_copy() {
    rm -rf "$place/copy"
    mkdir -p "$place/copy"/{src,models/kiosk}
    cp -r "$root"/{build.rs,Cargo.toml,Cargo.lock,LICENSE-MIT,LICENSE-APACHE,config,deploy,docs,grafana} "$place/copy"
    cp "$root"/*.md "$place/copy"
    cp -r "$root"/src/{engine,grammar} "$place/copy/src"
    cp "$root"/models/kiosk/{kiosk.gguf,README.md} "$place/copy/models/kiosk"
    cd "$place/copy"
}

fingerprint() { deploy/package-fingerprint.sh; }

# shellcheck disable=SC2317 # expect runs it
# edit FILE SED: the first is changed by the second, or the test is wrong.
edit() {
    local before
    before=$(<"$1")
    sed -i "$2" "$1"
    [[ $(<"$1") != "$before" ]] || complain "this changes nothing in $1: $2"
}

# expect same|another COMMAND...: what the fingerprint is after the command.
expect() {
    local wanted=$1 got=same
    shift
    "$@"
    [[ $(fingerprint) == "$original" ]] || got=another
    [[ $got == "$wanted" ]] || complain "expected $wanted fingerprint and got $got after: $*"
    fresh_copy
}

fresh_copy
original=$(fingerprint)
[[ $original =~ ^[a-z0-9_]+\ [0-9a-f]{64}$ ]] || complain "not an architecture and a hash: $original"
expect same true

expect another edit deploy/package.sh 's/strip --strip-debug/strip/'
expect another edit deploy/package-check.sh 's/aisle 12/aisle 13/'
expect another edit deploy/llama.cmake 's/LLAMA_BUILD_COMMON OFF/LLAMA_BUILD_COMMON ON/'
expect another edit deploy/cpu-kernels.sh 's/on GGML_SSE42 sse4_2/on GGML_SSE42 sse4_1/'
expect another edit build.rs 's/rpath/runpath/'
expect another edit src/engine/cpu/portable.rs 's/backends/kernels/'
expect another edit src/engine/openmp.rs 's/GOMP_SPINCOUNT/GOMP_SPIN/'
expect another edit src/grammar/trial.rs 's/current_exe/current_program/'
expect another edit deploy/edgellm.service 's/^ExecStart=.opt/ExecStart=\/srv/'
expect another touch docs/picture.svg
expect another edit src/engine/context.rs 's/llama_decode(/llama_decode_all(/'
expect another edit Cargo.toml 's/^portable = .*/portable = []/'
expect another edit Cargo.toml 's/^debug = "line-tables-only"/debug = false/'
expect another edit Cargo.toml '/^llama-cpp-sys-2/s/"openmp"/"static-openmp"/; /^llama-cpp-2/s/"openmp"/"static-openmp"/'
expect another edit Cargo.lock '/^name = "llama-cpp-sys-2"/,/^$/s/^version = .*/version = "0.0.1"/'
expect another edit Cargo.lock 's/^name = "slab"/name = "openssl-sys"/'
expect another rm CHANGELOG.md
expect another rm deploy/edgellm.service
expect another rm deploy/edgellm-admin.socket
expect another rm -r docs
expect another cp LICENSE-MIT models/kiosk/kiosk.gguf

expect same edit Cargo.toml '0,/^version = /s/^version = .*/version = "9.9.9"/'
expect same edit Cargo.toml 's/^serde = .*/serde = "1"/'
expect same edit Cargo.lock '/^name = "slab"/,/^$/s/^version = .*/version = "9.9.9"/'
expect same edit CHANGELOG.md '1s/$/ of everything/'
expect same edit deploy/INSTALL.md '1s/$/ today/'
expect same edit config/edgellm.toml '1s/$/ today/'
expect same edit deploy/package.sh 's/^# Makes the package/# Makes a package/'
expect same edit src/engine/context.rs '1i // Another remark.'
expect same edit src/engine/cpu/portable.rs 's/^\/\/! .*/\/\/! Another remark./'

rm build.rs
if said=$(fingerprint 2>&1); then
    complain "a file that it reads may be missing: $said"
fi
exit "$failed"
