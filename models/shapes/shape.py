"""Writes a GGUF with random weights in the shape of a well-known model, to measure speed without its weights.

How fast llama.cpp computes depends on the shape, the types of the weights and the size of the vocabulary, not on
what the weights say. The vocabulary is the kiosk model's, filled up to the true size with tokens that no text is
split into.
"""

import argparse
import itertools
import string
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import gguf
import numpy as np

import copying
from dimensions import add_dimensions

KIOSK = Path(__file__).parent.parent / "kiosk" / "kiosk.gguf"
#: Small beside what the layers add, so that tied embeddings do not make a token predict itself for ever.
EMBEDDING_DEVIATION = 0.02
#: Queries and keys are so much larger than others: attention that picks a few tokens keeps answers from going in
#: circles, where a guess at what comes next would be right as it never is.
ATTENTION = 2.0
#: Random numbers are drawn so many at a time: a model need not fit into memory.
BLOCK = 1 << 24


@dataclass(frozen=True)
class Shape:
    """What `config.json` of the model says."""

    architecture: str
    vocabulary: int
    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    hidden: int
    context: int
    theta: float
    epsilon: float
    tied: bool  # the output matrix is the embedding
    biases: bool  # of queries, keys and values


SHAPES = {
    "qwen2.5-0.5b": Shape("qwen2", 151_936, 896, 24, 14, 2, 64, 4864, 32_768, 1e6, 1e-6, True, True),
    "qwen2.5-1.5b": Shape("qwen2", 151_936, 1536, 28, 12, 2, 128, 8960, 32_768, 1e6, 1e-6, True, True),
    "tinyllama-1.1b": Shape("llama", 32_000, 2048, 22, 32, 4, 64, 5632, 2048, 1e4, 1e-5, False, False),
    "llama-3.2-1b": Shape("llama", 128_256, 2048, 16, 32, 8, 64, 8192, 131_072, 5e5, 1e-5, True, False),
    # Of no model in particular: as small as a shop's own might be.
    "small-13m": Shape("llama", 32_000, 256, 6, 8, 8, 32, 704, 8192, 1e4, 1e-5, True, False),
}


def matrices(shape: Shape) -> dict[str, tuple[int, int]]:
    """Names as llama.cpp has them, with rows and columns."""
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    found = {"token_embd.weight": (shape.vocabulary, shape.width)}
    if not shape.tied:
        found["output.weight"] = (shape.vocabulary, shape.width)
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        found |= {
            block + "attn_q.weight": (queries, shape.width),
            block + "attn_k.weight": (keys, shape.width),
            block + "attn_v.weight": (keys, shape.width),
            block + "attn_output.weight": (shape.width, queries),
            block + "ffn_gate.weight": (shape.hidden, shape.width),
            block + "ffn_up.weight": (shape.hidden, shape.width),
            block + "ffn_down.weight": (shape.width, shape.hidden),
        }
    return found


def vectors(shape: Shape) -> dict[str, tuple[int, float]]:
    """Norms are ones and biases zeros: their length, and what they are filled with."""
    queries, keys = shape.heads * shape.head, shape.kv_heads * shape.head
    found = {"output_norm.weight": (shape.width, 1.0)}
    for layer in range(shape.layers):
        block = f"blk.{layer}."
        found |= {block + name: (shape.width, 1.0) for name in ("attn_norm.weight", "ffn_norm.weight")}
        if shape.biases:
            biases = {"attn_q.bias": queries, "attn_k.bias": keys, "attn_v.bias": keys}
            found |= {block + name: (length, 0.0) for name, length in biases.items()}
    return found


def parameters(shape: Shape) -> int:
    return sum(rows * columns for rows, columns in matrices(shape).values()) + sum(n for n, _ in vectors(shape).values())


def filler(taken: set[str]) -> Iterator[str]:
    """Blank and aaaa, blank and aaab, and so on: longer than a character, so that only merges could make them, and none does."""
    for letters in itertools.product(string.ascii_lowercase, repeat=4):
        token = "Ġ" + "".join(letters)  # how a byte-level vocabulary writes a blank
        if token not in taken:
            yield token


