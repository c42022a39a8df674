#!/usr/bin/env bash
# deploy/edgellm.service and its sockets: systemd knows every line of them, and what must hold does.
set -euo pipefail

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)/../..
unit=$root/deploy/edgellm.service
socket=$root/deploy/edgellm.socket
admin=$root/deploy/edgellm-admin.socket
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

# Lines that a comment suggests.
example() { sed -n 's/^#   //p' "$1"; }

# The sockets, beside the service that they are for: as they are, and with what comments in them suggest.
mkdir "$place/sockets" "$place/more"
cp "$place/right/edgellm.service" "$socket" "$admin" "$place/sockets"
cp "$place/right/edgellm.service" "$admin" "$place/more"
{ sed '/^\[Install\]/,$d' "$socket" && example "$socket"; } >"$place/more/edgellm.socket"
for folder in sockets more; do
    said=$(systemd-analyze verify "$place/$folder"/* 2>&1 || echo "exit code $?")
    [[ -z $said ]] || complain "the $folder: $said"
done
grep -qx FileDescriptorName=clients "$socket" || complain "edgellm.socket must be the clients'"
grep -qx FileDescriptorName=admin "$admin" || complain "edgellm-admin.socket must be the operators'"
grep -qx Service=edgellm.service "$admin" || complain "edgellm-admin.socket must start edgellm"
grep -q '^IPAddressDeny=any' "$place/more/edgellm.socket" || complain "edgellm.socket has no example of a site's networks"

# What a comment says of networks is right, too.
mkdir "$place/networks"
{ sed '/^\[Install\]/,$d' "$place/right/edgellm.service" && example "$unit"; } >"$place/networks/edgellm.service"
grep -q '^IPAddressDeny=any' "$place/networks/edgellm.service" || complain "there is no example of a site's networks"
said=$(verify networks)
[[ -z $said ]] || complain "with the example of networks: $said"

# holds LINE...: the unit has it, and no other value of the same setting.
holds() {
    local line
    for line in "$@"; do
        [[ $(grep "^${line%%=*}=" "$unit") == "$line" ]] || complain "it must say $line"
    done
}

# It says itself when it is ready and that it is alive, and is ended when it does not.
holds Type=notify NotifyAccess=main
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

# What docs/restarts.md tells who writes a unit of their own is what ours has.
# shellcheck disable=SC2016 # marks of a code block
told=$(sed -n '/^## A unit of your own/,$p' "$root/docs/restarts.md" | sed -n '/^```ini/,/^```$/{/=/p}')
[[ -n $told ]] || complain "docs/restarts.md has no lines for a unit"
while IFS= read -r line; do
    grep -Fqx -- "$line" "$unit" || complain "docs/restarts.md has another line: $line"
done <<<"$told"

# seconds KEY: of the unit.
seconds() { sed -n "s/^$1=\([0-9]*\)$/\1/p" "$unit"; }

# The watchdog is slow enough for a busy box and fast enough for a shop; a process that does not end of SIGABRT is not waited for.
[[ $(seconds WatchdogSec) -ge 10 && $(seconds WatchdogSec) -le 60 ]] || complain "WatchdogSec is not from 10 to 60"
[[ $(seconds TimeoutAbortSec) -le $(seconds WatchdogSec) ]] || complain "TimeoutAbortSec must bound the end of a process that hangs"
# What the comment says in all.
stall=$(sed -n 's/^#*stall_timeout_seconds = \([0-9]*\).*/\1/p' "$root/config/edgellm.toml")
grep -q "stall_timeout_seconds ($stall)" "$unit" || complain "the comment of WatchdogSec has another stall_timeout than ${stall:-?} s"
grep -q " $((stall + $(seconds WatchdogSec))) in all" "$unit" || complain "the comment of WatchdogSec does not add up"
# The program asks for as much again whenever a load gets further.
patience=$(sed -n 's/.*LOAD_PATIENCE: Duration = Duration::from_secs(\([0-9]*\)).*/\1/p' "$root/src/systemd/start.rs")
[[ $(seconds TimeoutStartSec) == "$patience" ]] || complain "TimeoutStartSec is not the ${patience:-?} s of src/systemd/start.rs"

grace=$(sed -n 's/^#*shutdown_grace_seconds = \([0-9]*\).*/\1/p' "$root/config/edgellm.toml")
[[ $(seconds TimeoutStopSec) -gt $((grace + 10)) ]] || complain "TimeoutStopSec must leave time for the ${grace:-?} s of answers"

# How much a program in it could do, by systemd's own count in tenths; newer ones than Ubuntu 22.04's can tell offline.
if [[ $(systemd-analyze --version | sed -n '1s/systemd \([0-9]*\).*/\1/p') -ge 250 ]]; then
    systemd-analyze security --offline=true --threshold=15 --no-pager "$place/right/edgellm.service" >"$place/exposure" ||
        complain "more exposed than it was: $(tail -n 1 "$place/exposure")"
fi
exit "$failed"
