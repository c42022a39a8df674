"""The table of docs/which-model.md is what the command below it prints, and that is what real files would say."""

import json
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from gateway import BINARY, run_edgellm
from pages import ROOT

SHAPES = ROOT / "models/shapes"
PAGE = (ROOT / "docs/which-model.md").read_text()


def has_avx2() -> bool:
    return platform.machine() == "x86_64" and "avx2" in Path("/proc/cpuinfo").read_text()


@pytest.mark.skipif(not has_avx2(), reason="the table is for x86-64 with AVX2: elsewhere llama.cpp copies other matrices")
def test_the_table_is_what_the_command_prints():
    printed = subprocess.run([sys.executable, SHAPES / "public.py", BINARY], capture_output=True, text=True, check=True).stdout
    shown = PAGE.split("<!-- table of models/shapes/public.py -->\n")[1].split("<!-- end of the table -->")[0]
    assert printed.strip() == shown.strip()


def test_a_header_without_weights_is_as_large_as_the_file_that_quantize_makes(tmp_path):
    """`small-13m` of shape.py, with weights that are quantized, and its header alone."""
    full, quantized, hollow = tmp_path / "full.gguf", tmp_path / "q4_0.gguf", tmp_path / "hollow.gguf"
    subprocess.run([sys.executable, SHAPES / "shape.py", "small-13m", full], capture_output=True, check=True)
    made = run_edgellm("models", "quantize", full, quantized, "--type", "Q4_0", seconds=120)
    assert made.returncode == 0, made.stderr
    program = ("import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from public import Public, write_header; "
               "write_header(Public('small', 'none', 'llama', 32_000, 1, 256, 6, 8, 8, 32, 704), Path(sys.argv[2]))")
    subprocess.run([sys.executable, "-c", program, SHAPES, hollow], check=True)
    assert hollow.stat().st_blocks * 512 < hollow.stat().st_size / 2, "the weights are a hole"
    assert weights(hollow) == weights(quantized)


def weights(file: Path) -> int:
    """Bytes of weights, and nothing of the vocabulary."""
    said = run_edgellm("models", "estimate", file, "--context", "4096", "--memory", "4000000000", "--json")
    assert said.returncode == 0, said.stderr
    return json.loads(said.stdout)["estimates"][0]["weights_bytes"]
