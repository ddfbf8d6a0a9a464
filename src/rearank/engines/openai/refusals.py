"""What a server's refusal is about: the prompt, the key, or a setting that every call of the run has."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_MODERATION = re.compile(
    r"moderat|flagged|content[_ -]?(?:filter|policy|management|safety|risk)|content exists risk|responsible ?ai|"
    r"policy[_ ]?violation|data_?inspection|inappropriate|safety|sensitive|harmful|prohibited[_ ]content|"
    r"(?:prompt|input|content|message)s?\b.{0,60}\bviolat\w*\b.{0,60}\bpolic",
    re.IGNORECASE,
)
_MODERATED_FIELDS = {"reasons", "flagged_input", "categories", "moderation", "innererror"}
_MODERATED_PREFIXES = ("content_filter", "contentfilter", "moderation")
_KEY = re.compile(
    r"\bapi[ _-]?key|(?:invalid|expired|missing|access|bearer)[ _]token|authenticat|unauthori[sz]ed|credential|"
    r"permission",
    re.IGNORECASE,
)
_CREDIT = re.compile(
    r"insufficient[_ ](?:account[_ ])?(?:balance|credit|fund)|not enough (?:balance|credit|fund)|out of credit|"
    r"(?:balance|credits?|funds) (?:is |are |was )?(?:too low|exhausted|insufficient|negative|used up|not enough)|"
    r"no (?:remaining )?credits? |more credits|arrear|account (?:is )?overdue|余额不足|余额已用完|欠费",
    re.IGNORECASE,
)
_ADDRESSES_KEY = re.compile(r"\bapi[ _-]?key\b", re.IGNORECASE)
_SYSTEM = "set prompt.system='', or choose a prompt of one message (prompt=compact)"
_SWITCH = "set model.thinking=null, or the server's own switch in engine.extra_body"
_REMEDIES = {  # the first that occurs in what the server says
    r"enable_thinking": "set model.thinking=null and +engine.extra_body.enable_thinking=false",
    r"\bstream": "rearank asks for whole answers, not for a stream: choose another model (model.path, "
    "engine.served_model), or a server that answers without a stream (engine.base_url)",
    r"max_completion_tokens": "set engine.max_tokens_field=max_completion_tokens",
    r"max_tokens": "set engine.max_tokens_field=max_completion_tokens, or a smaller model.max_tokens",
    r"temperature|top_p": "set engine.send_temperature=false",
    r"seed": "set engine.send_seed=false",
    r"chat_template_kwargs": "set model.thinking=null; the server has its own switch for it, see engine.extra_body",
    r"messages\[\d+\]\.role|\brole": _SYSTEM,
    r"\b(?:system|developer)\b": _SYSTEM,
    r"continue_final_message|add_generation_prompt|prefill": "choose a prompt without prefill (prompt.prefill='')",
    r"reasoning|thinking": _SWITCH,
}
_REFUSED = re.compile(
    r"unsupported|unknown[_ ](?:parameter|field|argument|name)|unrecogni[sz]ed|extra inputs are not permitted|"
    r"extra fields|not support|supports? (?:at most|only)|only supports?|invalid|must (?:be|not)|unexpected|required|"
    r"not (?:allowed|permitted|valid|enabled)|out of range|does ?n.t support|can ?not|please enable",
    re.IGNORECASE,
)
_REFUSED_PARAMETER = re.compile(
    r"unsupported[_ ](?:parameter|value)|unknown[_ ]parameter|unrecognized request argument|"
    r"extra inputs are not permitted|not supported with this model|does not support|supports at most",
    re.IGNORECASE,
)
_ROLES = re.compile(r"\broles?\b|(?:system|developer) (?:message|prompt|instruction)", re.IGNORECASE)
_SENT = re.compile(
    r"(?<!\w)(?:temperature|top_p|seed|max_(?:completion_)?tokens|stream(?:ing)?|chat_template_kwargs|"
    r"(?:enable_)?thinking|continue_final_message|add_generation_prompt)(?!\w)"
)
_OF_THE_ANSWER = re.compile(r"max_?(?:completion_?|output_?|new_?)?tokens", re.IGNORECASE)
_TOO_MANY = re.compile(
    r"too (?:large|many|big|high|long)|at most|exceed|(?:great|larg|high)er|maximum|less than|range|limit|between|"
    r"up to|must be|[<>≤]",
    re.IGNORECASE,
)
_TOO_FEW = re.compile(  # bounds of one digit are for what this program never sends
    r"too (?:small|few|low|short)|(?:at least|minimum(?: value)?(?: of| is)?|is (?:below|under|(?:low|small)er than|"
    r"less than)|must be (?:>=?|≥|(?:great|larg|high)er than(?: or equal to)?))\D{0,12}\d{2}",
    re.IGNORECASE,
)
_FIGURE = re.compile(r"(?<![\w.-])\d{2,}(?![\w-])")
_MODEL = re.compile(
    r"model_not_|model_decom|invalid_model|\bmodel\b.*(?:not (?:exist|found)|n.t exist|decommission)", re.IGNORECASE
)
SETTINGS = (
    "prompt.system, model.thinking, model.max_tokens, engine.max_tokens_field, engine.send_temperature, "
    "engine.send_seed, engine.extra_body, engine.served_model, and the prompts' length (prompt.max_characters, "
    "strategy.size)"
)
"""Those that go into every call."""
_ALIKE = 3
_LONG = 1000  # characters that some context may be too short for


def is_moderated(error: Mapping[str, Any], message: str) -> bool:
    """Whether it is this prompt's content that the server refuses, by its fields or by its words."""
    names = {name.lower() for name in _names(error)}
    named = f"{error.get('code') or ''} {error.get('type') or ''} {message}"
    marked = any(name in _MODERATED_FIELDS or name.startswith(_MODERATED_PREFIXES) for name in names)
    return marked or _MODERATION.search(named) is not None


