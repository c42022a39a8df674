"""A box before anything is installed, below a folder of the test, and root's programs, which note their calls instead."""

import os
import re
import shutil
import ssl
import subprocess
from pathlib import Path

import box
from gateway import environment, free_port
from served import Served

NOTED = '#!/bin/sh\necho "${0##*/} $*" >>"$BOX/calls"\n'
STUBS = {
    "systemctl": NOTED,
    "journalctl": NOTED,
    "udevadm": NOTED,
    "userdel": NOTED,
    "useradd": NOTED,
    # `runuser -u USER -- COMMAND`, as whoever runs the tests.
    "runuser": NOTED + 'shift 3\nexec "$@"\n',
    # A user is there from the moment that it was added.
    "id": '#!/bin/sh\ngrep -q "^useradd .* $1\\$" "$BOX/calls"\n',
    # Without the owner, whom this machine does not know.
    "install": NOTED + f"""[ "$1" != -o ] || shift 2
[ "$1" != -g ] || shift 2
exec "{shutil.which("install")}" "$@"
""",
}
#: What a system has before.
FOLDERS = ("/opt", "/etc/systemd/system", "/etc/udev/rules.d", "/usr/local/bin", "/var/lib", "/root")
UNIT = "/etc/systemd/system/edgellm.service"


class FreshBox:
    """Its administrator runs commands in `/root`, in a folder with one archive and its checksum."""

    def __init__(self, folder: Path):
        self.root, self.stubs = folder / "root", folder / "stubs"
        for name in FOLDERS:
            self.path(name).mkdir(parents=True)
        self.stubs.mkdir()
        for name, text in STUBS.items():
            (self.stubs / name).write_text(text)
            (self.stubs / name).chmod(0o755)
        self.forget_calls()

    def path(self, name: str) -> Path:
        return box.path(self.root, name)

    def here(self, text: str) -> str:
        return box.here(self.root, text)

    @property
    def environment(self) -> dict[str, str]:
        return {**environment(None), "PATH": f"{self.stubs}:{os.environ['PATH']}", "BOX": str(self.stubs), "LC_ALL": "C"}

    def fetch(self, package: Path) -> Path:
        """Puts the archive of an unpacked package, and its checksum, into a folder of their own; returns the archive there."""
        place = self.path("/root") / package.name
        place.mkdir(exist_ok=True)
        for ending in (".tar.gz", ".tar.gz.sha256"):
            shutil.copy(f"{package}{ending}", place)
        return place / f"{package.name}.tar.gz"

    def run(self, text: str, cwd: Path | None = None) -> subprocess.CompletedProcess:
        """As if it were typed: a line that fails does not end it by itself."""
        command = ["bash", "-c", self.here(text)]
        return subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=cwd or self.path("/root"), env=self.environment,
                              stdin=subprocess.DEVNULL, check=False)

    @property
    def calls(self) -> list[str]:
        """What was asked of the system, but not the files that were put in place."""
        return [call for call in (self.stubs / "calls").read_text().splitlines() if not call.startswith("install -d ") and not call.startswith("install -m ")]

    def forget_calls(self):
        (self.stubs / "calls").write_text("")

    @property
    def installed(self) -> str:
        """Where the link leads."""
        return str(self.path("/opt/edgellm").readlink())

    @property
    def contents(self) -> dict[str, str]:
        """All files, with what they hold or where they lead, but not what is fetched."""
        found = {}
        for file in self.root.rglob("*"):
            name = str(file.relative_to(self.root))
            if not name.startswith("root/") and (file.is_symlink() or file.is_file()):
                found[name] = str(file.readlink()) if file.is_symlink() else str(file.stat().st_mtime_ns)
        return found

    def variables(self, *lines: str):
        """Adds to what the site has set."""
        with self.path("/etc/edgellm/edgellm.env").open("a") as file:
            file.writelines(f"{line}\n" for line in lines)

    def service(self, tls: ssl.SSLContext | None = None) -> Served:
        """Starts what the unit starts, with the variables that it names; a port of the test's own is the only difference."""
        unit = self.here(self.path(UNIT).read_text())
        [start] = re.findall(r"^ExecStart=(.+)$", unit, re.MULTILINE)
        [variables] = re.findall(r"^EnvironmentFile=-(.+)$", unit, re.MULTILINE)
        [state] = re.findall(r"^Environment=(.+)$", unit, re.MULTILINE)
        [folder] = re.findall(r"^StateDirectory=(.+)$", unit, re.MULTILINE)
        [home] = re.findall(r"^WorkingDirectory=(.+)$", unit, re.MULTILINE)
        (self.path("/var/lib") / folder).mkdir(exist_ok=True)
        port = free_port()
        command = f"set -a\nexport {state}\n. {variables}\nexec {start} --listen 127.0.0.1:{port}"
        return Served(command, port, Path(home), self.environment, tls)
