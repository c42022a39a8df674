# shellcheck shell=bash
# What run.sh and test.sh share: finding Rust, installing packages, building. Sourced, never run.
# Everything works without a terminal, without stdin and with an empty environment.

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)

say() { echo "edgellm: $*"; }

die() {
    echo "edgellm: $*" >&2
    exit 1
}

# Through sudo only the packages are installed as root; the rest runs as the owner of the checkout,
# so that no root-owned files stay behind in it. Call with the script and its arguments.
leave_sudo() {
    [[ $EUID -eq 0 && -n ${SUDO_USER:-} && $SUDO_USER == "$(stat -c %U "$root")" ]] || return 0
    exec setpriv --reuid "$SUDO_USER" --regid "$(id -gn "$SUDO_USER")" --init-groups \
        env -u SUDO_USER -u CARGO_HOME -u RUSTUP_HOME HOME="$(home_of "$SUDO_USER")" "$@"
}

home_of() { getent passwd "$1" | cut -d: -f6; }

base_environment() {
    export PATH="${PATH:-/usr/bin:/bin}:/usr/local/bin:/usr/sbin:/sbin"
    [[ -n ${HOME:-} ]] || HOME=$(home_of "$(id -un)")
    export HOME
    target=${CARGO_TARGET_DIR:-target}
    [[ $target == /* ]] || target=$root/$target
    # Read by the scripts that source this file.
    # shellcheck disable=SC2034
    binary=$target/release/edgellm
}

# Puts cargo on the PATH and checks that it is new enough.
find_rust() {
    local dir wanted have
    for dir in "${CARGO_HOME:-$HOME/.cargo}/bin" /usr/local/cargo/bin; do
        command -v cargo >/dev/null || PATH=$dir:$PATH
    done
    if ! command -v cargo >/dev/null && [[ -n ${SUDO_USER:-} ]]; then
        # A checkout of root's, built through sudo: borrow the caller's toolchain, not the caller's caches.
        RUSTUP_HOME=$(home_of "$SUDO_USER")/.rustup
        PATH=$(home_of "$SUDO_USER")/.cargo/bin:$PATH
        export RUSTUP_HOME
    fi
    command -v cargo >/dev/null || die "no Rust toolchain found: install one from https://rustup.rs and try again"
    wanted=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' "$root/Cargo.toml")
    have=$(cd "$root" && cargo --version) || die "cargo does not start: check the Rust toolchain with 'rustup show'"
    have=$(cut -d' ' -f2 <<<"$have")
    [[ $(printf '%s\n' "$wanted" "$have" | sort -V | head -n1) == "$wanted" ]] ||
        die "Rust $have is too old, $wanted is needed: run 'rustup update stable'"
}

# install_packages PACKAGE...: through apt, as root or with sudo. No packages, nothing to do.
install_packages() {
    [[ $# -gt 0 ]] || return 0
    local by_hand="apt-get install -y $*" as_root=()
    command -v apt-get >/dev/null || die "this system has no apt-get; install what Debian calls: $*"
    if [[ $EUID -ne 0 ]]; then
        command -v sudo >/dev/null || die "packages are missing and there is no sudo; as root: $by_hand"
        as_root=(sudo)
        [[ -t 0 ]] || as_root=(sudo -n)
    fi
    say "installing packages: $*"
    local apt=("${as_root[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3)
    local log
    log=$(mktemp)
    {
        "${apt[@]}" install -y --no-install-recommends "$@" ||
            { "${apt[@]}" update && "${apt[@]}" install -y --no-install-recommends "$@"; }
    } </dev/null >"$log" 2>&1 || {
        tail -n 15 "$log" >&2
        die "could not install packages; by hand, as root: $by_hand"
    }
    rm -f "$log"
}

have_any() {
    local name
    for name in "$@"; do command -v "$name" >/dev/null && return; done
    return 1
}

have_file() { compgen -G "$1" >/dev/null; }

install_build_packages() {
    local missing=()
    have_any c++ || missing+=(g++)
    have_any cmake || missing+=(cmake)
    have_any make ninja || missing+=(make)
    # bindgen reads llama.cpp's headers with libclang and with the C headers that belong to it.
    [[ -n ${LIBCLANG_PATH:-} ]] || {
        have_file '/usr/lib/llvm-*/lib/libclang*.so*' && have_file '/usr/lib/llvm-*/lib/clang/*/include/stddef.h'
    } || missing+=(libclang-dev)
    # cargo downloads crates over TLS.
    have_file /etc/ssl/certs/ca-certificates.crt || have_file /etc/pki/tls/certs/ca-bundle.crt ||
        missing+=(ca-certificates)
    install_packages "${missing[@]}"
}

build() {
    "$root/deploy/cpu-kernels.sh"
    [[ -x $binary ]] || say "first build: llama.cpp and the server, about 5 minutes on 2 cores; later starts take seconds"
    (cd "$root" && cargo build --release --locked </dev/null) ||
        die "the build failed; the compiler's message is above"
}
