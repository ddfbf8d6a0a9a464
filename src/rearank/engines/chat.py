"""What the engines that load a model share: which model it is, messages -> tokens that fit, tokens -> text."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias

from rearank.engines.base import EngineError, turns
from rearank.engines.checkpoint import cannot_load, fingerprint, located
from rearank.engines.model import Architecture
from rearank.engines.template import CUTS, Frame, shorten
from rearank.engines.tokens import decoded, encoded
from rearank.parsing import opened_at_end
from rearank.ranking import AbortRunError
from rearank.types import Message, Sampling

Overflow: TypeAlias = Literal["truncate", "refuse"]

_ANSWER_SHARE = 2  # a prompt is cut so that the answer keeps max_tokens, but never more than 1/2 of the context
_THINK = "<think>"
_CLOSED = re.compile(r"</think>\s*\Z")
_LONGEST_CAUSE = 300
_WORDS = "let other words stand before and behind {passage} and {query} in the prompt"
_LESS = "shorten the passages (prompt.max_characters), or take fewer in a window (strategy.size)"
_PROBE = (Message("user", "x"),)


class PrefillError(EngineError, AbortRunError):
    """The answer's beginning and the model's chat template contradict each other, in every call of the run."""


def split_prefill(messages: Sequence[Message]) -> tuple[tuple[Message, ...], str]:
    """(what the model is asked, what its answer begins with): the latter is a last message of the assistant's own."""
    if messages and messages[-1].role == "assistant":
        return tuple(messages[:-1]), messages[-1].content
    return tuple(messages), ""


