#!/usr/bin/env bash
# Writes the files that are generated from the declarations of settings in src/config/sections/: run it after a change of those.
# `cargo test` fails while one of them is not up to date.
set -euo pipefail
# shellcheck source=deploy/setup-lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup-lib.sh"

base_environment
find_rust
build
# The paths in the file are relative to its folder, as it is packed together with the model.
# Without the variables of whoever calls this.
env -i "$binary" config template --model "$root/models/kiosk/kiosk.gguf" --context 16384 --max-running 16 |
    sed "s|$root/|../|" >"$root/config/edgellm.toml.new"
mv "$root/config/edgellm.toml.new" "$root/config/edgellm.toml"
env -i "$binary" config reference >"$root/docs/settings.md.new"
mv "$root/docs/settings.md.new" "$root/docs/settings.md"
