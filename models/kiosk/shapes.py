"""Compares how fast llama.cpp decodes random weights of a few shapes of about 6 M parameters, 1,000 tokens deep."""

import json
import sys
import tempfile
import time
from pathlib import Path

from llama_cpp import Llama

import gguf_file
from model import Kiosk, Shape

DEPTH, TOKENS = 1000, 64
SHAPES = {  # width, layers, heads, KV heads, head size, hidden
    "384 x 5, 4 heads of 64, 2 KV": (384, 5, 4, 2, 64, 640),
    "384 x 5, 4 heads of 64, 1 KV": (384, 5, 4, 1, 64, 672),
    "384 x 5, 6 heads of 64, 6 KV": (384, 5, 6, 6, 64, 448),
    "384 x 5, 12 heads of 32, 12 KV": (384, 5, 12, 12, 32, 448),
    "256 x 7, 4 heads of 64, 2 KV": (256, 7, 4, 2, 64, 768),
    "256 x 12, 8 heads of 32, 8 KV": (256, 12, 8, 8, 32, 256),
    "512 x 3, 4 heads of 64, 2 KV": (512, 3, 4, 2, 64, 768),
}


def speed(path: Path, threads: int) -> float:
    """Tokens a second of one sequence, after a prompt of DEPTH tokens."""
    llama = Llama(str(path), n_ctx=2048, n_threads=threads, n_threads_batch=threads, verbose=False)
    llama.eval([100 + i % 1000 for i in range(DEPTH)])
    start = time.perf_counter()
    for i in range(TOKENS):
        llama.eval([100 + i])
    return TOKENS / (time.perf_counter() - start)


def main() -> None:
    vocabulary = json.loads(Path(sys.argv[1]).read_text())
    threads = int(sys.argv[2]) if len(sys.argv) > 2 else 2
    with tempfile.TemporaryDirectory() as folder:
        for name, (width, layers, heads, kv_heads, head, hidden) in SHAPES.items():
            shape = Shape(len(vocabulary["tokens"]), width, layers, heads, kv_heads, head, hidden)
            model, path = Kiosk(shape), Path(folder) / "shape.gguf"
            gguf_file.write(path, model.state_dict(), shape, vocabulary)
            millions = sum(p.numel() for p in model.parameters()) / 1e6
            print(f"| {name} | {millions:.1f} M | {max(speed(path, threads) for _ in range(3)):,.0f} |", flush=True)


if __name__ == "__main__":
    main()
