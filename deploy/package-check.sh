#!/usr/bin/env bash
# Tries a package as a fresh box would: unpacked anywhere, started in an empty folder with an empty environment, and
# asked a question; then as a box with the oldest processor, and with the libraries lost.
#
#   deploy/package-check.sh PACKAGE.tar.gz
#
# It needs bash, tar and what else every Debian has.
set -euo pipefail

package=$(realpath "$1")
place=$(mktemp -d)
server=

end() {
    [[ -z $server ]] || kill -KILL "$server" 2>/dev/null || true
    rm -rf "$place"
}
trap end EXIT
trap 'exit 130' INT TERM

fail() {
    echo "package: $*" >&2
    [[ ! -e $place/log ]] || tail -n 30 "$place/log" >&2
    exit 1
}

# Instead of the shell that calls it.
edgellm() {
    cd "$place/empty"
    exec env -i HOME= PATH= "$folder/bin/edgellm" "$@"
}

# Starts the server; url is then where it answers.
start() {
    : >"$place/log" # a new one: the last server's says ready
    edgellm serve --config "$folder/config/edgellm.toml" --listen 127.0.0.1:0 >>"$place/log" 2>&1 &
    server=$!
    local deadline=$((SECONDS + 60))
    until grep -q 'ready: http' "$place/log"; do
        kill -0 "$server" 2>/dev/null || fail "the server ended"
        [[ $SECONDS -lt $deadline ]] || fail "the server was not ready within a minute"
        sleep 0.2
    done
    url=$(grep -o 'http://127.0.0.1:[0-9]*' "$place/log" | head -n1)
}

# Without curl, which a bare box need not have.
ask() {
    # shellcheck disable=SC2016 # prices
    local body='{"model": "kiosk", "temperature": 0, "messages": [
        {"role": "system", "content": "You are the assistant of Harbour Corner Shop.\nProducts:\n- Brindle Oat Bar: $2.49, aisle 7, 31 in stock\n- Velmont Ground Coffee: $8.90, aisle 12, 14 in stock"},
        {"role": "user", "content": "Where is the Velmont Ground Coffee?"}]}'
    exec {connection}<>"/dev/tcp/127.0.0.1/${url##*:}"
    printf 'POST /v1/chat/completions HTTP/1.1\r\nhost: box\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s' \
        "${#body}" "$body" >&"$connection"
    timeout 60 cat <&"$connection" || true
    exec {connection}>&-
}

# The pages for users lead to each other, and the unit to the program.
leads_somewhere() {
    local page link
    for page in README.md deploy/INSTALL.md docs/*.md; do
        while read -r link; do
            [[ -e $(dirname "$page")/$link ]] || fail "$page leads to $link, which is not there"
        done < <(grep -oE '\]\([^)# ]+' "$page" | sed 's/^](//' | grep -v '://')
    done
    # shellcheck disable=SC2013 # words
    for link in $(sed -n 's/^ExecStart=//p' systemd/edgellm.service); do
        [[ $link != /* || -e .${link#/opt/edgellm} ]] || fail "the unit names $link, which is not there"
    done
}

# answers LIBRARY: serves, with this CPU library, and with no libraries but the package's and what every system has.
answers() {
    local answer library status=0
    start
    (edgellm health "$url") >/dev/null || fail "edgellm health says that it is not ready"
    answer=$(ask)
    [[ $answer == *"200 OK"*"aisle 12"* ]] || fail "the wrong answer: $answer"
    while read -r library; do
        case $library in
            "$folder"/lib/edgellm/*) ;;
            */ld-linux-* | */libc.so.6 | */libm.so.6 | */libgcc_s.so.1 | */libstdc++.so.6*) ;;
            *) fail "it uses a library that is not its own: $library" ;;
        esac
    done < <(awk '$6 ~ /\.so/ { print $6 }' "/proc/$server/maps" | sort -u)
    library=$(grep -o '/libggml-cpu-[^/]*\.so$' <(awk '{ print $6 }' "/proc/$server/maps" | sort -u))
    # shellcheck disable=SC2053 # a pattern
    [[ $library == $1 ]] || fail "it took $library, and not $1"
    kill -TERM "$server"
    wait "$server" || status=$?
    server=
    [[ $status -eq 0 ]] || fail "it ended with exit code $status"
    echo "  with $(basename "$library"): right"
}

(cd "$(dirname "$package")" && sha256sum --quiet --check "$(basename "$package").sha256") || fail "the checksum is wrong"
mkdir "$place/empty" "$place/unpacked"
tar -xzf "$package" -C "$place/unpacked"
folder=$(echo "$place"/unpacked/edgellm-*)
echo "$(basename "$folder"), $(du -sh "$folder" | cut -f1) unpacked"

(cd "$folder" && leads_somewhere)
answers '*'

# Oldest first on both architectures.
backends=$folder/lib/edgellm/backends
for oldest in x64 armv8.0_1; do
    [[ -e $backends/libggml-cpu-$oldest.so ]] && break
done
mkdir "$place/other"
mv "$backends"/libggml-cpu-*.so "$place/other"
mv "$place/other/libggml-cpu-$oldest.so" "$backends"
answers "/libggml-cpu-$oldest.so"

# refuses WORDS: does not start, and says so.
refuses() {
    local status=0
    (edgellm serve --config "$folder/config/edgellm.toml" --listen 127.0.0.1:0) >"$place/log" 2>&1 || status=$?
    [[ $status -eq 1 ]] || fail "without a library for the processor it ended with exit code $status"
    grep -qF "$1" "$place/log" || fail "it does not say: $1"
}

: >"$backends/libggml-cpu-$oldest.so"
refuses "cannot load the CPU libraries in $backends"
rm "$backends/libggml-cpu-$oldest.so"
[[ $oldest != x64 ]] || refuses "no CPU library in $backends suits this processor"
rmdir "$backends"
refuses "there is no folder $backends"
echo "  without its libraries: says so"
