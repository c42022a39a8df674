#!/usr/bin/env bash
# Makes an archive and its checksum as deploy/package.sh does, with its own functions, but compiles nothing: the program is
# a script that calls another one, and the libraries are empty.
#
#   tests/docs/package.sh VERSION PROGRAM FOLDER
set -euo pipefail
root=$(realpath "$(dirname "${BASH_SOURCE[0]}")/../..")
name=edgellm-$1-linux-$(uname -m)
out=$3/$1
folder=$out/$name
target=$3/built-$1
built=$target/libraries
mkdir -p "$target/portable/release" "$built/lib" "$built/backends"
printf '#!/bin/sh\nexec "%s" "$@"\n' "$2" >"$target/portable/release/edgellm"
touch "$built"/lib/lib{llama,ggml,ggml-base}.so.0 "$built/backends/libggml-cpu-x64.so" "$built/libgomp.so.1"

# Instead of what only a real program allows.
strip() { :; }
path_of() { echo "$built/$1"; }

functions=$(sed -n '/^lay_out() {/,/^}/p; /^archive() {/,/^}/p' "$root/deploy/package.sh")
eval "$functions"
lay_out "$built"
echo "edgellm $1" >"$folder/BUILD"
echo "# The unit of version $1" >>"$folder/systemd/edgellm.service"
export SOURCE_DATE_EPOCH=0
(archive)
