#!/usr/bin/env bash
# Prints this machine's architecture and one hash over everything in the repository that only the package shows to be
# wrong. ./test.sh builds and tries the package where deploy/package.tried does not have that line.
#
# Not in it:
#   - what other stages run just the same: the server's code, its configuration, what setup-lib.sh has for all scripts
#   - documents, licences and the unit, which are copied as they are; but whether they are there
#   - the version number; the versions of crates other than llama.cpp's
#   - comments
#   - docker/Dockerfile, which nothing here tries
#   - what is not in the repository, such as the compiler: ./test.sh long builds and tries the package whatever has changed
set -euo pipefail
shopt -s inherit_errexit # a file that is missing is a failure, in $(…) too
export LC_ALL=C
cd "$(dirname "${BASH_SOURCE[0]}")/.."

# How it is built, laid out and tried.
scripts() {
    sed '/^ *#/d' deploy/package.sh deploy/package-check.sh deploy/cpu-kernels.sh deploy/llama.cmake
}

# The run path of the program, the choice among ggml's libraries, and the program started again by itself: beside the
# packed OpenMP, and to try schemas and models.
portable_code() {
    sed '/^ *\/\//d' build.rs src/engine/{cpu,cpu/portable,openmp,trial,trial/child}.rs src/grammar/{trial,trial/child}.rs
}

# Linked into one program they are all there; of the libraries' only what those export.
functions_of_llama_cpp() {
    grep -rhoE '\b(llama|ggml|gguf)_[a-z0-9_]+\(' src/engine | sort -u
}

# Features and how it is compiled, and llama.cpp's crates, which build the libraries.
manifest() {
    awk '/^\[/ { wanted = /^\[(features|profile)/ } wanted && !/^#/' Cargo.toml
    grep '^llama-cpp' Cargo.toml
    grep -A 3 '^name = "llama-cpp' Cargo.lock
}

# A new one may want a library that a bare system lacks, or have a licence that cannot be packed.
crates() { grep '^name = ' Cargo.lock; }

# The oldest processors' kernels answer with it.
model() { sha256sum models/kiosk/kiosk.gguf; }

copied() {
    local file
    grep -s '^ExecStart=' deploy/edgellm.service || true
    # Whatever else there is is not packed.
    [[ ! -d docs ]] || find docs -type f ! -path 'docs/*.md' ! -path 'docs/*.png' -o -mindepth 1 -type d
    for file in config/edgellm.toml models/kiosk/README.md deploy/{INSTALL.md,edgellm.service,edgellm.socket,edgellm-admin.socket} \
        LICENSE-{APACHE,MIT} {README,CHANGELOG,BENCHMARKS,ARCHITECTURE,CONTRIBUTING}.md; do
        [[ -e $file ]] || echo "there is no $file"
    done
    for file in 'docs/*.md' 'docs/*.png' 'deploy/prometheus/*.yml' 'grafana/dashboards/*'; do
        compgen -G "$file" >/dev/null || echo "there is nothing like $file"
    done
}

everything() {
    scripts
    portable_code
    functions_of_llama_cpp
    manifest
    crates
    model
    copied
}

contents=$(everything)
echo "$(uname -m) $(sha256sum <<<"$contents" | cut -d' ' -f1)"
