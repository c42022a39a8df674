"""A byte-level BPE tokenizer whose letter merges do not depend on case or on a space before the word.

Merges are learnt on lower-case letters and mirrored: `oat`, `Oat`, ` oat` and ` Oat` split at the same places,
and the space joins the first piece last. A name in a question then has the same pieces as in the facts, which
makes looking it up far easier to learn. No piece is a word that is kept for evaluation, because training would never
teach it. Digits go in pairs: a number of one token is looked up whole, while the second digit of `26` is easily taken
from another number that starts with a 2. The pre-tokenizer is the one llama.cpp calls `dbrx`: Qwen2's with up to three
digits a word.
"""

import json
import random
import re
import string
import sys
from collections import Counter
from pathlib import Path

import xkcdpass
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers

import chat
from dialogue import Dialogues
from layouts import system_prompt
from names import MODIFIERS, NOUNS, Names, kept_words
from store import make_store
from tools import make_tools

PATTERN = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}"
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
PIECES, CAPITALS, PLAIN_SPACED, CAPITAL_SPACED = 640, 330, 440, 300
VOCABULARY = 2148
SPACE = "Ġ"


def byte_letters() -> dict[int, str]:
    """GPT-2's printable letter for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    letters = {b: chr(b) for b in plain}
    letters.update({b: chr(256 + n) for n, b in enumerate(b for b in range(256) if b not in letters)})
    return letters


LETTERS = byte_letters()


def encode_bytes(text: str) -> str:
    return "".join(LETTERS[b] for b in text.encode())


def sample_text(seed: int, stores: int, words: tuple[str, ...]) -> str:
    rng = random.Random(seed)
    parts = []
    for _ in range(stores):
        store = make_store(Names(rng, False, words), rng.randint(3, 12))
        tools = make_tools(rng) if rng.random() < 0.25 else []
        parts.append(chat.system_text(system_prompt(rng, store)[0], tools))
        talk = Dialogues(rng, store, tools)
        parts += [chat.question_text(t) + t.answer + "\n" for _ in range(8) for t in talk.conversation()]
    return re.sub(r"<\|.*?\|>|</?tool_call>", " ", "".join(parts))


def learn_pieces(counts: Counter[str], number: int, kept: set[str]) -> list[tuple[str, str]]:
    """Plain BPE on words: the most frequent neighbours merge, again and again, but never to a word of `kept`."""
    words = [(list(word), n) for word, n in counts.items()]
    merges = []
    for _ in range(number):
        pairs: Counter[tuple[str, str]] = Counter()
        for pieces, n in words:
            for pair in zip(pieces, pieces[1:]):
                pairs[pair] += n
        (a, b), _ = max((item for item in pairs.items() if "".join(item[0]) not in kept), key=lambda i: (i[1], i[0]))
        merges.append((a, b))
        for pieces, _ in words:
            i = 0
            while i < len(pieces) - 1:
                if pieces[i] == a and pieces[i + 1] == b:
                    pieces[i : i + 2] = [a + b]
                i += 1
    return merges


def split(word: str, merges: dict[tuple[str, str], int]) -> list[str]:
    pieces = list(word)
    while len(pieces) > 1:
        rank, i = min((merges.get(pair, len(merges)), i) for i, pair in enumerate(zip(pieces, pieces[1:])))
        if rank == len(merges):
            break
        pieces[i : i + 2] = [pieces[i] + pieces[i + 1]]
    return pieces


def build(text: str, words: tuple[str, ...]) -> dict:
    """The vocabulary and the merges, learnt from generated text and a word list."""
    runs = Counter(re.findall(r" ?[A-Za-z]+", text))
    letters: Counter[str] = Counter()
    for run, n in runs.items():
        letters[run.strip().lower()] += min(n, 3000)
    kept = set(kept_words())
    for word in (*words, *MODIFIERS, *NOUNS):
        if word not in kept:
            letters[word] += 4
    lower = learn_pieces(letters, PIECES, kept)
    ranks = {pair: i for i, pair in enumerate(lower)}
    starts: dict[str, Counter[str]] = {form: Counter() for form in ("plain", "capital", "spaced", "capital spaced")}
    for run, n in runs.items():
        word = run.strip()
        if word[1:] != word[1:].lower():
            continue
        form = " ".join(x for x in ("capital" if word[0].isupper() else "", "spaced" if run[0] == " " else "") if x)
        starts[form or "plain"][split(word.lower(), ranks)[0]] += n
    capitals = starts["capital"] + starts["capital spaced"]
    chosen = {p for p, _ in sorted(capitals.items(), key=lambda kv: (-kv[1], kv[0])) if len(p) > 1}
    chosen = set(sorted(chosen, key=lambda p: (-capitals[p], p))[:CAPITALS])
    parts = {a + b: (a, b) for a, b in lower}
    for piece in list(chosen):  # a capital piece needs the capital pieces that it is merged from
        while len(piece) > 1:
            chosen.add(piece)
            piece = parts[piece][0]
    merges = []
    for a, b in lower:
        merges.append((a, b))
        if a + b in chosen:
            merges.append((a[0].upper() + a[1:], b))
    spaced = [p for p, _ in sorted(starts["spaced"].items(), key=lambda kv: (-kv[1], kv[0]))][:PLAIN_SPACED]
    capital = [
        p[0].upper() + p[1:]
        for p, _ in sorted(starts["capital spaced"].items(), key=lambda kv: (-kv[1], kv[0]))
        if len(p) == 1 or p in chosen
    ]
    merges += [(SPACE, p) for p in spaced + capital[:CAPITAL_SPACED]]
    merges += [(a, b) for a in string.digits for b in string.digits]
    marks = Counter(m.lstrip(" ") if m[0] != " " else SPACE + m[1:] for m in re.findall(r" ?[^\sA-Za-z0-9]+\n*", text))
    for symbol in ("€", "£", "¥", "₹", "–", "—", "•", "é"):
        whole = encode_bytes(symbol)
        merges += [(whole[:i], whole[i]) for i in range(1, len(whole))]
    for mark, _ in marks.most_common(70):
        whole = SPACE * mark.startswith(SPACE) + encode_bytes(mark.removeprefix(SPACE))
        if 2 <= len(whole) <= 3 and whole.isprintable():
            known = {a + b for a, b in merges}
            if len(whole) == 3 and whole[:2] not in known:
                continue
            merges.append((whole[:-1], whole[-1]))
    vocabulary = list(dict.fromkeys([*LETTERS.values(), *(a + b for a, b in merges)]))
    merges = list(dict.fromkeys(merges))
    vocabulary = vocabulary[: VOCABULARY - len(chat.SPECIAL) - len(chat.TAGS)]
    known = set(vocabulary)
    merges = [(a, b) for a, b in merges if a + b in known]
    return {"tokens": vocabulary + chat.SPECIAL + chat.TAGS, "merges": [f"{a} {b}" for a, b in merges]}


def load(path: Path) -> Tokenizer:
    return of(json.loads(path.read_text()))


def save(path: Path, vocabulary: dict) -> None:
    path.write_text(json.dumps(vocabulary, ensure_ascii=False))


def of(vocabulary: dict) -> Tokenizer:
    """The Hugging Face tokenizer of a vocabulary."""
    merges = [tuple(m.split(" ")) for m in vocabulary["merges"]]
    tokenizer = Tokenizer(models.BPE({t: i for i, t in enumerate(vocabulary["tokens"])}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(PATTERN), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in chat.SPECIAL])
    tokenizer.add_tokens([AddedToken(t, special=False, normalized=False) for t in chat.TAGS])
    return tokenizer


def training_text() -> str:
    """What the vocabulary is learnt from."""
    return sample_text(1, 2500, english_words())


def require_taught(tokenizer: Tokenizer, text: str) -> None:
    """Refuses a vocabulary in which training gives a word kept for evaluation no meaning."""
    if lost := untaught(tokenizer, text):
        raise SystemExit(f"training hardly shows these tokens of words kept for evaluation: {sorted(lost)}")


def untaught(tokenizer: Tokenizer, text: str) -> set[str]:
    """The tokens in words kept for evaluation that a text of training hardly has: nothing gives them a meaning."""
    seen = Counter(tokenizer.encode(text).ids)
    spelled = [form for word in kept_words() for form in (word, word.capitalize(), f" {word}", f" {word.capitalize()}")]
    return {tokenizer.id_to_token(i) for form in spelled for i in tokenizer.encode(form).ids if seen[i] < 3}


def english_words() -> tuple[str, ...]:
    """The EFF's long word list (CC BY 3.0), from the package `xkcdpass`; for training only."""
    text = (Path(xkcdpass.__file__).parent / "static" / "eff-long").read_text()
    return tuple(sorted({w for w in text.split() if w.isalpha() and w.islower() and 3 <= len(w) <= 10}))


def main() -> None:
    target, words = Path(sys.argv[1]), english_words()
    text = training_text()
    vocabulary = build(text, words)
    tokenizer = of(vocabulary)
    require_taught(tokenizer, text)
    save(target, vocabulary)
    fresh = sample_text(2, 200, words)
    characters = len(fresh) / len(tokenizer.encode(fresh).ids)
    print(f"{tokenizer.get_vocab_size()} tokens, {characters:.2f} characters a token")


if __name__ == "__main__":
    main()