def is_about_credit(message: str) -> bool:
    """Whether the account can't pay; a rate limit, which many call a quota, is something else."""
    return _CREDIT.search(message) is not None


def is_about_the_model(error: Mapping[str, Any], message: str) -> bool:
    """Whether there is no such model; some answer 400 to that."""
    return _MODEL.search(f"{error.get('code') or ''} {error.get('type') or ''} {message}") is not None


def is_about_roles(message: str) -> bool:
    """Whether it is about who speaks in a conversation, which the prompt fixes."""
    return _ROLES.search(message) is not None


def is_about_the_key(status: int, error: Mapping[str, Any], message: str) -> bool:
    """Whether the server takes no call with this key; some answer 400 to a key that they don't know.

    A 403 without an error in JSON may come from a firewall that dislikes one prompt.
    """
    if status == 401:
        return True
    if not error:
        return False
    named = f"{error.get('code') or ''} {error.get('type') or ''} {error.get('status') or ''} {message}"
    return (_KEY if status == 403 else _ADDRESSES_KEY).search(named) is not None


def wants_a_longer_answer(message: str) -> bool:
    """Whether ``model.max_tokens`` is below what the server takes."""
    return _OF_THE_ANSWER.search(message) is not None and _TOO_FEW.search(message) is not None


def refused_setting(error: Mapping[str, Any], message: str) -> str | None:
    """The remedy where a refusal names something that every call sends; ``None`` where it doesn't."""
    parameter = str(error.get("param") or "")
    named = f"{message} {parameter} {error.get('code') or ''} {error.get('type') or ''}"
    by_name = _SENT.search(f"{message} {parameter}")
    if wants_a_longer_answer(f"{message} {parameter}"):
        return "set a larger model.max_tokens"
    if _OF_THE_ANSWER.search(f"{message} {parameter}") and _TOO_MANY.search(message) and _FIGURE.search(message):
        return "set a smaller model.max_tokens"
    if not (_REFUSED_PARAMETER.search(named) or is_about_roles(message) or (by_name and _REFUSED.search(named))):
        return None
    found = (remedy for name, remedy in _REMEDIES.items() if re.search(name, f"{message} {parameter}", re.IGNORECASE))
    return next(found, "see engine.extra_body")


class Refusals:
    """What several refusals have in common, and what the answered prompts had not.

    Until the first answer the same refusal of several prompts is no prompt's fault; later, one of prompts longer than
    all that were answered is about their length, whatever its words are.
    """

    def __init__(self) -> None:
        self._prompts: dict[str, set[int]] = {}
        self._answered = 0

    def answered(self, characters: int) -> None:
        """A prompt of this length was."""
        self._answered = max(self._answered, characters)

    def is_longest(self, characters: int) -> bool:
        """Whether it is long, shorter prompts were answered, and none of this length."""
        return 0 < self._answered < characters and characters >= _LONG

    def every_call(self, refusal: str, prompt: int, under_way: int) -> bool:
        """Count one, by its text without its figures and quotations; whether it now stands for every call.

        It does for several different prompts, and for more than are still ``under_way``: a refusal comes sooner than an
        answer.
        """
        kind = re.sub(r"\d+|'[^']*'|\"[^\"]*\"|`[^`]*`", "", refusal)
        alike = self._prompts.setdefault(kind, set())
        alike.add(prompt)
        return len(alike) >= _ALIKE and len(alike) > under_way


def _names(value: Any, depth: int = 4) -> Iterator[str]:
    """Of all fields in it."""
    if depth and isinstance(value, Mapping):
        for name, inner in value.items():
            yield str(name)
            yield from _names(inner, depth - 1)
    elif depth and isinstance(value, list):
        for inner in value:
            yield from _names(inner, depth - 1)
