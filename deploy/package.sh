#!/usr/bin/env bash
# Makes the package for other machines: one folder with the program, kernels for every processor of this architecture,
# the shipped model, its configuration, a systemd unit and an install note; as an archive with a checksum. Then unpacks
# the archive elsewhere and tries it.
#
#   deploy/package.sh     makes target/package/edgellm-VERSION-linux-ARCH.tar.gz and .tar.gz.sha256
#
# The package needs nothing of the other machine but glibc and libstdc++, not much older than this one's; its file BUILD
# says which.
set -euo pipefail
# shellcheck source=deploy/setup-lib.sh
source "$(dirname "${BASH_SOURCE[0]}")/setup-lib.sh"

base_environment
install_build_packages
leave_sudo "$root/deploy/package.sh" "$@"
find_rust

version=$(sed -n 's/^version = "\(.*\)"/\1/p' "$root/Cargo.toml" | head -n1)
name=edgellm-$version-linux-$(uname -m)
out=$target/package
folder=$out/$name

# Prints the folder where llama.cpp's crate has put its libraries.
build_portable() {
    # Beside the usual build and not in it: both would take turns in making the other's files anew.
    export CARGO_TARGET_DIR=$target/portable
    # Like .cargo/config.toml, but the processor of this machine has no say.
    export CMAKE_PROJECT_INCLUDE=$root/deploy/llama.cmake
    local variable value
    while IFS='=' read -r variable value; do
        export "$variable=$value"
    done < <(EDGELLM_KERNELS=baseline "$root/deploy/cpu-kernels.sh" --print |
        sed -n 's/^\([A-Z][A-Z0-9_]*\) = "\(.*\)"$/\1=\2/p')
    # llama.cpp's crate leaves links here that lead nowhere, and fails when it finds them at its next build.
    mkdir -p "$CARGO_TARGET_DIR/release"
    find "$CARGO_TARGET_DIR/release" -maxdepth 2 -name 'lib*.so' -xtype l -delete
    cd "$root"
    cargo build --release --locked --features portable --message-format json-render-diagnostics </dev/null |
        sed -n 's/.*llama-cpp-sys-2@.*"out_dir":"\([^"]*\)".*/\1/p'
}

