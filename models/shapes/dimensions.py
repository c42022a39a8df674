"""What every program of this folder writes of a model's shape."""

from typing import Protocol

import gguf


class Dimensions(Protocol):
    """The numbers of `config.json` that llama.cpp wants of every architecture."""

    width: int
    layers: int
    heads: int
    kv_heads: int
    head: int
    hidden: int


def add_dimensions(writer: gguf.GGUFWriter, model: Dimensions) -> None:
    writer.add_embedding_length(model.width)
    writer.add_block_count(model.layers)
    writer.add_feed_forward_length(model.hidden)
    writer.add_head_count(model.heads)
    writer.add_head_count_kv(model.kv_heads)
    writer.add_key_length(model.head)
    writer.add_value_length(model.head)
    writer.add_rope_dimension_count(model.head)
