"""Share of passages (400 characters) that ``prompt.neutralise`` changes, by the kind of text; and the parser's growth.

Python's own sources, C and C++ headers and HTML as they lie on this machine, and the prose of packages' descriptions.
Innocent text is to stay as it is: what changes here are identifiers such as ``argv[1]``. An earlier rule, any ``<``
before a letter, any number in brackets and every joiner, changed 14% of Python, 36% of C, 66% of C++ and 94% of HTML.
"""

from __future__ import annotations

import random
import site
import sysconfig
from collections.abc import Iterable
from functools import partial
from itertools import islice
from pathlib import Path

from common import Result, in_turns

from rearank.neutral import neutralise
from rearank.parsing import parse_ranking

LENGTH, PASSAGES, FILES = 400, 4000, 800
HOSTILE = ("<think>", "[THINK]", "[1] > ", "[", "<answer></answer>", "1 > ", "[1](")


def run() -> list[Result]:
    packages, headers = Path(site.getsitepackages()[0]), Path("/usr/include")
    kinds = {
        "Python": (Path(sysconfig.get_path("stdlib")).glob("*.py"), 0.05),
        "C": (headers.rglob("*.h"), 0.02),
        "C++": (headers.glob("c++/*/bits/*.h"), 0.02),
        "HTML": (packages.rglob("*.html"), 0.02),
        "prose": (packages.glob("*.dist-info/METADATA"), 0.02),
    }
    found = []
    for kind, (files, most) in kinds.items():
        if shown := passages(files):
            share = sum(neutralise(text) != text for text in shown) / len(shown)
            what = f"{kind}: changed of {len(shown):,} passages"
            found.append(Result("neutralised", what, 100 * share, "%", f"at most {most:.0%}", share <= most))
    for piece in HOSTILE:
        texts = [piece * (size // len(piece)) for size in (10**6, 2 * 10**6)]
        once, twice = in_turns(*(partial(parse_ranking, text, 20, tags=False) for text in texts))
        found.append(
            Result("parsing", f"{piece!r} to 2 MB: time of 1 MB's", twice / once, "x", "below 3", twice < 3 * once)
        )
    return found


def passages(files: Iterable[Path]) -> list[str]:
    """Texts of at most ``LENGTH`` characters, white space folded, drawn from the first files by name."""
    made = []
    for path in islice(sorted(path for path in files if path.is_file()), FILES):
        text = " ".join(path.read_text(errors="replace").split())
        made += [text[start : start + LENGTH] for start in range(0, len(text), LENGTH)]
    return random.Random(0).sample(made, min(PASSAGES, len(made)))
