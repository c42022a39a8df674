"""Starting weights that can already copy.

Looking a value up means: find where the current token stood before, with the same words around it, and repeat what
came after. Gradient descent needs tens of millions of tokens to find that circuit by itself; planted, it is there at
step 0 and training refines it. The residual stream starts as four blocks:

    constant | token | previous token | the last dozen tokens, averaged

- Layer 0 reads the constant, so its queries and keys are fixed vectors on the fast rotations of RoPE whose phases
  peak at distance 1 (two heads) or over a window (two heads); they fill the third and fourth block.
- Layer 1 compares, on the slow rotations that hardly depend on place, the current token with the *previous token* of
  every earlier place, and the two windows; it writes the token it finds, which the tied unembedding then predicts.
- Layer 2 starts by comparing windows, with room to learn which kind of token to fetch from the matching place.
"""

import torch
from torch import Tensor

from model import Kiosk

CONSTANT, TOKEN, PREVIOUS, WINDOW = 0, 1, 128, 256  #: first dimension of each block
SIZE = 127


def base_form(token: str) -> str:
    """What the variants of a piece share: `oat`, `Oat`, ` oat` and ` Oat`."""
    stripped = token.removeprefix("Ġ")
    return stripped.lower() if stripped.isalpha() else token


def embeddings(tokens: list[str], width: int, generator: torch.Generator) -> Tensor:
    bases: dict[str, Tensor] = {}
    table = torch.zeros(len(tokens), width)
    table[:, CONSTANT] = 8.0
    for i, token in enumerate(tokens):
        base = bases.setdefault(base_form(token), torch.randn(SIZE, generator=generator))
        table[i, TOKEN : TOKEN + SIZE] = base + 0.35 * torch.randn(SIZE, generator=generator)
    return table


def projection(rows: int, generator: torch.Generator) -> Tensor:
    """Random orthonormal rows."""
    q, _ = torch.linalg.qr(torch.randn(SIZE, rows, generator=generator))
    return q.T


def plant(model: Kiosk, tokens: list[str], seed: int = 0) -> None:
    s = model.shape
    g = torch.Generator().manual_seed(seed)
    half = s.head // 2
    frequency = s.theta ** (-torch.arange(half) / half)
    with torch.no_grad():
        model.token_embd.copy_(embeddings(tokens, s.width, g))
        model.output_norm.fill_(0.05)[CONSTANT] = 0.0

        # Layer 0: heads 0 and 2 look one token back, heads 1 and 3 over a window; each pair shares half of the token.
        layer = model.blk[0]
        for w in (layer.attn_q, layer.attn_k, layer.attn_v, layer.attn_output):
            w.zero_()
        pairs = torch.arange(8)
        for kv in range(2):
            layer.attn_k[kv * s.head + pairs, CONSTANT] = 1.0
            take = min(s.head, SIZE - kv * s.head)
            rows = torch.arange(take)
            layer.attn_v[kv * s.head + rows, TOKEN + kv * s.head + rows] = 1.0
            for head, distance, weight, target, gain in (
                (2 * kv, 1.0, torch.tensor([1.0, 0.8, 0.6, 0.5, 0.2, 0, 0, 0]), PREVIOUS, 0.7),
                (2 * kv + 1, 6.0, torch.tensor([0, 0, 0.3, 1.0, 1.0, 0.6, 0.2, 0]), WINDOW, 2.0),
            ):
                phase = -distance * frequency[pairs]
                layer.attn_q[head * s.head + pairs, CONSTANT] = weight * phase.cos()
                layer.attn_q[head * s.head + half + pairs, CONSTANT] = weight * phase.sin()
                layer.attn_output[target + kv * s.head + rows, head * s.head + rows] = gain
        for vector in (layer.attn_q_norm, layer.attn_k_norm):
            vector[pairs] = 1.9
            vector[half + pairs] = 1.9

        slow = torch.cat((torch.arange(11, 24), torch.arange(11, 24) + half))
        slower = torch.cat((torch.arange(24, half), torch.arange(24, half) + half))
        for depth in (1, 2):
            layer = model.blk[depth]
            for w in (layer.attn_q, layer.attn_k, layer.attn_v):
                w.mul_(0.15)
            for kv in range(2):
                same, near = projection(len(slow), g), projection(len(slower), g)
                take = min(s.head, SIZE - kv * s.head)
                rows = torch.arange(take)
                block = PREVIOUS if depth == 1 else TOKEN
                layer.attn_k[kv * s.head + slow, block : block + SIZE] += same
                layer.attn_k[kv * s.head + slower, WINDOW : WINDOW + SIZE] += near
                layer.attn_v[kv * s.head + rows, TOKEN + kv * s.head + rows] += 1.0
                for head in (2 * kv, 2 * kv + 1):
                    layer.attn_q[head * s.head + slower, WINDOW : WINDOW + SIZE] += near
                    if depth == 1 and head % 2 == 0:
                        layer.attn_q[head * s.head + slow, TOKEN : TOKEN + SIZE] += same
                        layer.attn_output[TOKEN + kv * s.head + rows, head * s.head + rows] = 2.5
            for vector in (layer.attn_q_norm, layer.attn_k_norm):
                vector.fill_(1.6 if depth == 1 else 1.3)
