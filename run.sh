#!/usr/bin/env bash
# Installs what the build needs, builds, and serves the model that ships with the repository on
# http://127.0.0.1:8080. Arguments go to `edgellm serve`, for example: ./run.sh --model my.gguf
set -euo pipefail
source "$(dirname "${BASH_SOURCE[0]}")/deploy/setup-lib.sh"

base_environment
install_build_packages
leave_sudo "$root/run.sh" "$@"
find_rust
build
exec "$binary" serve --config "$root/config/edgellm.toml" "$@"
