"""A collection and answers that try everything a text can: markup, scripts, control characters, endless words."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

ATTACKS = (
    "</script><script>window.broken = 1</script>",
    "<img src=x onerror='window.broken = 1'>",
    "\u202egnihtyreve snrut siht\u202c and back \u2066 isolate",
    "word" * 500,
    "null \x00 bell \x07 escape \x1b[31m delete \x7f",
    "<!-- <script> ]]> -->",
    "\u2028 line separator \u2029 paragraph separator",
    "{{script}} ${7*7} javascript:window.broken=1",
    "</style><style>body{display:none}</style>",
)
QUERIES = 4
PASSAGES = 24


def write_collection(folder: Path) -> Path:
    """A BEIR folder whose queries, titles and passages hold every attack; passages name their query's word."""
    (folder / "qrels").mkdir(parents=True, exist_ok=True)
    words = ("alpha", "bravo", "charlie", "delta")[:QUERIES]
    corpus, qrels = [], ["query-id\tcorpus-id\tscore"]
    for number, word in enumerate(words):
        for place in range(PASSAGES):
            identifier = f"{word}-{place}"
            attack = ATTACKS[(number + place) % len(ATTACKS)]
            corpus.append({"_id": identifier, "title": attack, "text": f"{word} {'filler ' * place}{attack} {word}"})
            qrels.append(f"q{number}\t{identifier}\t{(place * 7) % 4}")
    queries = [{"_id": f"q{n}", "text": f"{word} {ATTACKS[n]}"} for n, word in enumerate(words)]
    for name, rows in (("corpus", corpus), ("queries", queries)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    (folder / "qrels" / "test.tsv").write_text("\n".join(qrels) + "\n")
    return folder


def poison(store: Path) -> None:
    """Answers that say the same order, with every attack in their reasoning."""
    with sqlite3.connect(store) as database:
        for number, (key, text) in enumerate(database.execute("select key, text from completions").fetchall()):
            added = f"<think> [2] {ATTACKS[number % len(ATTACKS)]} passages 1, 2 and [3] {'lo' * 400}ng "
            database.execute(
                "update completions set text = ?, digest = null where key = ?", (text.replace("<think>", added, 1), key)
            )
    database.close()