@dataclass(frozen=True)
class Chat:
    """A model's side of a conversation, without its weights; made by ``load_chat``.

    One thread at a time may use it: tokenizers aren't made for more.
    """

    tokenizer: Any
    ends: frozenset[int]
    """The tokens that end an answer."""
    context: int
    """The most tokens, prompt and answer together."""
    overflow: Overflow
    source: str
    """What a loader takes: the folder, or the hub id."""
    fingerprint: str
    thinking: bool | None = None
    """The template's own switch, ``enable_thinking``; ``None`` leaves it alone."""
    opened: str = ""
    """The ``<think>`` that the template itself puts before an answer, if it does."""
    sizes: Architecture | None = None
    """``None`` for a kind of model whose parameters can't be counted."""

    def prompt(self, messages: tuple[Message, ...], sampling: Sampling) -> tuple[list[int], bool]:
        """(the tokens of a prompt that leaves the answer room, whether it was shortened for that).

        Raises:
            EngineError: for a prompt that can't be asked; the message says why.
            PrefillError: where the template rules out the beginning that the prompt gives the answer.
        """
        try:
            return self._fit(messages, sampling)
        except EngineError:
            raise
        except Exception as error:
            raise EngineError(f"the model's chat template refuses this prompt: {in_one_line(error)}") from error

    @cached_property
    def _frame(self) -> Frame:
        return Frame(self.tokenizer, self.encode)

    @property
    def switch(self) -> dict[str, bool]:
        """The thinking switch as a part of an engine's identity: absent where it isn't used."""
        return {} if self.thinking is None else {"thinking": self.thinking}

    def room(self, prompt: Sequence[int], sampling: Sampling) -> int:
        """The tokens an answer to ``prompt`` may have."""
        return min(sampling.max_tokens, self.context - len(prompt))

    def encode(self, messages: tuple[Message, ...]) -> list[int]:
        """The conversation as the model reads it, up to where its answer begins, or goes on."""
        return encoded(self.tokenizer, self.render(messages))

    def render(self, messages: Sequence[Message]) -> str:
        """``encode``'s text.

        The answer's given beginning follows the template's own opening of a turn. Rendered as a message (transformers'
        ``continue_final_message``) it would lose its ``<think>``: templates of reasoning models, Qwen3's and
        DeepSeek-R1's among them, take the reasoning out of an assistant's messages, or move it.
        """
        asked, prefill = split_prefill(messages)
        text = _rendered(self.tokenizer, asked, self.thinking)
        if not prefill:
            return text
        self._check_prefill(text, prefill)
        return text + self.beginning(prefill)[len(self.opened) :]

    def beginning(self, prefill: str) -> str:
        """What an answer begins with: the template's ``<think>``, where it opens one, and ``prefill``.

        A ``<think>`` at the start of ``prefill`` is then the one that is open already.
        """
        return self.opened + (prefill.removeprefix(_THINK) if self.opened else prefill)

    def text(self, tokens: Sequence[int], messages: Sequence[Message] = ()) -> str:
        """The text of the answer to ``messages``, special tokens left out but for those that mark a reasoning.

        It has what ``messages`` begin it with, so that its tags are complete, and the ``<think>`` that the template
        opened for it: a reasoning cut at the token limit would otherwise read as a reply.
        """
        _, prefill = split_prefill(messages)
        if not prefill:
            return self.opened + decoded(self.tokenizer, tokens)
        begun = encoded(self.tokenizer, prefill)
        # Together, as some tokenizers take the space off whatever comes first.
        before, whole = (decoded(self.tokenizer, t) for t in (begun, [*begun, *tokens]))
        return self.beginning(prefill) + whole.removeprefix(before)

    def _check_prefill(self, rendered: str, prefill: str) -> None:
        """Raises ``PrefillError`` where the answer's beginning doesn't go with the end of a rendered prompt."""
        if self.opened and not self.opened.startswith(_THINK):
            raise PrefillError(
                f"the model's chat template opens {self.opened.strip()} itself, which prompt.prefill={prefill!r} can't "
                "end; set prompt.prefill=''"
            )
        if self.opened and not prefill.startswith(_THINK):
            raise PrefillError(
                f"the model's chat template opens {_THINK} itself, and prompt.prefill={prefill!r} would be a part of "
                f"that reasoning; let prompt.prefill begin with {_THINK}, which is then written once: "
                "'<think> </think> <answer>'"
            )
        if _CLOSED.search(rendered) and _THINK in prefill:
            raise PrefillError(
                f"the model's chat template writes an empty reasoning itself, and prompt.prefill={prefill!r} would "
                "write another; set model.thinking=null, or a prompt.prefill without <think>: '<answer>'"
            )

    def _fit(self, messages: tuple[Message, ...], sampling: Sampling) -> tuple[list[int], bool]:
        limit = self.context - min(sampling.max_tokens, self.context // _ANSWER_SHARE)
        prompt = self.encode(messages)
        if len(prompt) <= limit:
            if (token := self._frame.stray(messages, prompt)) is not None:
                raise EngineError(f"a text and the model's chat template together make or hide {token!r}; {_WORDS}")
            return prompt, False
        if self.overflow == "refuse":
            raise EngineError(
                f"a prompt of {len(prompt)} tokens leaves the answer too little of the model's context of "
                f"{self.context}; {_LESS}, or set engine.overflow=truncate"
            )
        asked, _ = split_prefill(messages)
        begun = messages[len(asked) :]  # never shortened: it would begin another answer
        for mark in CUTS:
            cut, tokens = self._longest(asked, begun, limit, mark)
            if (token := self._frame.stray(cut, tokens, (messages, prompt))) is None:
                return tokens, True
        raise EngineError(f"where this prompt is cut to fit, the model's token {token!r} arises; {_LESS}")

    def _longest(
        self, asked: tuple[Message, ...], begun: tuple[Message, ...], limit: int, mark: str
    ) -> tuple[tuple[Message, ...], list[int]]:
        """(the messages with the longest contents that fit, their tokens); ``EngineError`` where none do."""
        low, high, best, found = 0, max((len(m.content) for m in asked), default=0), None, asked
        while low <= high:
            middle = (low + high) // 2
            cut = (*(replace(m, content=shorten(m.content, middle, mark)) for m in asked), *begun)
            tokens = self.encode(cut)
            if len(tokens) <= limit:
                low, best, found = middle + 1, tokens, cut
            else:
                high = middle - 1
        if best is None:
            raise EngineError(f"the prompt's frame alone is longer than the model's context of {self.context}; {_LESS}")
        return found, best


def load_chat(
    model: str | Path,
    revision: str | None,
    *,
    overflow: Overflow = "truncate",
    longest: int | None = None,
    thinking: bool | None = None,
) -> Chat:
    """Everything of ``model`` but its weights.

    Args:
        model: a folder or a hub id.
        revision: the hub's commit, tag or branch.
        overflow: what to do with a prompt that leaves the answer no room in the context. ``truncate`` shortens the
            longest messages in their middles until it fits; ``refuse`` fails the call.
        longest: use no more than so many tokens of the model's context.
        thinking: whether the model is to reason first, for those whose template has that switch (Qwen3's
            ``enable_thinking``); ``None`` leaves it to the template.

    Raises:
        EngineError: where there is no such model, or its tokenizer has no chat template or end token, or the template
            does not know the switch.
    """
    from transformers import AutoConfig, AutoTokenizer, GenerationConfig

    source = located(str(model))
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, revision=revision)
        config = AutoConfig.from_pretrained(source, revision=revision)
    except (OSError, ValueError) as error:
        raise cannot_load(model, error) from error
    if not getattr(tokenizer, "chat_template", None):
        raise EngineError(
            f"{model}: its tokenizer has no chat template; use an instruction-tuned model, or put a "
            "chat_template.jinja into its folder"
        )
    try:
        generation = GenerationConfig.from_pretrained(source, revision=revision)
    except OSError:  # it has none, and then the model's own config names the end token
        generation = GenerationConfig.from_model_config(config)
    if thinking is not None and not _has_switch(tokenizer):
        raise EngineError(
            f"{model}: its chat template has no thinking switch (the same text with enable_thinking on and off); "
            "set model.thinking=null"
        )
    context = _context(tokenizer, config)
    if longest is not None and longest > context:
        raise EngineError(
            f"engine.max_model_len={longest} is more than {model}'s context of {context} tokens; set it to null"
        )
    return Chat(
        tokenizer=tokenizer,
        ends=_end_tokens(tokenizer, generation, str(model)),
        context=longest or context,
        overflow=overflow,
        source=source,
        fingerprint=fingerprint(model, config),
        thinking=thinking,
        opened=opening(tokenizer, thinking),
        sizes=_sizes(config, str(model)),
    )


