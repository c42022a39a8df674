"""What public models will take of a box's memory, by the server's own estimate, without having their weights.

For each model a GGUF is made that has a header (metadata, a vocabulary of the true size, the list of tensors) and no
weights: the rest of the file is a hole, which takes no room on the disk. `edgellm models estimate` reads the header
alone. The printed table is the one in docs/which-model.md; tests/docs compares them.

    public.py path/to/edgellm
"""

import argparse
import itertools
import json
import os
import string
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import gguf
import numpy as np

from dimensions import add_dimensions

CONTEXTS = (4000, 16000)
#: Bytes of memory of the boxes that the table is about, and the share of it that a model may take.
BOXES = (2_000_000_000, 4_000_000_000, 8_000_000_000)
SHARE = 3 / 4


@dataclass(frozen=True)
class Public:
    """What `config.json` of a public model says, and who may use it."""

    name: str
    licence: str
    architecture: str
    vocabulary: int
    merges: int  # of a byte-level vocabulary; SentencePiece (Gemma) has none
    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    window: int = 0  # tokens that most layers look back; 0 is all


APACHE, MIT, LLAMA, GEMMA = "Apache-2.0", "MIT", "Llama 3.2 Community", "Gemma Terms"

MODELS = (
    Public("SmolLM2 135M", APACHE, "llama", 49_152, 48_900, 576, 30, 9, 3, 64, 1536),
    Public("Gemma 3 270M", GEMMA, "gemma3", 262_144, 0, 640, 18, 4, 1, 256, 2048, 512),
    Public("SmolLM2 360M", APACHE, "llama", 49_152, 48_900, 960, 32, 15, 5, 64, 2560),
    Public("Qwen2.5 0.5B", APACHE, "qwen2", 151_936, 151_387, 896, 24, 14, 2, 64, 4864),
    Public("Qwen3 0.6B", APACHE, "qwen3", 151_936, 151_387, 1024, 28, 16, 8, 128, 3072),
    Public("Gemma 3 1B", GEMMA, "gemma3", 262_144, 0, 1152, 26, 4, 1, 256, 6912, 512),
    Public("Llama 3.2 1B", LLAMA, "llama", 128_256, 280_147, 2048, 16, 32, 8, 64, 8192),
    Public("Qwen2.5 1.5B", APACHE, "qwen2", 151_936, 151_387, 1536, 28, 12, 2, 128, 8960),
    Public("SmolLM2 1.7B", APACHE, "llama", 49_152, 48_900, 2048, 24, 32, 32, 64, 8192),
    Public("Qwen3 1.7B", APACHE, "qwen3", 151_936, 151_387, 2048, 28, 16, 8, 128, 6144),
    Public("Granite 3.3 2B", APACHE, "granite", 49_159, 48_891, 2048, 40, 32, 8, 64, 8192),
    Public("Qwen2.5 3B", "Qwen Research", "qwen2", 151_936, 151_387, 2048, 36, 16, 2, 128, 11_008),
    Public("Llama 3.2 3B", LLAMA, "llama", 128_256, 280_147, 3072, 28, 24, 8, 128, 8192),
    Public("Phi-4-mini 3.8B", MIT, "phi3", 200_064, 199_742, 3072, 32, 24, 8, 128, 8192),
    Public("Gemma 3 4B", GEMMA, "gemma3", 262_208, 0, 2560, 34, 8, 4, 256, 10_240, 1024),
    Public("Qwen3 4B", APACHE, "qwen3", 151_936, 151_387, 2560, 36, 32, 8, 128, 9728),
)


def tensors(model: Public) -> dict[str, tuple[int, ...]]:
    """Names as llama.cpp has them, with rows and columns; all of these models write with the matrix that they read with."""
    queries, keys = model.heads * model.head, model.kv_heads * model.head
    found = {"token_embd.weight": (model.vocabulary, model.width), "output_norm.weight": (model.width,)}
    for layer in range(model.layers):
        block = {"attn_norm.weight": (model.width,), "ffn_norm.weight": (model.width,),
                 "attn_output.weight": (model.width, queries), "ffn_down.weight": (model.width, model.hidden)}
        if model.architecture == "phi3":
            block |= {"attn_qkv.weight": (queries + 2 * keys, model.width), "ffn_up.weight": (2 * model.hidden, model.width)}
        else:
            block |= {"attn_q.weight": (queries, model.width), "attn_k.weight": (keys, model.width), "attn_v.weight": (keys, model.width),
                      "ffn_gate.weight": (model.hidden, model.width), "ffn_up.weight": (model.hidden, model.width)}
        if model.architecture == "qwen2":
            block |= {"attn_q.bias": (queries,), "attn_k.bias": (keys,), "attn_v.bias": (keys,)}
        if model.architecture in ("qwen3", "gemma3"):
            block |= {"attn_q_norm.weight": (model.head,), "attn_k_norm.weight": (model.head,)}
        if model.architecture == "gemma3":
            block |= {"post_attention_norm.weight": (model.width,), "post_ffw_norm.weight": (model.width,)}
        found |= {f"blk.{layer}.{name}": shape for name, shape in block.items()}
    return found


