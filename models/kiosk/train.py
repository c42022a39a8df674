"""Trains the model: resumes from its checkpoint, starts over, or continues from a GGUF; prints progress.

Interrupted (SIGINT, SIGTERM), it saves and stops.

The schedule is by wall clock: a constant rate, then a linear cooldown that ends at the deadline. Sequences grow in
stages, each entered when the answers of the last one come out right (or its time is up).
"""

import argparse
import os
import signal
import tempfile
import threading
import time
from collections import defaultdict
from dataclasses import dataclass, replace
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing
import torch.nn.functional as F
from tokenizers import Tokenizer
from torch import Tensor

import gguf_file
import tokenizer
import unseen
from dataset import Batch, Maker, Mix
from lenses import Lenses
from model import Kiosk, Shape
from muon import Muon, fast_type
from plant import plant


@dataclass(frozen=True)
class Stage:
    mixes: list[tuple[Mix, float]]  #: with their share of the batches
    enough: float  #: the share of right answers that ends the stage
    latest: float  #: the share of the time that ends it anyway


FIRST, SHORT, MIDDLE, LONG = Mix(512, (1, 6)), Mix(512, (1, 12)), Mix(1024, (8, 40)), Mix(2048, (25, 90))
STAGES = [
    Stage([(FIRST, 1.0)], 0.7, 0.25),
    Stage([(SHORT, 1.0)], 0.8, 0.4),
    Stage([(SHORT, 0.6), (MIDDLE, 0.4)], 0.9, 0.55),
    Stage([(SHORT, 0.42), (MIDDLE, 0.33), (LONG, 0.25)], 1.0, 1.0),
]
LESSON_WEIGHT = 0.15  #: of the lessons' loss beside that of the answers
CHECKS = [("known phrasings", None), ("new phrasings", unseen.NEW)]


def draw(maker: Maker, stage: int, tokens: int) -> Batch:
    mixes = STAGES[stage].mixes
    mix = maker.rng.choices([m for m, _ in mixes], [w for _, w in mixes])[0]
    return maker.batch(mix, tokens // mix.length)


def visible(b: Batch) -> Tensor:
    """The additive attention mask of the trees in a batch."""
    store, branch = torch.from_numpy(b.store), torch.from_numpy(b.branch)
    same_store = store[:, :, None] == store[:, None, :]
    same_branch = (branch[:, None, :] == 0) | (branch[:, :, None] == branch[:, None, :])
    seen = (same_store & same_branch).tril_()
    return torch.zeros(seen.shape).masked_fill_(~seen, float("-inf"))[:, None]


def read(model: Kiosk, b: Batch) -> list[Tensor]:
    """What is known of each token of a batch after each layer."""
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_type() == torch.bfloat16):
        return model.states(torch.from_numpy(b.ids), torch.from_numpy(b.positions).float(), visible(b))


def grade(model: Kiosk, states: list[Tensor], b: Batch) -> tuple[Tensor, Tensor]:
    """The loss of a batch, and which of its answers are right from the first token to the last."""
    with torch.autocast("cpu", torch.bfloat16, enabled=fast_type() == torch.bfloat16):
        logits = model.logits(states[-1][torch.from_numpy(b.wanted)])
    targets = torch.from_numpy(b.targets)
    wrong = torch.zeros(len(b.kinds)).index_add_(0, torch.from_numpy(b.turn), (logits.argmax(-1) != targets).float())
    return F.cross_entropy(logits.float(), targets), wrong == 0


class Tally:
    """Running shares of right answers by label."""

    def __init__(self) -> None:
        self.right: dict[str, float] = defaultdict(float)
        self.total: dict[str, float] = defaultdict(float)

    def add(self, labels: list[str], right: Tensor) -> None:
        for label, ok in zip(labels, right.tolist()):
            self.right[label] += ok
            self.total[label] += 1

    def share(self, *labels: str) -> float:
        return sum(self.right[x] for x in labels) / max(1, sum(self.total[x] for x in labels))

    def __str__(self) -> str:
        return ", ".join(
            f"{x} {100 * self.right[x] / self.total[x]:.0f}" for x in sorted(self.total, key=lambda x: -self.total[x])
        )


