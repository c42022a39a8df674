#!/usr/bin/env bash
# Makes a software bill of materials: every crate that is compiled into the program, with its version, licence and
# checksum, as CycloneDX JSON.
#
#   deploy/sbom.sh FILE     writes FILE, e.g. edgellm-0.3.0.cdx.json
#
# The tool is OWASP's cargo-cyclonedx (Apache-2.0). It is compiled once, into target/tools, in some two minutes.
set -euo pipefail
# shellcheck source=deploy/setup-lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup-lib.sh"

CARGO_CYCLONEDX_VERSION=0.5.9
SPECIFICATION=1.5

base_environment
[[ $# -eq 1 ]] || die "usage: deploy/sbom.sh FILE"
find_rust
tools=$target/tools

install_cyclonedx() {
    [[ $("$tools/bin/cargo-cyclonedx" cyclonedx --version 2>/dev/null) == *" $CARGO_CYCLONEDX_VERSION" ]] && return
    # Unoptimised, because compiling it takes longer than all its runs.
    CARGO_TARGET_DIR=$tools/sbom-build cargo install --debug --locked --version "$CARGO_CYCLONEDX_VERSION" --root "$tools" cargo-cyclonedx
    rm -rf "$tools/sbom-build"
}

# The commit's time, so that the same source makes the same list.
commit_time() { git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s; }

write_bill() {
    local made=$root/edgellm.cdx.json
    # The file appears beside Cargo.toml; the tool cannot be told another folder.
    SOURCE_DATE_EPOCH=${SOURCE_DATE_EPOCH:-$(commit_time)} "$tools/bin/cargo-cyclonedx" cyclonedx --quiet --format json \
        --spec-version "$SPECIFICATION" --manifest-path "$root/Cargo.toml" --features portable --no-build-deps \
        --target "$(rustc -vV | sed -n 's/^host: //p')" --override-filename edgellm.cdx
    # Where it was checked out is nobody's business.
    sed "s|file://$root|file:///edgellm|g" "$made" >"$1"
    rm "$made"
}

install_cyclonedx
write_bill "$1"