def vocabulary(fields: dict[str, gguf.ReaderField], size: int) -> tuple[list[str], list[int]]:
    """Tokens and their types: those of the kiosk model, and filler."""
    tokens = fields["tokenizer.ggml.tokens"].contents()
    types = fields["tokenizer.ggml.token_type"].contents()
    missing = size - len(tokens)
    fillers = list(itertools.islice(filler(set(tokens)), missing))
    assert len(fillers) == missing, "too few letters"
    return tokens + fillers, types + [gguf.TokenType.NORMAL] * missing


def write_metadata(writer: gguf.GGUFWriter, name: str, shape: Shape) -> None:
    writer.add_name(name)
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    add_dimensions(writer, shape)
    writer.add_rope_freq_base(shape.theta)
    writer.add_layer_norm_rms_eps(shape.epsilon)

    fields = gguf.GGUFReader(KIOSK).fields
    tokens, types = vocabulary(fields, shape.vocabulary)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("qwen2")
    writer.add_token_list(tokens)
    writer.add_token_types(types)
    writer.add_token_merges(fields["tokenizer.ggml.merges"].contents())
    writer.add_eos_token_id(fields["tokenizer.ggml.eos_token_id"].contents())
    writer.add_pad_token_id(fields["tokenizer.ggml.padding_token_id"].contents())
    writer.add_add_bos_token(False)
    writer.add_chat_template(fields["tokenizer.chat_template"].contents())


def deviation(tensor: str, columns: int) -> float:
    """Of the weights: what goes through a matrix comes out as large as it was."""
    if tensor == "token_embd.weight":
        return EMBEDDING_DEVIATION
    return columns**-0.5 * (ATTENTION if "attn_q" in tensor or "attn_k" in tensor else 1.0)


def random(rows: int, columns: int, deviation: float, seed: list[int]) -> np.ndarray:
    values = np.empty(rows * columns, np.float16)
    generator = np.random.default_rng(seed)
    for start in range(0, values.size, BLOCK):
        part = values[start : start + BLOCK]
        part[:] = generator.standard_normal(part.size, np.float32) * np.float32(deviation)
    return values.reshape(rows, columns)


def write(path: Path, name: str, seed: int, copies: bool) -> None:
    """Through a temporary file, so that a reader never sees half a model."""
    shape = SHAPES[name]
    planted = copying.tensors(shape, seed) if copies else {}
    if copies:
        shape = replace(shape, theta=copying.THETA)
    temporary = path.with_name(path.name + ".partial")
    writer = gguf.GGUFWriter(temporary, shape.architecture)
    write_metadata(writer, f"{'weights that quote' if copies else 'random weights'}, shape of {name}", shape)
    for tensor, (rows, columns) in matrices(shape).items():
        writer.add_tensor_info(tensor, [rows, columns], np.dtype(np.float16), rows * columns * 2)
    for tensor, (length, _) in vectors(shape).items():
        writer.add_tensor_info(tensor, [length], np.dtype(np.float32), length * 4)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for number, (tensor, (rows, columns)) in enumerate(matrices(shape).items()):
        values = planted.get(tensor)
        writer.write_tensor_data(
            random(rows, columns, deviation(tensor, columns), [seed, number]) if values is None else values
        )
    for vector, (length, value) in vectors(shape).items():
        writer.write_tensor_data(planted.get(vector, np.full(length, value, np.float32)))
    writer.close()
    temporary.rename(path)


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    cli.add_argument("shape", choices=SHAPES)
    cli.add_argument("gguf", type=Path, help="the file to write, with F16 weights")
    cli.add_argument("--seed", type=int, default=1)
    cli.add_argument("--copies", action="store_true", help="a model that repeats its prompt")
    args = cli.parse_args()
    write(args.gguf, args.shape, args.seed, args.copies)
    millions, size = parameters(SHAPES[args.shape]) / 1e6, args.gguf.stat().st_size / 1e6
    print(f"{args.gguf}: {millions:,.1f} M parameters, {size:,.0f} MB")


if __name__ == "__main__":
    main()