def quantization(name: str, shape: tuple[int, ...]) -> gguf.GGMLQuantizationType:
    """As `edgellm models quantize --type Q4_0` chooses: the matrix that writes tokens stays finer, vectors stay as they are."""
    if len(shape) == 1:
        return gguf.GGMLQuantizationType.F32
    if name == "token_embd.weight":
        return gguf.GGMLQuantizationType.Q6_K if shape[1] % 256 == 0 else gguf.GGMLQuantizationType.Q8_0
    return gguf.GGMLQuantizationType.Q4_0


def bytes_of(shape: tuple[int, ...], kind: gguf.GGMLQuantizationType) -> int:
    numbers, size = gguf.GGML_QUANT_SIZES[kind]
    return int(np.prod(shape)) // numbers * size


def words(count: int) -> list[str]:
    """So many different ones, as long as words of a vocabulary usually are."""
    letters = itertools.product(string.ascii_lowercase, repeat=5)
    return ["".join(word) for word in itertools.islice(letters, count)]


def add_vocabulary(writer: gguf.GGUFWriter, model: Public) -> None:
    if model.merges:
        writer.add_tokenizer_model("gpt2")
        writer.add_tokenizer_pre("qwen2")
        writer.add_token_list(words(model.vocabulary))
        writer.add_token_types([gguf.TokenType.NORMAL] * model.vocabulary)
        writer.add_token_merges([f"{word[:3]} {word[3:]}" for word in words(model.merges)])
    else:
        signs = [f"<0x{byte:02X}>" for byte in range(256)]
        writer.add_tokenizer_model("llama")
        writer.add_token_list(["<unk>", *signs, *words(model.vocabulary - 257)])
        writer.add_token_scores([0.0] * model.vocabulary)
        kinds = [gguf.TokenType.UNKNOWN] + [gguf.TokenType.BYTE] * 256
        writer.add_token_types(kinds + [gguf.TokenType.NORMAL] * (model.vocabulary - 257))


def write_header(model: Public, path: Path) -> None:
    """A file with the model's header, and a hole where its weights would be."""
    writer = gguf.GGUFWriter(path, model.architecture)
    writer.add_name(model.name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q4_0)
    writer.add_context_length(32_768)
    add_dimensions(writer, model)
    writer.add_layer_norm_rms_eps(1e-6)
    if model.window:
        writer.add_sliding_window(model.window)
    add_vocabulary(writer, model)
    for name, shape in tensors(model).items():
        kind = quantization(name, shape)
        writer.add_tensor_info(name, shape, np.dtype(np.float32), bytes_of(shape, kind), kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    weights = sum(gguf.GGUFWriter.ggml_pad(bytes_of(shape, quantization(name, shape)), 32) for name, shape in tensors(model).items())
    writer.close()
    os.truncate(path, gguf.GGUFWriter.ggml_pad(path.stat().st_size, 32) + weights)


def estimate(edgellm: Path, file: Path, memory: int) -> dict:
    """What the server says, for a box with so many bytes of memory."""
    contexts = itertools.chain.from_iterable(("--context", str(context)) for context in CONTEXTS)
    command = [edgellm, "models", "estimate", file, "--json", "--memory", str(memory), *contexts]
    return json.loads(subprocess.run(command, capture_output=True, check=True, text=True).stdout)


def row(edgellm: Path, model: Public, folder: Path) -> str:
    file = folder / f"{model.name.replace(' ', '-')}.gguf"
    write_header(model, file)
    by_box = {box: estimate(edgellm, file, box) for box in BOXES}
    file.unlink()
    report = by_box[BOXES[1]]
    memory = [line["total_bytes"] for line in report["estimates"]]
    fits = [smallest_box(by_box, index) for index in range(len(CONTEXTS))]
    figures = [f"{report['parameters'] / 1e6:,.0f} M", f"{report['file_bytes'] / 1e9:.2f} GB", *(f"{most / 1e9:.2f} GB" for most in memory), *fits]
    return f"| {model.name} | {model.licence} | {' | '.join(figures)} |"


def smallest_box(by_box: dict[int, dict], index: int) -> str:
    """The least of the boxes that has room for the model with this context and leaves the rest to others."""
    for box, report in by_box.items():
        if report["estimates"][index]["total_bytes"] <= SHARE * box:
            return f"{box // 10**9} GB"
    return f"over {BOXES[-1] // 10**9} GB"


def table(edgellm: Path) -> str:
    head = "| model | licence | weights | file, Q4_0 | memory, 4,000 tokens | memory, 16,000 tokens | box for 4,000 | box for 16,000 |"
    with tempfile.TemporaryDirectory() as folder:
        rows = [row(edgellm, model, Path(folder)) for model in MODELS]
    return "\n".join([head, "|---|---|---|---|---|---|---|---|", *rows])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("edgellm", type=Path)
    print(table(parser.parse_args().edgellm))
