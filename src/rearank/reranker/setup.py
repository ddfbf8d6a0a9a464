"""Names or objects -> the model, prompt, strategy and engine of a reranker, checked against each other."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from rearank.choices import Chosen, as_trained, check_option, choose, models_at
from rearank.config import ConfigError
from rearank.engines import Engine, EngineError, EngineNode, NoEngine, OpenAINode, ScriptedNode, VllmNode
from rearank.engines.model import Model
from rearank.prompts import Prompt
from rearank.ranking import Strategy, misfits

_GROUPS = ("model", "prompt", "strategy", "engine")
_KINDS: Mapping[str, Any] = {"model": Model, "prompt": Prompt, "strategy": Strategy, "engine": (EngineNode, Engine)}
_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Parts:
    """What a reranker is made of; nothing is loaded."""

    model: Model
    prompt: Prompt
    strategy: Strategy
    engine: EngineNode | Engine


def assemble(given: Mapping[str, Any], overrides: Sequence[str]) -> Parts:
    """The parts; what isn't given is the model's own, or the default of ``conf/config.yaml``.

    Where no engine is named it is vLLM if this machine can run that, transformers otherwise.

    Args:
        given: a name, an object or ``None`` for each of ``model``, ``prompt``, ``strategy``, ``engine``.
        overrides: keys of the named ones to set, as on the command line.

    Raises:
        ConfigError: for a name or key that isn't there, a value out of range, a prompt or strategy that isn't the
            model's own, or a prompt that asks for something else than the strategy reads.
        EngineError: where this machine can't run the engine; the message says what is missing.
    """
    named = {group: value for group, value in given.items() if isinstance(value, str)}
    all_objects = not named and None not in given.values() and not overrides
    chosen = Chosen({}, {}) if all_objects else choose(_GROUPS, named, overrides)
    model: Model = _part("model", given, chosen)
    groups = ("prompt", "strategy", "engine")
    own = {group: name for group in groups if given[group] is None and (name := getattr(model, group))}
    if own:
        chosen = choose(_GROUPS, {**own, **named}, overrides)
    prompt, strategy, engine = (_part(group, given, chosen) for group in ("prompt", "strategy", "engine"))
    _refuse_foreign(model, given, chosen, engine)
    if unfit := misfits(strategy, prompt.asks, model.temperature):
        raise ConfigError("; ".join(unfit))
    missing = engine.preflight() if isinstance(engine, EngineNode) else []
    if missing and given["engine"] is None and isinstance(engine, VllmNode):
        engine = choose(_GROUPS, {**own, **named, "engine": "transformers"}, overrides).build("engine")
        _log.info("engine=transformers, as engine=vllm can't run here: %s", "; ".join(missing))
        missing = engine.preflight()
    if missing:
        raise EngineError("; ".join(missing))
    return Parts(model, prompt, strategy, engine)


def pretrained(path: str | Path, prompt: str | None, revision: str | None) -> tuple[str | Model, list[str]]:
    """The model at a hub id or in a folder and the overrides it needs: its node's name where one describes it.

    Raises:
        ConfigError: where no node does and ``prompt`` isn't given, or where several do and it doesn't tell which.
    """
    if prompt is not None:
        check_option("prompt", prompt)
    known = models_at(str(path))
    if len(known) > 1 and prompt is not None:
        known = {
            name: node for name, node in known.items() if node.get("prompt") == as_trained(prompt, node.get("prompt"))
        } or known
    if len(known) > 1:
        raise ConfigError(f"{path}: several models are made of it; choose one by its name: {', '.join(known)}")
    for name in known:
        return name, [] if revision is None else [f"model.revision='{revision}'"]
    if prompt is None:
        raise ConfigError(
            f"{path}: no node of conf/model describes this checkpoint, so say which prompt it was trained with "
            "(prompt='rearank', say): the wrong one costs points in silence"
        )
    place = Path(path).expanduser()
    where = str(place.resolve()) if place.exists() else str(path)
    return Model(name=where.rpartition("/")[2], path=where, revision=revision, prompt=prompt), []


def _part(group: str, given: Mapping[str, Any], chosen: Chosen) -> Any:
    value = given[group]
    if value is None or isinstance(value, str):
        return chosen.build(group)
    if not isinstance(value, _KINDS[group]):
        raise ConfigError(f"{group}: {type(value).__name__} is not what this place takes; see conf/{group}/")
    return value


def _refuse_foreign(model: Model, given: Mapping[str, Any], chosen: Chosen, engine: Any) -> None:
    """As preflight does; an object is the model's own if it equals the node of that name."""
    names: dict[str, str | None] = dict.fromkeys(("prompt", "strategy", "engine"))
    found = []
    for group in names:
        value, own = given[group], getattr(model, group)
        if value is None or isinstance(value, str):
            names[group] = chosen.options[group]
        elif group != "engine" and own is not None and _plain(value) != choose((group,), {group: own}).build(group):
            found.append(
                f"model {model.name} goes with {group}={own} and another {type(value).__name__} is given; leave it "
                f"out, or give the model as an object with {group}=None to go ahead"
            )
    own_weights = isinstance(engine, EngineNode) and not isinstance(engine, OpenAINode | ScriptedNode | NoEngine)
    found = [
        *model.preflight(
            as_trained(names["prompt"], model.prompt), names["strategy"], names["engine"], served=not own_weights
        ),
        *found,
    ]
    if found:
        raise ConfigError("; ".join(found))


def _plain(value: Any) -> Any:
    """A prompt without its prefill, which leaves the request as it is; anything else as it is."""
    return replace(value, prefill="") if getattr(value, "prefill", "") else value
