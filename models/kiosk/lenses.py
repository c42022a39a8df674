"""What the network is to know in its middle.

The answers alone did not teach it in 140 M tokens under which heading a product stands: one layer would have to find
that out for the words of each line, and a later one to ask those words for it, and neither is of any use alone. So
training asks in between as well (`layouts.Lesson`, `dataset.LESSONS`).
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from dataset import LESSONS, Batch
from model import Kiosk, norm
from muon import fast_type


class Lenses(nn.Module):
    """For each kind of lesson and layer a linear map to what the last layer would say; thrown away after training."""

    LAYERS = (2, 3)

    def __init__(self, width: int) -> None:
        super().__init__()
        self.maps = nn.ParameterList(torch.eye(width) for _ in LESSONS for _ in self.LAYERS)

    def forward(self, model: Kiosk, states: list[Tensor], b: Batch) -> tuple[Tensor, Tensor]:
        """The loss, summed over kinds and layers, and each kind's share of right ones in the last layer read."""
        loss, shares = torch.zeros(()), torch.full((len(LESSONS),), float("nan"))
        for kind, lessons in enumerate(b.lessons):
            if not lessons:
                continue
            places, tokens = torch.tensor(lessons).T
            for number, depth in enumerate(self.LAYERS, kind * len(self.LAYERS)):
                said = self.said(model, states[depth].flatten(0, 1)[places], self.maps[number])
                loss = loss + F.cross_entropy(said.float(), tokens)
            shares[kind] = (said.argmax(-1) == tokens).float().mean()
        return loss, shares

    @staticmethod
    def said(model: Kiosk, seen: Tensor, lens: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast_type() == torch.bfloat16):
            x = norm(F.linear(seen, lens), model.output_norm.detach(), model.shape.epsilon)
            return F.linear(x, model.token_embd.detach())
