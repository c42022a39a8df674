"""Checks that llama.cpp agrees with training about a GGUF (the same prompt text, the same tokens, the same logits),
that no phrasing kept for evaluation can be said in training, and that training shows the tokens of the words kept for it.
"""

import argparse
import json
import random
from pathlib import Path

import numpy as np
import torch
from jinja2 import Environment
from llama_cpp import Llama

import chat
import gguf_file
import phrases
import tokenizer
import topics
import unseen
from dialogue import CLAUSES, Dialogues, Turn
from layouts import system_prompt
from model import Kiosk, Shape, causal_mask
from names import Names
from store import make_store
from tools import make_tools

#: llama.cpp rounds activations to 8 bits for its products with Q8_0 weights; PyTorch does not.
TOLERANCE, AGREEMENT = 0.35, 0.97


def conversation(seed: int) -> tuple[str, list[dict], list[dict]]:
    """A conversation as training text, and as the messages and tools of a request."""
    rng = random.Random(seed)
    store = make_store(Names(rng, True), 10)
    tools = make_tools(rng) if seed % 2 else []
    system = system_prompt(rng, store)[0]
    text, messages = chat.system_text(system, tools), [{"role": "system", "content": system}]
    talk = Dialogues(rng, store, tools)
    for _ in range(4):
        for turn in talk.conversation():
            text += chat.question_text(turn) + turn.answer + chat.END + "\n"
            messages += request_messages(turn)
    return text, messages, [tool.schema for tool in tools]


def request_messages(turn: Turn) -> list[dict]:
    messages: list[dict] = [{"role": turn.role, "content": turn.user}]
    before, tag, call = turn.answer.partition(chat.TAGS[0] + '\n{"name": "')
    if tag:
        name, arguments = call.removesuffix("}\n" + chat.TAGS[1]).split('", "arguments": ', 1)
        messages.append(
            {
                "role": "assistant",
                "content": before.rstrip("\n"),
                "tool_calls": [{"type": "function", "function": {"name": name, "arguments": arguments}}],
            }
        )
    else:
        messages.append({"role": "assistant", "content": turn.answer})
    return messages


def plain(phrase: str) -> str:
    return phrase.lower().rstrip("?.!")


def leaked() -> set[str]:
    """The phrasings for evaluation that training says too."""
    spoken = {plain(p) for p in phrases.PRICE + phrases.PLACE + phrases.STOCK + phrases.SELL + phrases.ABOUT}
    spoken |= {plain(p) for questions in topics.QUESTIONS.values() for p in questions}
    spoken |= {plain(o.replace("{}", c)) for o in phrases.OPENERS for clauses in CLAUSES.values() for c in clauses}
    return spoken & {plain(p) for side in (unseen.NEW, unseen.BLIND) for kept in side.values() for p in kept}


def main() -> None:
    cli = argparse.ArgumentParser(description=__doc__)
    cli.add_argument("gguf", type=Path)
    path = cli.parse_args().gguf
    if both := leaked():
        raise SystemExit(f"said in training and in evaluation: {sorted(both)}")

    vocabulary = gguf_file.read_vocabulary(path)
    ours = tokenizer.of(vocabulary)
    tokenizer.require_taught(ours, tokenizer.training_text())
    shape = Shape(vocabulary=len(vocabulary["tokens"]))
    model = Kiosk(shape)
    model.load_state_dict(gguf_file.read(path))
    llama = Llama(str(path), n_ctx=shape.context, logits_all=True, verbose=False, n_threads=2)
    environment = Environment()
    environment.filters["tojson"] = lambda value: json.dumps(value, ensure_ascii=False)
    template = environment.from_string(llama.metadata["tokenizer.chat_template"])

    worst, same, total = 0.0, 0, 0
    for seed in range(8):
        text, messages, tools = conversation(seed)
        assert template.render(messages=messages, tools=tools) == text, f"template and training text differ:\n{text}"
        ids = llama.tokenize(text.encode(), add_bos=False, special=True)
        assert ids == ours.encode(text).ids, "llama.cpp and training tokenize differently"
        ids = ids[: shape.context]
        llama.reset()
        llama.eval(ids)
        theirs = np.array(llama.scores[: len(ids)])
        with torch.no_grad():
            logits = model(torch.tensor([ids]), torch.arange(len(ids)).float()[None], causal_mask(len(ids)))[0].numpy()
        worst = max(worst, float(np.abs(logits - theirs).mean(-1).max()))
        same += int((logits.argmax(-1) == theirs.argmax(-1)).sum())
        total += len(ids)
    agreement = same / total
    print(f"{total} tokens: logits differ by {worst:.3f} in the worst mean, same best token {100 * agreement:.2f} %")
    if worst > TOLERANCE or agreement < AGREEMENT:
        raise SystemExit("llama.cpp does not compute what was trained")


if __name__ == "__main__":
    main()
