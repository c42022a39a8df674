#!/usr/bin/env bash
# rustc for run.sh: what is ours is compiled with the counters that libFuzzer reads, dependencies as for the server.
set -euo pipefail
counted=(
    --cfg fuzzing
    -Cpasses=sancov-module
    -Cllvm-args=-sanitizer-coverage-level=4
    -Cllvm-args=-sanitizer-coverage-inline-8bit-counters
    -Cllvm-args=-sanitizer-coverage-pc-table
    -Cllvm-args=-sanitizer-coverage-trace-compares
)
case " $* " in
    *" --crate-name edgellm "* | *" --crate-name body "* | *" --crate-name answer "* | *" --crate-name schema "* | \
        *" --crate-name tokenize "*) exec "$@" "${counted[@]}" ;;
    *) exec "$@" ;;
esac
