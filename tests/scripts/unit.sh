#!/usr/bin/env bash
# deploy/edgellm.service: systemd knows every line of it, and what must hold does.
set -euo pipefail

unit=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../../deploy/edgellm.service
place=$(mktemp -d)
trap 'rm -rf "$place"' EXIT
failed=0

complain() {
    echo "edgellm.service: $*"
    failed=1
}

# verify FOLDER: what systemd has to say about the unit in it.
verify() { systemd-analyze verify "$place/$1/edgellm.service" 2>&1 || echo "exit code $?"; }

mkdir "$place/right" "$place/wrong"
# As on a box where the program is there.
sed 's|^ExecStart=/opt/edgellm/bin/edgellm|ExecStart=/bin/true|' "$unit" >"$place/right/edgellm.service"
said=$(verify right)
[[ -z $said ]] || complain "$said"

# Such mistakes do not make systemd fail, but it names them.
sed 's/^MemoryMax=/MemoryMaximum=/; s/^TasksMax=.*/TasksMax=many/' "$place/right/edgellm.service" >"$place/wrong/edgellm.service"
said=$(verify wrong)
[[ $said == *MemoryMaximum* && $said == *many* ]] || complain "mistakes are not noticed, only: $said"

# holds LINE...: the unit has it, and no other value of the same setting.
holds() {
    local line
    for line in "$@"; do
        [[ $(grep "^${line%%=*}=" "$unit") == "$line" ]] || complain "it must say $line"
    done
}

# It comes back, whatever ended it and however often, but not with a configuration that cannot be right.
holds StartLimitIntervalSec=0 Restart=always RestartSec=500ms RestartPreventExitStatus=2
# Its memory goes to no disk.
holds LimitCORE=0 CoredumpFilter=0 MemorySwapMax=0
# Restarts are counted.
holds RuntimeDirectory=edgellm RuntimeDirectoryPreserve=yes
# A helper's end is not the service's.
holds OOMPolicy=continue
for setting in MemoryMax TasksMax OOMScoreAdjust; do
    grep -q "^$setting=[0-9]" "$unit" || complain "it must bound $setting"
done

# seconds KEY: of the unit.
seconds() { sed -n "s/^$1=\([0-9]*\)$/\1/p" "$unit"; }

grace=$(sed -n 's/^#*shutdown_grace_seconds = \([0-9]*\).*/\1/p' "$(dirname "$unit")/../config/edgellm.toml")
[[ $(seconds TimeoutStopSec) -gt $((grace + 10)) ]] || complain "TimeoutStopSec must leave time for the ${grace:-?} s of answers"

# How much a program in it could do, by systemd's own count in tenths; newer ones than Ubuntu 22.04's can tell offline.
if [[ $(systemd-analyze --version | sed -n '1s/systemd \([0-9]*\).*/\1/p') -ge 250 ]]; then
    systemd-analyze security --offline=true --threshold=15 --no-pager "$place/right/edgellm.service" >"$place/exposure" ||
        complain "more exposed than it was: $(tail -n 1 "$place/exposure")"
fi
exit "$failed"
