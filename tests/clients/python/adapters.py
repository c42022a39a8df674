"""LoRA adapters for the shipped model."""

from pathlib import Path

import gguf
import numpy as np


def adapter(path: Path, strength: float) -> Path:
    """A LoRA adapter of the shipped model; with 0 it changes nothing."""
    writer = gguf.GGUFWriter(path, "qwen3")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", 8.0)
    dice = np.random.default_rng(3)
    for block in range(2):
        name = f"blk.{block}.attn_q.weight"
        writer.add_tensor(f"{name}.lora_a", dice.uniform(-1, 1, (4, 384)).astype(np.float32))
        writer.add_tensor(f"{name}.lora_b", (strength * dice.uniform(-1, 1, (256, 4))).astype(np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path
