"""An answer about one passage -> yes, no or neither."""

from __future__ import annotations

import re

_YES_OR_NO = re.compile(r"(?<!\w)(?:(yes)|no)(?!\w)", re.IGNORECASE)
_NOT = re.compile(
    r"(?:\bnot|n['’]t|\bnever|\bcannot)(?: (?:really|quite|exactly|be))?(?: an?(?: \w+)?)? [\"'“‘*_]*+\Z", re.IGNORECASE
)
_LONGEST_NOT = 40  # characters
_FIRST_WORD = re.compile(r"[\W_]*+(?:(yes)|no)(?!\w)", re.IGNORECASE)


def yes_or_no(answer: str) -> bool | None:
    """Whether ``answer`` says yes: by its first word, or the only yes or no in it; ``None`` where it says neither."""
    first = _FIRST_WORD.match(answer)
    if first is not None:
        return first.group(1) is not None
    found = set()
    for word in _YES_OR_NO.finditer(answer):
        yes = word.group(1) is not None
        negated = _NOT.search(answer, max(0, word.start() - _LONGEST_NOT), word.start()) is not None
        if yes or not negated:  # "not a yes" is a no, and "not a no" nothing
            found.add(yes and not negated)
    return found.pop() if len(found) == 1 else None