@torch.no_grad()
def check(model: Kiosk, vocabulary: Path, stage: int, tokens: int) -> None:
    """Right answers on names (and phrasings) that training never sees."""
    for name, phrasings in CHECKS:
        maker, kinds, layouts, unmarked = Maker(tokenizer.load(vocabulary), (), 99), Tally(), Tally(), Tally()
        for mix, _ in 3 * STAGES[stage].mixes:  # shaped as in training, for which the layers are already compiled
            asked = replace(mix, practice=False, held_out_names=True, held_out_phrases=phrasings)
            b = maker.batch(asked, tokens // mix.length)
            right = grade(model, read(model, b), b)[1]
            kinds.add(b.kinds, right)
            layouts.add(b.layouts, right)
            unmarked.add(*hard(b, right))
        print(f"  new names, {name}: {kinds}; {layouts}; hard: {unmarked}", flush=True)


def optimizers(model: Kiosk, rate: float) -> list[torch.optim.Optimizer]:
    matrices = [p for p in model.blk.parameters() if p.ndim == 2]
    vectors = [p for p in model.parameters() if p.ndim == 1]
    return [
        Muon(matrices, lr=rate),
        torch.optim.AdamW(
            [{"params": [model.token_embd], "lr": 0.25 * rate}, {"params": vectors, "lr": 0.1 * rate}],
            betas=(0.9, 0.95),
            weight_decay=0.0,
            fused=True,
        ),
    ]


def save(path: Path, model: Kiosk, optimizers: list[torch.optim.Optimizer], **state: float) -> None:
    temporary = path.with_suffix(".new")
    torch.save({"model": model.state_dict(), "optimizers": [o.state_dict() for o in optimizers], **state}, temporary)
    temporary.rename(path)


def seconds_until(clock: str) -> float:
    """Seconds from now to HH:MM, today or tomorrow."""
    now = time.localtime()
    hour, minute = map(int, clock.split(":"))
    return ((hour - now.tm_hour) * 3600 + (minute - now.tm_min) * 60 - now.tm_sec) % 86400


def average_gradients(parameters: list[Tensor]) -> None:
    """Over the workers, in one message."""
    for p in parameters:
        if p.grad is None:  # a lesson that this worker's batch lacks
            p.grad = torch.zeros_like(p)
    flat = torch.cat([p.grad.flatten() for p in parameters])
    dist.all_reduce(flat)
    for p, part in zip(parameters, flat.div_(dist.get_world_size()).split([p.numel() for p in parameters])):
        p.grad.copy_(part.view_as(p))


def options() -> argparse.Namespace:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("build", type=Path, help="folder of tokenizer.json and of the checkpoint")
    cli.add_argument("--deadline", metavar="HH:MM", help="when to be finished (default: after --hours)")
    cli.add_argument("--hours", type=float, default=3.0)
    cli.add_argument("--cooldown", type=float, default=80.0, help="minutes of falling learning rate before the end")
    cli.add_argument("--from", dest="start", type=Path, help="start from the weights of this GGUF")
    cli.add_argument("--rate", type=float, default=0.02, help="Muon's learning rate; the others follow")
    cli.add_argument("--tokens", type=int, default=4096, help="tokens a step, all workers together")
    cli.add_argument("--workers", type=int, default=os.cpu_count(), help="processes of one thread each")
    cli.add_argument("--stage", type=int, help="stage to (re)start in")
    cli.add_argument("--seed", type=int, default=int(time.time()) % 100000)
    return cli.parse_args()


def hard(b: Batch, right: Tensor) -> tuple[list[str], Tensor]:
    """Answers whose value has no mark of its own beside it."""
    places = [
        i
        for i, (kind, layout) in enumerate(zip(b.kinds, b.layouts))
        if kind in ("aisle", "stock") and layout in ("by aisle", "csv", "table")
    ]
    return [f"{b.layouts[i]} {b.kinds[i]}" for i in places], right[places]


class Progress:
    """Counts since the last line that was printed."""

    def __init__(self, seen: int) -> None:
        self.layouts = Tally()
        self.clear(seen)

    def clear(self, seen: int) -> None:
        self.kinds, self.hard, self.since, self.seen = Tally(), Tally(), time.time(), seen
        self.losses: list[float] = []
        self.known: list[Tensor] = []

    def add(self, b: Batch, loss: float, right: Tensor, known: Tensor) -> None:
        self.losses.append(loss)
        self.known.append(known)
        self.kinds.add(b.kinds, right)
        self.layouts.add(b.layouts, right)
        self.hard.add(*hard(b, right))

    def print(self, state: dict[str, int], factor: float) -> None:
        speed = (state["seen"] - self.seen) / (time.time() - self.since)
        clock, millions = time.strftime("%H:%M:%S"), state["seen"] / 1e6
        where = f"{clock} step {state['step']} stage {state['stage']} {millions:.2f} M tokens"
        loss = sum(self.losses) / len(self.losses)
        print(f"{where} {speed:.0f}/s rate x{factor:.2f} loss {loss:.3f} right: {self.kinds}", flush=True)
        known = ", ".join(f"{100 * share:.0f}" for share in torch.stack(self.known).nanmean(0))
        print(f"  lessons known: {known}; hard: {self.hard}", flush=True)
        if state["step"] % 200 == 0:
            print(f"  by layout: {self.layouts}", flush=True)
            self.layouts = Tally()
        self.clear(state["seen"])


def initial(
    model: Kiosk, tuners: list[torch.optim.Optimizer], args: argparse.Namespace, words: Tokenizer
) -> dict[str, int]:
    """Weights from a GGUF, the checkpoint or the planted start; returns step, tokens seen and stage."""
    state, checkpoint = {"step": 0, "seen": 0, "stage": 0}, args.build / "checkpoint.pt"
    if args.start:
        model.load_state_dict(gguf_file.read(args.start))
        state["stage"] = len(STAGES) - 1
    elif checkpoint.exists():
        saved = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(saved["model"])
        for tuner, tuned in zip(tuners, saved["optimizers"]):
            tuner.load_state_dict(tuned)
        state = {k: saved[k] for k in state}
    else:
        plant(model, [words.id_to_token(i) for i in range(words.get_vocab_size())])
    if args.stage is not None:
        state["stage"] = args.stage
    return state


def work(worker: int, args: argparse.Namespace, rendezvous: str) -> None:
    """One worker: its own batches, gradients averaged with the others'; the first one prints and saves."""
    stopped = threading.Event()
    for stop in (signal.SIGINT, signal.SIGTERM):
        signal.signal(stop, lambda *_: stopped.set())
    torch.set_num_threads(1)
    torch.manual_seed(args.seed)
    dist.init_process_group("gloo", init_method=f"file://{rendezvous}", rank=worker, world_size=args.workers)

    vocabulary, checkpoint = args.build / "tokenizer.json", args.build / "checkpoint.pt"
    words = tokenizer.load(vocabulary)
    model = Kiosk(Shape(vocabulary=words.get_vocab_size()))
    parameters, tuners = list(model.parameters()), optimizers(model, args.rate)
    rates = [[group["lr"] for group in tuner.param_groups] for tuner in tuners]
    state = initial(model, tuners, args, words)
    lenses = Lenses(model.shape.width)
    lens_tuner = torch.optim.AdamW(lenses.parameters(), lr=0.1 * args.rate, weight_decay=0.0)
    parameters += lenses.parameters()
    for layer in model.blk:
        layer.compile(dynamic=False)
    maker = Maker(words, tokenizer.english_words(), args.seed * args.workers + worker)
    chief, tokens = worker == 0, args.tokens // args.workers
    if chief:
        print(f"{sum(p.numel() for p in parameters) / 1e6:.2f} M parameters, {fast_type()}, {state}", flush=True)

    start = saved_at = checked_at = time.time()
    end = start + (seconds_until(args.deadline) if args.deadline else args.hours * 3600)
    progress = Progress(state["seen"])
    while True:
        now = end if stopped.is_set() else time.time()
        factor = min(1.0, (end - now) / (60 * args.cooldown), 0.1 + (now - start) / 60)
        shared = torch.tensor([state["stage"], factor])
        dist.broadcast(shared, 0)
        state["stage"], factor = int(shared[0]), float(shared[1])
        if factor <= 0:
            break
        b = draw(maker, state["stage"], tokens)
        states = read(model, b)
        loss, right = grade(model, states, b)
        lesson_loss, known = lenses(model, states, b)
        (loss + LESSON_WEIGHT * lesson_loss).backward()
        average_gradients(parameters)
        torch.nn.utils.clip_grad_norm_([model.token_embd], 1.0)
        for tuner, base in zip(tuners, rates):
            for group, rate in zip(tuner.param_groups, base):
                group["lr"] = rate * factor
            tuner.step()
        lens_tuner.step()
        model.zero_grad()
        lens_tuner.zero_grad()
        state["step"] += 1
        state["seen"] += args.workers * b.ids.size
        if not chief:
            continue
        progress.add(b, loss.item(), right, known)
        if state["step"] % 50 == 0:
            stage = STAGES[state["stage"]]
            share = progress.kinds.share("price", "aisle", "follow-up", "stock")
            progress.print(state, factor)
            if share > stage.enough or now - start > stage.latest * (end - start):
                state["stage"] += 1
        if time.time() - saved_at > 240:
            save(checkpoint, model, tuners, **state)
            saved_at = time.time()
        if time.time() - checked_at > 420:
            check(model, vocabulary, state["stage"], tokens)
            checked_at = time.time()
    if chief:
        save(checkpoint, model, tuners, **state)
        check(model, vocabulary, state["stage"], tokens)


def main() -> None:
    args = options()
    for stop in (signal.SIGINT, signal.SIGTERM):  # the first worker ends the run and saves
        signal.signal(stop, signal.SIG_IGN)
    with tempfile.TemporaryDirectory() as folder:
        torch.multiprocessing.spawn(work, (args, f"{folder}/rendezvous"), nprocs=args.workers)


if __name__ == "__main__":
    main()
