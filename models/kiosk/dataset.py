"""Batches: stores packed into sequences, each a system prompt with many conversations that do not see one another.

All conversations about a store share its system prompt, as a tree: a token sees the tokens before it in its own
conversation and in the prompt, and its position counts on from the prompt's end. That is what inference sees, with
many answers to learn from for each prompt token that is paid for. Between the conversations are lookups: answers
without a question, to learn their value alone.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np
from tokenizers import Encoding, Tokenizer

import chat
from dialogue import IN_PRACTICE, IN_PRACTICE_OF, USUAL, Dialogues, Turn
from layouts import Lesson, lesson_prompt
from names import Names
from store import Store, make_store
from tools import make_tools


@dataclass(frozen=True)
class Mix:
    """How long the sequences are and how many products the stores have."""

    length: int
    products: tuple[int, int]
    practice: bool = True  #: more of what is hard: names, layouts, tools, questions
    held_out_names: bool = False
    held_out_phrases: dict[str, list[str]] | None = None


@dataclass
class Batch:
    ids: np.ndarray  #: [sequence, place]
    positions: np.ndarray
    store: np.ndarray  #: which store a token belongs to; -1 is padding
    branch: np.ndarray  #: which conversation or lookup, 0 for the system prompt
    wanted: np.ndarray  #: whether the next token is to be predicted
    targets: np.ndarray  #: those next tokens, flat, in order
    turn: np.ndarray  #: for each target the number of its answer
    kinds: list[str]  #: for each answer its category
    layouts: list[str]  #: for each answer its store's layout
    lessons: list[list[tuple[int, int]]]  #: for each of LESSONS the places, flat, and the tokens to know there


class Answer(NamedTuple):
    turn: Turn
    start: int  #: of its tokens in the branch
    said: Encoding  #: with the end of the turn
    first: int  #: the first of its tokens that is to be predicted
    kind: str


class Branch(NamedTuple):
    tokens: list[int]
    answers: list[Answer]


#: Kinds of lessons with the number of the token, of those that a lesson's text has, that is to be known.
LESSONS = [("place", 0), ("place", 1), ("column", 0), ("answer", 0)]
ANSWER = LESSONS.index(("answer", 0))
#: Which values are to be known before they are said: from this verb on, with which the answer goes on behind the name.
FORESEEN = {"aisle": " is ", "stock": " has "}
#: How many lookups training tries behind each conversation, by layout where it is special: in tables most of what is
#: mistaken is the column.
LOOKUPS, LOOKUPS_IN = 2, {"table": 4, "csv": 4}


def nothing(store: Store) -> Store:
    return replace(store, products=[], facts={})


class Maker:
    def __init__(self, tokenizer: Tokenizer, words: tuple[str, ...], seed: int) -> None:
        self.tokenizer, self.words, self.rng = tokenizer, words, random.Random(seed)

    def encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text).ids

    def answered(self, turn: Turn) -> Encoding:
        return self.tokenizer.encode(turn.answer + chat.END)

    def conversation(self, turns: list[Turn]) -> Branch:
        tokens: list[int] = []
        answers = []
        for turn in turns:
            tokens += self.encode(chat.question_text(turn))
            said = self.answered(turn)
            answers.append(Answer(turn, len(tokens), said, 0, turn.category))
            tokens += said.ids + self.encode("\n")
        return Branch(tokens[:-1], answers)

    def lookup(self, turn: Turn) -> Branch:
        """An answer without its question, to be predicted behind its verb: a quarter of a conversation's tokens for what is
        mistaken most.
        """
        begun, said = self.encode(f"{chat.START}assistant\n"), self.answered(turn)
        space = said.char_to_token(self.value_at(turn) - 1)  # a token before a number, but a part of " sold"
        return Branch(begun + said.ids, [Answer(turn, len(begun), said, space, "lookup")])

    def branches(self, talk: Dialogues, conversations: int, lookups: int) -> Iterator[Branch]:
        """So many conversations, behind each so many lookups at most, none of them twice."""
        said = set()
        for _ in range(conversations):
            yield self.conversation(talk.conversation())
            for turn in (talk.lookup() for _ in range(lookups)):
                if turn and turn.answer not in said:
                    said.add(turn.answer)
                    yield self.lookup(turn)

    def batch(self, mix: Mix, sequences: int) -> Batch:
        shape = (sequences, mix.length)
        b = Batch(
            np.zeros(shape, np.int64),
            np.zeros(shape, np.int32),
            np.full(shape, -1, np.int32),
            np.zeros(shape, np.int32),
            np.zeros(shape, bool),
            np.zeros(0),
            np.zeros(0),
            [],
            [],
            [[] for _ in LESSONS],
        )
        numbers = np.zeros(shape, np.int64)
        for row in range(sequences):
            self.fill(b, mix, row, numbers[row])
        b.targets, b.turn = np.roll(b.ids, -1, 1)[b.wanted], numbers[b.wanted]
        return b

    def fill(self, b: Batch, mix: Mix, row: int, numbers: np.ndarray) -> None:
        rng, at, number = self.rng, 0, 0
        while at < mix.length - 120:
            room = mix.length - at
            low, high = mix.products
            count = min(
                int(low * (high / low) ** rng.random() + 0.5), max(1, room // 45)
            )  # as many small as large stores
            store = make_store(Names(rng, mix.held_out_names, self.words), count, mix.practice)
            tools = make_tools(rng, mix.practice) if rng.random() < 0.5 else []
            prompt, layout, lessons = lesson_prompt(rng, store, mix.practice)
            text = chat.system_text(prompt, tools, rng.random() < 0.5)
            encoded = self.tokenizer.encode(text)
            ids = encoded.ids
            if rng.random() < 0.02:  # a client that sends no facts at all
                store, tools, ids, count, lessons = nothing(store), [], [], 1, []
            if len(ids) > room - 60:
                if room < mix.length // 2:
                    return
                continue
            number += 1
            self.put(b, row, at, ids, 0, number, 0)
            self.teach(b, row * mix.length + at, encoded, text.find(prompt), lessons)
            root, at = len(ids), at + len(ids)
            habits = IN_PRACTICE_OF.get(layout, IN_PRACTICE) if mix.practice else USUAL
            talk = Dialogues(rng, store, tools, mix.held_out_phrases, habits)
            most = max(12, int(1.5 * count)) + 3 * len(tools)
            lookups = LOOKUPS_IN.get(layout, LOOKUPS) if mix.practice else 0
            for place, branch in enumerate(self.branches(talk, most, lookups), 1):
                if at + len(branch.tokens) > mix.length:
                    break
                self.put(b, row, at, branch.tokens, root, number, place)
                for answer in branch.answers:
                    self.want(b, row, at + answer.start, answer, numbers)
                    b.layouts.append(layout)
                at += len(branch.tokens)

    def want(self, b: Batch, row: int, at: int, answer: Answer, numbers: np.ndarray) -> None:
        """Notes what is to be predicted of the next answer, which begins at place `at` of its row, and its number there."""
        predicted = slice(at + answer.first - 1, at + len(answer.said.ids) - 1)
        b.wanted[row, predicted] = True
        numbers[predicted] = len(b.kinds)
        self.foresee(b, row * b.ids.shape[1] + at, answer.turn, answer.said)
        b.kinds.append(answer.kind)

    def teach(self, b: Batch, at: int, system: Encoding, start: int, lessons: list[Lesson]) -> None:
        """Notes what is to be known at which tokens of a system turn, which begins at place `at` and has the prompt from
        character `start` on.
        """
        for lesson in lessons:
            known = self.encode(lesson.text)
            first, last = (system.char_to_token(start + c) for c in (lesson.start, lesson.end - 1))
            if first is None or last is None:  # nothing stands there
                continue
            for number, (kind, part) in enumerate(LESSONS):
                if kind == lesson.kind:
                    token = known[part] if part < len(known) else 0
                    b.lessons[number] += [(at + place, token) for place in range(first, last + 1)]

    @staticmethod
    def value_at(turn: Turn) -> int:
        """The character that an answer's value begins with."""
        return turn.answer.rindex(turn.value)

    @staticmethod
    def foresee(b: Batch, at: int, turn: Turn, answer: Encoding) -> None:
        """Notes in which tokens of an answer, which begins at place `at`, its value is to be known."""
        if turn.category not in FORESEEN or turn.value not in turn.answer:
            return
        verb = answer.char_to_token(turn.answer.rindex(FORESEEN[turn.category]))
        value = answer.char_to_token(Maker.value_at(turn))
        for token in range(verb, value):
            b.lessons[ANSWER].append((at + token, answer.ids[value]))

    @staticmethod
    def put(b: Batch, row: int, at: int, ids: list[int], position: int, store: int, branch: int) -> None:
        end = at + len(ids)
        b.ids[row, at:end] = ids
        b.positions[row, at:end] = np.arange(position, position + len(ids))
        b.store[row, at:end] = store
        b.branch[row, at:end] = branch
