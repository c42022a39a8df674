#!/usr/bin/env bash
# Trains the kiosk model and writes kiosk.gguf. Interrupted, it resumes where it was.
#
#   ./train.sh                        3 hours from nothing (or on from build/run)
#   ./train.sh --hours 8              longer; any option of train.py
#   ./train.sh --from kiosk.gguf      go on from a GGUF instead
set -euo pipefail
cd "$(dirname "$0")"

venv=build/venv run=build/run python=build/venv/bin/python
mkdir -p "$run"
if ! cmp -s requirements.txt "$venv/requirements.txt"; then
    python3 -m venv "$venv"
    "$venv/bin/pip" install --requirement requirements.txt
    # llama.cpp only checks the result. Never for the native CPU: virtual machines list AMX without enabling it.
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX2=ON -DGGML_FMA=ON -DGGML_F16C=ON -DGGML_AMX_TILE=OFF -DLLAVA_BUILD=OFF" \
        nice "$venv/bin/pip" install llama-cpp-python==0.3.36
    cp requirements.txt "$venv/requirements.txt"
fi

# Waiting threads that spin take the cores from whatever else runs here.
export OMP_WAIT_POLICY=PASSIVE TOKENIZERS_PARALLELISM=false

previous=
for argument in "$@"; do  # a model keeps its own vocabulary
    if [[ $previous == --from ]]; then "$python" gguf_file.py "$run" "$argument" --vocabulary; fi
    previous=$argument
done
[[ -e $run/tokenizer.json ]] || "$python" tokenizer.py "$run/tokenizer.json"

"$python" train.py "$run" "$@" | tee -a "$run/log"
"$python" gguf_file.py "$run" kiosk.gguf
"$python" check.py kiosk.gguf
