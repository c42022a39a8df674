"""The image of docker/Dockerfile in the container of docker/compose.yaml, without a registry: podman runs a folder that is laid out as
the image is, with the settings of both files. What podman is not told has to be on a list here with its reason."""

import json
import os
import re
import resource
import shutil
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import yaml
from gateway import BINARY, MODEL, ROOT

DOCKER = ROOT / "docker"
COMPOSE = DOCKER / "compose.yaml"
DOCKERFILE = (DOCKER / "Dockerfile").read_text()
#: Settings of the service that a trial of the container alone has no use for.
NOT_TRIED = {
    "build": "needs a registry", "image": "needs a registry", "ports": "the trial has the machine's network", "networks": "the same", "restart": "the test starts and ends it", "stop_grace_period": "the same", "healthcheck": "asked once by the test",
}


def services(variables: dict[str, str] | None = None) -> dict[str, dict]:
    """All services, with the variables that a file `.env` would set."""
    def value(match: re.Match) -> str:
        return (variables or {}).get(match[1]) or match[2]

    return yaml.safe_load(re.sub(r"\$\{(\w+):-([^}]*)\}", value, COMPOSE.read_text()))["services"]


def of_image(instruction: str) -> list[str]:
    """The values of an instruction in the last stage of the Dockerfile."""
    stage = DOCKERFILE.replace("\\\n", " ").split("\nFROM ")[-1]
    return re.findall(rf"^{instruction} (.*)$", stage, re.MULTILINE)


def image_environment() -> dict[str, str]:
    return dict(entry.split("=", 1) for entry in of_image("ENV"))


def image_command() -> list[str]:
    [entry], [command] = of_image("ENTRYPOINT"), of_image("CMD")
    return json.loads(entry) + json.loads(command)


def owner(service: dict) -> tuple[int, int]:
    user, group = service["user"].split(":")
    return int(user), int(group)


def lay_out_image(root: Path):
    """The package and what the program wants of a Debian: nothing else is in this image, no shell either."""
    package = root / "opt/edgellm"
    for folder in ("proc", "sys", "dev", "etc", "tmp", "run/edgellm", "var/lib/edgellm"):
        (root / folder).mkdir(parents=True)
    (root / "tmp").chmod(0o1777)  # as in every image; a tmpfs there takes it over
    linked = subprocess.run(["ldd", BINARY], capture_output=True, text=True, check=True).stdout
    for source, target in [
        *((library, root / library[1:]) for library in re.findall(r"(/\S+)", linked)), (BINARY, package / "bin/edgellm"),
        (ROOT / "config/edgellm.toml", package / "config/edgellm.toml"), (MODEL, package / "models/kiosk/kiosk.gguf"),
    ]:
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)


def flags(service: dict, volumes: Path) -> list[str]:
    """What podman is told of a service. A named volume is a folder, with the owner that it has in the image."""
    told = [f"--user={service['user']}", f"--memory={service['mem_limit']}", f"--memory-swap={service['memswap_limit']}", f"--pids-limit={service['pids_limit']}"]
    # podman would mount folders of its own into it that can be written.
    told += ["--read-only=true", "--read-only-tmpfs=false"] if service["read_only"] else []
    told += [f"--cap-drop={capability}" for capability in service["cap_drop"]]
    told += [f"--security-opt={option.removesuffix(':true')}" for option in service["security_opt"]]
    told += [f"--tmpfs={place}" for place in service["tmpfs"]]
    told += [f"--ulimit={name}={limit}:{limit}" for name, limit in service["ulimits"].items()]
    told += [f"--env={name}={value}" for name, value in service["environment"].items()]
    for volume in service["volumes"]:
        name, place, *_ = volume.split(":")
        folder = volumes / name
        folder.mkdir(parents=True, exist_ok=True)
        os.chown(folder, *owner(service))
        told.append(f"--volume={folder}:{place}")
    used = {"user", "mem_limit", "memswap_limit", "pids_limit", "read_only", "cap_drop", "security_opt", "tmpfs", "ulimits", "environment", "volumes"}
    assert set(service) == used | set(NOT_TRIED), set(service) ^ (used | set(NOT_TRIED))
    return told


class Container:
    """A container that runs."""

    def __init__(self, podman: list[str], name: str):
        self._podman, self.name = podman, name

    def podman(self, *arguments: str) -> subprocess.CompletedProcess:
        return subprocess.run([*self._podman, *arguments], capture_output=True, text=True, timeout=60, check=False, stdin=subprocess.DEVNULL)

    def run(self, *command: str) -> subprocess.CompletedProcess:
        """Runs a program in it, as `docker exec` does."""
        return self.podman("exec", self.name, *command)

    @property
    def process(self) -> Path:
        return Path("/proc") / self.podman("inspect", "--format", "{{.State.Pid}}", self.name).stdout.strip()

    def log(self) -> str:
        done = self.podman("logs", self.name)
        return done.stdout + done.stderr


@contextmanager
def container(folder: Path, service: dict, environment: dict[str, str]):
    """The service in a container that has the machine's network, so that `environment` must say other ports."""
    root = folder / "image"
    lay_out_image(root)
    # Of its own, so that whatever else podman holds on this machine is left alone. runc, because crun refuses some control groups.
    podman = ["podman", "--root", str(folder / "storage"), "--runroot", str(folder / "run"), "--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--runtime", "runc"]
    name = f"edgellm-{os.getpid()}-{time.monotonic_ns()}"
    # podman would raise these, which not everybody may; and it knows no word for "no limit".
    limits = {kind: min(value for value in (resource.getrlimit(number)[1], 4096) if value >= 0) for kind, number in (("nofile", resource.RLIMIT_NOFILE), ("nproc", resource.RLIMIT_NPROC))}
    command = [*podman, "run", "--detach", f"--name={name}", "--network=host", "--workdir=/opt/edgellm",
               *(f"--ulimit={kind}={limit}:{limit}" for kind, limit in limits.items()),
               *(f"--env={key}={value}" for key, value in image_environment().items()), *flags(service, folder / "volumes"),
               *(f"--env={key}={value}" for key, value in environment.items()), "--rootfs", str(root), *image_command()]
    started = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, stdin=subprocess.DEVNULL)
    box = Container(podman, name)
    try:
        assert started.returncode == 0, started.stderr
        yield box
    finally:
        box.podman("rm", "--force", "--time", "40", name)
