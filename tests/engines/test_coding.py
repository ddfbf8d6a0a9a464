"""The short way from text to tokens gives what the tokenizer itself gives."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rearank.engines.tokens import encoded

transformers = pytest.importorskip("transformers")

from rearank.engines.model import Model  # noqa: E402  (behind what may be missing)


@lru_cache(maxsize=1)
def tiny() -> Any:
    return transformers.AutoTokenizer.from_pretrained(
        Model(name="tiny", path="pkg://rearank/training/assets/tiny").location
    )


@given(st.lists(st.text(max_size=20) | st.sampled_from([*tiny().get_vocab()]), max_size=12).map(" ".join))
def test_tokens_are_the_tokenizers_own(text: str) -> None:
    text = text.encode("utf-8", "replace").decode()
    assert encoded(tiny(), text) == tiny()(text, add_special_tokens=False)["input_ids"]


def test_what_another_use_left_behind_changes_nothing() -> None:
    text = "passage one two three"
    plain = encoded(tiny(), text)
    assert len(plain) > 2
    tiny()(text, truncation=True, max_length=2, padding="max_length")
    assert encoded(tiny(), text) == plain
    tiny()([text, "x"], padding="max_length", max_length=64)
    assert encoded(tiny(), text) == plain


def test_a_tokenizer_that_reads_texts_its_own_way_is_asked_itself() -> None:
    class Lower(type(tiny())):  # type: ignore[misc]
        def _encode_plus(self, text: str, **settings: Any) -> Any:
            return super()._encode_plus("one", **settings)

    changed = Lower.from_pretrained(Model(name="tiny", path="pkg://rearank/training/assets/tiny").location)
    assert encoded(changed, "two three four") == encoded(tiny(), "one")
