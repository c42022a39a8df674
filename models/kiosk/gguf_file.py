"""Writes a checkpoint as a Q8_0 GGUF that llama.cpp runs, and reads one back (dequantized) to train on."""

import argparse
import json
from pathlib import Path

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType as Kind
from gguf import TokenType
from torch import Tensor

import chat
import tokenizer
from model import Shape

HERE = Path(__file__).parent
NAME = "edgellm kiosk"


def token_types(tokens: list[str]) -> list[TokenType]:
    special = {**dict.fromkeys(chat.SPECIAL, TokenType.CONTROL), **dict.fromkeys(chat.TAGS, TokenType.USER_DEFINED)}
    return [special.get(token, TokenType.NORMAL) for token in tokens]


def metadata(writer: gguf.GGUFWriter, shape: Shape, vocabulary: dict) -> None:
    writer.add_name(NAME)
    writer.add_description(
        "Store assistant that looks facts up in its system prompt; trained from nothing on generated text"
    )
    writer.add_license("MIT OR Apache-2.0")
    writer.add_languages(["en"])
    writer.add_float32("general.sampling.temp", 0.0)  # facts are looked up, not invented
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_Q8_0)
    writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    writer.add_vocab_size(shape.vocabulary)
    writer.add_context_length(shape.context)
    writer.add_embedding_length(shape.width)
    writer.add_block_count(shape.layers)
    writer.add_feed_forward_length(shape.hidden)
    writer.add_head_count(shape.heads)
    writer.add_head_count_kv(shape.kv_heads)
    writer.add_key_length(shape.head)
    writer.add_value_length(shape.head)
    writer.add_rope_freq_base(shape.theta)
    writer.add_layer_norm_rms_eps(shape.epsilon)

    tokens = vocabulary["tokens"]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("dbrx")
    writer.add_token_list(tokens)
    writer.add_token_types(token_types(tokens))
    writer.add_token_merges(vocabulary["merges"])
    writer.add_eos_token_id(tokens.index(chat.END))
    writer.add_eot_token_id(tokens.index(chat.END))
    writer.add_pad_token_id(tokens.index(chat.PAD))
    writer.add_add_bos_token(False)
    writer.add_chat_template((HERE / "chat_template.jinja").read_text())


def write(path: Path, weights: dict[str, Tensor], shape: Shape, vocabulary: dict) -> None:
    """Through a temporary file, so that a reader never sees half a model."""
    temporary = path.with_suffix(".new")
    writer = gguf.GGUFWriter(temporary, "qwen3")
    metadata(writer, shape, vocabulary)
    for name, tensor in weights.items():
        values = tensor.detach().numpy().astype(np.float32)
        kind = Kind.Q8_0 if values.ndim == 2 else Kind.F32
        writer.add_tensor(f"{name}.weight", gguf.quantize(values, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    temporary.rename(path)


def read(path: Path) -> dict[str, Tensor]:
    """The weights of a GGUF that `write` made, under the names that the model gives them."""
    tensors = gguf.GGUFReader(path).tensors
    return {t.name.removesuffix(".weight"): torch.tensor(gguf.dequantize(t.data, t.tensor_type)) for t in tensors}


def mean(ours: dict[str, Tensor], others: dict[str, Tensor], share: float) -> dict[str, Tensor]:
    """The average of two models, the first with this share."""
    if {k: v.shape for k, v in ours.items()} != {k: v.shape for k, v in others.items()}:
        raise SystemExit("the models to be averaged differ in shape")
    return {name: torch.lerp(others[name], own, share) for name, own in ours.items()}


def read_vocabulary(path: Path) -> dict:
    fields = gguf.GGUFReader(path).fields
    return {part: fields[f"tokenizer.ggml.{part}"].contents() for part in ("tokens", "merges")}


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("build", type=Path, help="folder of tokenizer.json and checkpoint.pt")
    cli.add_argument("gguf", type=Path)
    cli.add_argument(
        "--blend", type=Path, metavar="GGUF", help="average with the weights that training went on from (`train.py --from`)"
    )
    cli.add_argument("--share", type=float, default=0.6, help="of the checkpoint in that average (default 0.6)")
    cli.add_argument("--vocabulary", action="store_true", help="only take tokenizer.json out of the GGUF")
    args = cli.parse_args()
    if args.vocabulary:
        vocabulary = read_vocabulary(args.gguf)
        tokenizer.require_taught(tokenizer.of(vocabulary), tokenizer.training_text())
        tokenizer.save(args.build / "tokenizer.json", vocabulary)
        return
    vocabulary = json.loads((args.build / "tokenizer.json").read_text())
    saved = torch.load(args.build / "checkpoint.pt", weights_only=True)
    weights = saved["model"]
    if args.blend:
        if read_vocabulary(args.blend) != vocabulary:
            cli.error(f"--blend {args.blend}: another vocabulary; only weights that training went on from can be averaged")
        weights = mean(weights, read(args.blend), args.share)
    write(args.gguf, weights, Shape(vocabulary=len(vocabulary["tokens"])), vocabulary)
    print(f"{args.gguf}: {args.gguf.stat().st_size / 1e6:.1f} MB after {saved['seen'] / 1e6:.1f} M tokens")


if __name__ == "__main__":
    main()