lay_out() {
    local built=$1 library lib=$folder/lib/edgellm
    rm -rf "$out"
    install -D -t "$folder/bin" "$target/portable/release/edgellm"
    # Function names stay, for backtraces; line tables are five sixths of the file.
    strip --strip-debug "$folder/bin/edgellm"
    for library in llama ggml ggml-base; do
        install -D -m 644 -t "$lib" "$built"/lib*/"lib$library.so.0"
    done
    install -D -m 644 -t "$lib/backends" "$built"/backends/libggml-cpu-*.so
    # It uses AMX, which virtual machines list without enabling it; the program never loads it.
    rm -f "$lib/backends/libggml-cpu-sapphirerapids.so"
    # The same as armv8.6 (llama.cmake).
    rm -f "$lib"/backends/libggml-cpu-armv9.2_*.so
    # A bare Debian has no libgomp1, and a box in a store no network to get it from. The rest of GCC's runtime is on every
    # system, and this one's would ask for a newer glibc than edgellm does.
    install -m 644 -t "$lib" "$(path_of libgomp.so.1)"
    install -D -m 644 -t "$folder/config" "$root/config/edgellm.toml"
    install -D -m 644 -t "$folder/models/kiosk" "$root"/models/kiosk/{kiosk.gguf,README.md}
    install -D -m 644 -t "$folder/systemd" "$root"/deploy/edgellm{.service,.socket,-admin.socket}
    # At the same places as in the repository, so that their links to each other lead somewhere.
    install -D -m 644 -t "$folder/docs" "$root"/docs/*.{md,png}
    install -D -m 644 -t "$folder/deploy" "$root/deploy/INSTALL.md"
    install -D -m 644 -t "$folder/deploy/prometheus" "$root"/deploy/prometheus/*.yml
    cp -r "$root/grafana" "$folder/grafana"
    install -D -m 644 -t "$folder/models/shapes" "$root/models/shapes/README.md"
    install -m 644 -t "$folder" "$root"/LICENSE-{APACHE,MIT} "$root"/{README,CHANGELOG,BENCHMARKS,ARCHITECTURE,CONTRIBUTING}.md
    ln -s deploy/INSTALL.md "$folder/INSTALL.md"
}

# path_of LIBRARY: where the loader finds it for the program.
path_of() {
    local path
    path=$(ldd "$folder/bin/edgellm" | awk -v name="$1" '$1 == name && $3 ~ "^/" { print $3; exit }')
    [[ -n $path ]] || die "the program does not use $1, or it is not installed: $(ldd "$folder/bin/edgellm" | grep -F "$1")"
    echo "$path"
}

# What the person at the box may want to know, and the only facts that differ from build to build.
describe() {
    local versions
    versions=$(find "$folder" -type f \( -name edgellm -o -name '*.so' -o -name '*.so.*' \) -exec readelf --version-info --wide {} +)
    newest() { grep -o "$1_[0-9.]*" <<<"$versions" | sort --version-sort | tail -n1; }
    echo "edgellm $version for Linux on $(uname -m)"
    echo "commit: $(git -C "$root" describe --always --dirty --exclude '*' 2>/dev/null || echo unknown)"
    echo "needs: glibc with $(newest GLIBC), libstdc++ with $(newest GLIBCXX), and nothing else"
    echo "compiled on: $(os_name), with $(rustc --version), $(c++ --version | head -n1)"
}

# The licences of everything that is in the package and not this project's.
licences() {
    local folder=$folder/licences
    mkdir -p "$folder"
    crate_licences >"$folder/rust-crates.txt"
    {
        echo "lib/edgellm/libgomp.so.1 is a run-time library of GCC, unchanged from $(os_name), $(c++ --version | head -n1)."
        echo "It is under the GNU General Public License 3 with the GCC Runtime Library Exception 3.1, which lets programs"
        echo "of any licence use it. Its source is at https://gcc.gnu.org/ and in that distribution's source package of gcc."
        echo "Where the system has its own libgomp.so.1 (Debian: libgomp1), this file may be deleted."
        if [[ -e /usr/share/doc/libgomp1/copyright ]]; then
            printf '\n========\n\n'
            cat /usr/share/doc/libgomp1/copyright
        fi
    } >"$folder/libgomp.txt"
}

os_name() { sed -n 's/^PRETTY_NAME="\(.*\)"/\1/p' /etc/os-release; }

# Each text once, after the names of the crates that come with it. llama.cpp is in llama-cpp-sys-2.
crate_licences() {
    local sources=${CARGO_HOME:-$HOME/.cargo}/registry/src package crate licence text sum
    local -A texts=() users=()
    while IFS='|' read -r package licence; do
        crate=${package% v*}-${package##* v}
        [[ $crate != edgellm-* ]] || continue
        crate=("$sources"/*/"$crate")
        [[ -d ${crate[0]} ]] || die "the source of $package is not in $sources, and its licence belongs into the package"
        echo "$package: $licence"
        while read -r sum text; do
            texts[$sum]=$text
            users[$sum]+="${users[$sum]:+, }${package% v*}"
        done < <(find "${crate[0]}" -type f \
            \( -iname 'licen[sc]e*' -o -iname 'copying*' -o -iname 'notice*' \) \
            \( -path "${crate[0]}/*/*/*/*/*" -prune -o -exec sha256sum {} + \) | sort)
    done < <(cd "$root" && cargo tree --locked --features portable --edges normal --prefix none --no-dedupe \
        --format '{p}|{l}' | sed 's/ (proc-macro)//' | sort -u)
    for sum in "${!texts[@]}"; do
        printf '\n======== %s\n\n' "${users[$sum]}"
        cat "${texts[$sum]}"
    done
}

archive() {
    local when
    # The commit's time, so that the same source makes the same archive.
    when=${SOURCE_DATE_EPOCH:-$(git -C "$root" log -1 --format=%ct 2>/dev/null || date +%s)}
    chmod -R u=rwX,go=rX "$folder"
    cd "$out"
    tar --sort=name --owner=0 --group=0 --numeric-owner --mtime="@$when" -cf - "$name" | gzip -9n >"$name.tar.gz"
    sha256sum "$name.tar.gz" >"$name.tar.gz.sha256"
}

say "building with the kernels of all processors; the first time takes some 8 minutes on 2 cores"
built=$(build_portable)
[[ -d $built ]] || die "the build failed; the compiler's message is above"
lay_out "$built"
describe >"$folder/BUILD"
licences
(archive)
"$root/deploy/package-check.sh" "$out/$name.tar.gz"
say "made $out/$name.tar.gz ($(du -h "$out/$name.tar.gz" | cut -f1))"