def call_seed(messages: Sequence[Message], sampling: Sampling) -> int:
    """The seed of a call's own random stream, below 2**56: messages and sampling name it, company changes nothing."""
    named = json.dumps([turns(messages), asdict(sampling)])
    return int.from_bytes(hashlib.sha256(named.encode()).digest()[:7])


def _rendered(tokenizer: Any, messages: Sequence[Message], thinking: bool | None) -> str:
    switch = {} if thinking is None else {"enable_thinking": thinking}
    return str(tokenizer.apply_chat_template(turns(messages), tokenize=False, add_generation_prompt=True, **switch))


def _has_switch(tokenizer: Any) -> bool:
    """Whether the template writes something else with the switch on than off."""
    try:
        return _rendered(tokenizer, _PROBE, True) != _rendered(tokenizer, _PROBE, False)
    except Exception:  # it refuses this conversation, which says nothing of its switch; real ones fail with their cause
        return True


def opening(tokenizer: Any, thinking: bool | None = None) -> str:
    """The ``<think>`` at the very end of a rendered prompt, white space included; ``""`` where there is none.

    Whoever reads an answer, engine or trainer, puts it in front: a reasoning that was cut would read as a reply.
    """
    try:
        return opened_at_end(_rendered(tokenizer, _PROBE, thinking))
    except Exception:  # as above
        return ""


def _sizes(config: Any, model: str) -> Architecture | None:
    try:
        return Architecture.from_config(config.get_text_config().to_dict(), model)
    except ValueError:
        return None


def _end_tokens(tokenizer: Any, generation: Any, model: str) -> frozenset[int]:
    """The ids that end an answer: the tokenizer's and those of the model's generation config."""
    listed = getattr(generation, "eos_token_id", None)
    listed = listed if isinstance(listed, list) else [listed]
    ends = frozenset(i for i in (*listed, tokenizer.eos_token_id) if i is not None)
    if not ends:
        raise EngineError(f"{model}: neither its tokenizer nor its generation config names an end token (eos_token)")
    return ends


def _context(tokenizer: Any, config: Any) -> int:
    """As the model and its tokenizer state it; a tokenizer without a limit states an absurdly large one."""
    stated = getattr(config.get_text_config(), "max_position_embeddings", None) or tokenizer.model_max_length
    return int(min(stated, tokenizer.model_max_length))


def in_one_line(error: Exception) -> str:
    """What an exception says, for a message that may quote a hostile text: no line breaks, and no more than a line."""
    return " ".join(str(error).split())[:_LONGEST_CAUSE] or type(error).__name__
