"""What fine-tuning learns from: each row's prompt and answer in tokens, whatever the chat template does to answers.

Templates take the reasoning out of an assistant's turn (DeepSeek-R1's, Qwen3's), or move it. So the answer never goes
through one: it follows the rendered prompt as it is, as it does when the model answers.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from rearank.neutral import reserved_of, without_tokens
from rearank.training.base import TrainingError
from rearank.training.rows import TrainingRow
from rearank.training.sft import Sft

_OPENED = re.compile(r"<think>\s*\Z")
_CLOSED = re.compile(r"</think>\s*\Z")
_REASONING = re.compile(r"<think>(.*?)</think>\s*", re.DOTALL)
_MARK = "rearank-answer"
_TAGS = "<think></think><answer></answer>"  # tokens of their own in some vocabularies
_log = logging.getLogger(__name__)


def learnable(tokenizer: Any, rows: Sequence[TrainingRow], sft: Sft, what: str, most: int) -> list[TrainingRow]:
    """The rows that fine-tuning can learn; where answers come with them, these in words that end no turn.

    Args:
        tokenizer: the model's.
        rows: with prompts that fit.
        sft: says what is learnt.
        what: for messages: "training".
        most: tokens of an answer (``model.max_tokens``).

    Raises:
        TrainingError: where there were rows and none is left.
    """
    if not sft.given:
        return list(rows)
    reserved = reserved_of(tokenizer)
    kept, bare, long = [], 0, 0
    for row in rows:
        if row.completion is None:
            bare += 1
            continue
        answer = row.completion if reserved is None else without_tokens(row.completion, reserved, _TAGS)
        if len(tokenizer(answer, add_special_tokens=False)["input_ids"]) > most:
            long += 1
            continue
        kept.append(replace(row, completion=answer))
    left_out = [f"{bare} without an answer"] * bool(bare)
    left_out += [f"{long} with one of more than model.max_tokens={most} tokens"] * bool(long)
    if rows and not kept:
        source = (
            "the windows are the teacher's where dataset, augmentation, prepare and seed are those of task=distill"
            if sft.targets == "teacher"
            else "give a dataset whose rows bring answers, or set sft.targets=ideal"
        )
        raise TrainingError(f"sft.targets={sft.targets}: no {what} window is left ({', '.join(left_out)}); {source}")
    if left_out:
        _log.warning("sft.targets=%s: of %d %s windows %s", sft.targets, len(rows), what, " and ".join(left_out))
    return kept


def answer_after(prompt: str, answer: str) -> str:
    """``answer`` as it follows a rendered ``prompt``, which may have opened the reasoning, or written an empty one.

    Raises:
        TrainingError: where the template has closed the reasoning and the answer brings one.
    """
    answer = answer.lstrip() if _REASONING.match(answer.lstrip()) else answer
    reasoned = _REASONING.match(answer)
    if _OPENED.search(prompt):
        if reasoned is None and "</think>" in answer and "<think>" not in answer:
            return answer  # it goes on where the template has begun
        return answer.removeprefix("<think>") if reasoned else f"</think>\n{answer}"
    if reasoned and _CLOSED.search(prompt):
        if reasoned.group(1).strip():
            raise TrainingError(
                "the model's chat template writes an empty reasoning before each answer, and the answer to learn has "
                "one, too; set sft.targets=ideal, or choose a template that lets the model reason"
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
