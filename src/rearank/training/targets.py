"""What fine-tuning learns from: each row's prompt and answer in tokens, whatever the chat template does to answers.

Templates take the reasoning out of an assistant's turn (DeepSeek-R1's, Qwen3's), or move it. So the answer never goes
through one: it follows the rendered prompt as it is, as it does when the model answers.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rearank.training.base import TrainingError

_OPENED = re.compile(r"<think>\s*\Z")
_CLOSED = re.compile(r"</think>\s*\Z")
_REASONING = re.compile(r"<think>(.*?)</think>\s*", re.DOTALL)
_MARK = "rearank-answer"


def answer_after(prompt: str, answer: str) -> str:
    """``answer`` as it follows a rendered ``prompt``, which may have opened the reasoning, or written an empty one.

    Raises:
        TrainingError: where the template has closed the reasoning and the answer brings one.
    """
    reasoned = _REASONING.match(answer)
    if _OPENED.search(prompt):
        return answer.removeprefix("<think>") if reasoned else f"</think>\n{answer}"
    if reasoned and _CLOSED.search(prompt):
        if reasoned.group(1).strip():
            raise TrainingError(
                "the model's chat template writes an empty reasoning before each answer, and sft.notes would be a "
                "second one; set sft.notes=none, or choose a template that lets the model reason"
            )
        return answer[reasoned.end() :]
    return answer


def ending(tokenizer: Any, prompt: Sequence[Mapping[str, str]]) -> str:
    """What the chat template writes after an assistant's turn; the end token, where that can't be seen."""
    turns = [*prompt, {"role": "assistant", "content": _MARK}]
    _, found, after = str(tokenizer.apply_chat_template(turns, tokenize=False)).rpartition(_MARK)
    return after if found and after.strip() else str(tokenizer.eos_token)


def target_tokens(tokenizer: Any, prompt: Sequence[Mapping[str, str]], answer: str, end: str) -> tuple[list[int], int]:
    """(the tokens of the prompt and of the whole answer with its ``end``, how many of them are the prompt's)."""
    asked = str(tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True))
    texts = (asked, answer_after(asked, answer) + end)
    before, after = (list(tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)
    return before + after, len(before)
