#!/usr/bin/env bash
# Throws generated input at a target: body (of a request), answer (of a model), schema (that an answer must fit),
# tokenize (runs of characters, with every pre-tokenizer), headers (of a request), resume (what clients of
# recorded streams do), keys (the file of API keys) or gguf (the header of a model file).
#   fuzz/run.sh body -max_total_time=600    everything behind the target's name goes to libFuzzer
# What fails is left beside this file as crash-…; `fuzz/run.sh body fuzz/crash-…` repeats it.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=$1
shift
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-$(dirname "$here")/target}")
export CARGO_TARGET_DIR RUSTC_WRAPPER=$here/rustc.sh
# The server's versions, and whatever else the targets need.
cp "$here/../Cargo.lock" "$here/Cargo.lock"
(cd "$here" && ${CARGO:-cargo} build --release --bin "$target")
for argument; do [[ $argument == -* ]] || exec "$CARGO_TARGET_DIR/release/$target" "$@"; done
mkdir -p "$here/corpus/$target"
dictionary=()
[[ ! -e $here/$target.dict ]] || dictionary=(-dict="$here/$target.dict")
exec "$CARGO_TARGET_DIR/release/$target" -artifact_prefix="$here/" "${dictionary[@]}" -timeout=5 \
    -max_len=16384 "$@" "$here/corpus/$target" "$here/seeds/$target"
