"""Weights that make a model repeat its prompt, to measure what guessing ahead is worth where answers quote.

The first layer notes at every place the token before it and the one before that. The second looks for the places whose
two tokens before are the last two of the text, and says the token that stands there (an induction head). All other
layers are as random and as slow as ever, but what they find is left out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from shape import Shape

#: Positions turn queries and keys by angles from 1 down to 1 / THETA: many of them so slowly that they do not matter.
THETA = 1e9
#: The residual stream: the token's own channels, those of the one before, and of the one before that.
CHANNELS = 128
OWN, BEFORE, EARLIER = slice(0, CHANNELS), slice(CHANNELS, 2 * CHANNELS), slice(2 * CHANNELS, 3 * CHANNELS)
#: Pairs of channels that turn fast enough to tell neighbours apart, and the first that hardly turns.
FAST, SLOW = 8, 11
#: How sharply places and tokens are told apart.
PLACE, TOKEN, TOKEN_BEFORE = 14.0, 3.0, 1.5
#: How loud what was found is beside the token that is there.
FOUND = 16.0


def embedding(shape: Shape, generator: np.random.Generator) -> np.ndarray:
    table = np.zeros((shape.vocabulary, shape.width), np.float16)
    table[:, OWN] = generator.standard_normal((shape.vocabulary, CHANNELS), np.float32)
    return table


def distance(shape: Shape, tokens: int) -> np.ndarray:
    """The bias of a query whose product with a key of `PLACE` in the fast pairs is largest so many tokens apart."""
    query, half = np.zeros(shape.head, np.float32), shape.head // 2
    pairs = np.arange(FAST)
    phase = -tokens * THETA ** (-pairs / half)
    query[pairs], query[half + pairs] = PLACE * np.cos(phase), PLACE * np.sin(phase)
    return query


def tensors(shape: Shape, seed: int) -> dict[str, np.ndarray]:
    """By their names in the file, those that are not random."""
    if not shape.biases or shape.kv_heads < 2 or shape.head < CHANNELS // 2 or shape.width < 3 * CHANNELS:
        raise SystemExit("only shapes with biases, two heads of keys and 64 channels a head can copy: qwen2.5-…")
    generator = np.random.default_rng(seed)
    queries, keys, group = shape.heads * shape.head, shape.kv_heads * shape.head, shape.heads // shape.kv_heads
    part, half = CHANNELS // 2, shape.head // 2
    found = {"token_embd.weight": embedding(shape, generator)}
    for layer in range(shape.layers):
        found[f"blk.{layer}.attn_output.weight"] = np.zeros((shape.width, queries), np.float16)
        found[f"blk.{layer}.ffn_down.weight"] = np.zeros((shape.width, shape.hidden), np.float16)
    for layer in range(2):
        for name, rows in ("q", queries), ("k", keys), ("v", keys):
            found[f"blk.{layer}.attn_{name}.weight"] = np.zeros((rows, shape.width), np.float16)
            found[f"blk.{layer}.attn_{name}.bias"] = np.zeros(rows, np.float32)

    slow = np.arange(SLOW, half)
    current, before = np.concatenate((slow[::2], half + slow[::2])), np.concatenate((slow[1::2], half + slow[1::2]))
    for head in range(2):  # of keys; each carries half of a token's channels
        key, own = head * shape.head, slice(head * part, (head + 1) * part)
        places, channels = key + np.arange(part), np.arange(part)
        for layer in range(2):
            found[f"blk.{layer}.attn_v.weight"][places, own.start + channels] = 1.0
        found["blk.0.attn_k.bias"][key : key + FAST] = PLACE
        for number, (tokens, block) in enumerate(((1, BEFORE), (2, EARLIER))):
            query = (head * group + number) * shape.head
            found["blk.0.attn_q.bias"][query : query + shape.head] = distance(shape, tokens)
            found["blk.0.attn_output.weight"][block.start + own.start + channels, query + channels] = 1.0
        query = head * group * shape.head
        for places, gain, here, there in ((current, TOKEN, OWN, BEFORE), (before, TOKEN_BEFORE, BEFORE, EARLIER)):
            view = generator.standard_normal((len(places), CHANNELS), np.float32) * gain * CHANNELS**-0.5
            found["blk.1.attn_q.weight"][query + places, here] = view
            found["blk.1.attn_k.weight"][key + places, there] = view
        found["blk.1.attn_output.weight"][own.start + channels, query + channels] = FOUND
    return found
