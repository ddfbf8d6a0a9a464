"""Windows of real sentences, and what is asked of the model over them."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from rearank.engines import Engine
from rearank.prompts import ChatPrompt, CompactPrompt, Prompt
from rearank.types import Completion, Message, Passage, Query, Sampling, Window

QUERIES = ("why is the sky blue?", "how do vaccines work", "who wrote Hamlet, and when?")
PASSAGES = (
    (
        "Rayleigh scattering",
        "Air scatters short waves more than long ones: at 450 nm about 4.4 times as much as at 650 nm.",
    ),
    ("", "A vaccine shows the immune system a harmless part of a germ, so that it answers faster the next time."),
    ("Hamlet", 'William Shakespeare wrote "Hamlet" between 1599 and 1601; the First Quarto was printed in 1603.'),
    ("", "Sunsets are red because the light has come a long way through the air, and its blue part is gone."),
    ("Naïve cafés", "Prices:\n\n1. Espresso — 2,50 €\n2. Crème brûlée — 6,00 €\n\n\tOpen 8:00–18:30, 東京店も。"),
)


def windows() -> list[Window]:
    """One for each query: the five passages, beginning with another one each time."""
    found = []
    for place, query in enumerate(QUERIES):
        turned = PASSAGES[place:] + PASSAGES[:place]
        passages = tuple(Passage(f"p{number}", text, title) for number, (title, text) in enumerate(turned))
        found.append(Window(Query(f"q{place}", query), passages))
    return found


def prompts() -> tuple[Prompt, ...]:
    """The two forms, as ``prompt=compact`` and ``prompt=rearank`` cut passages."""
    chat = ChatPrompt(
        system="You rank passages.",
        opening="I will provide you with {num} passages. Rank them by their relevance to the query: {query}.",
        received="Received passage [{i}].",
        final="Query: {query}. Rank the {num} passages above: <think> reasons </think> <answer> [2] > [1] </answer>",
        max_characters=400,
    )
    return CompactPrompt(max_characters=400), chat


def ask(engine: Engine, calls: Sequence[tuple[Sequence[Message], Sampling]]) -> list[Completion]:
    """The answers, asked for all at once."""

    async def all_at_once() -> list[Completion]:
        return await asyncio.gather(*(engine.complete(*call) for call in calls))

    return asyncio.run(all_at_once())
