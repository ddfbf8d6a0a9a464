"""Each row of the published tables has its node, and no node goes with another's prompt in silence."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rearank.config import build
from rearank.engines import PromptRanker
from rearank.engines.model import Model
from rearank.evaluation.published import rows
from rearank.experiment import Run, make_run
from rearank.parsing import ParseStatus
from rearank.prompts import Prompt
from rearank.tasks.preflight import PreflightError, preflight
from rearank.types import Completion, Message, Passage, Query, Sampling, Window

CONF = Path(__file__).resolve().parent.parent / "conf"
NAMES = sorted(path.stem for path in (CONF / "model").glob("*.yaml"))


class Row(NamedTuple):
    path: str
    prompt: str
    published: str | None = None
    engine: str = "vllm"
    strategy: str = "sliding_window"
    thinking: bool | None = None
    max_tokens: int = 2048


ROWS = {
    "qwen7b_zeroshot": Row("Qwen/Qwen2.5-7B-Instruct", "rankgpt", "RankQwen2.5-7B"),
    "qwen7b_reasoning": Row("Qwen/Qwen2.5-7B-Instruct", "rearank", "+ reasoning prompt, untrained"),
    "gpt35": Row("gpt-3.5-turbo", "rankgpt_words", "RankGPT-3.5", engine="openai", max_tokens=200),
    "gpt4": Row("gpt-4", "rankgpt_words", "RankGPT-4", engine="openai", max_tokens=200),
    "gpt4_two_stage": Row("gpt-4", "rankgpt_words", "RankGPT-4 (top 30 of 3.5)", engine="openai", max_tokens=200),
    "qwen3_32b": Row("Qwen/Qwen3-32B", "rankgpt", "RankQwen3-32B", thinking=True),
    "qwen3_32b_off": Row("Qwen/Qwen3-32B", "rankgpt", "Qwen3-32B, reasoning off", thinking=False),
    "qwen3_235b": Row("Qwen/Qwen3-235B-A22B", "rankgpt", "RankQwen3-235B", thinking=True),
    "qwen3_235b_off": Row("Qwen/Qwen3-235B-A22B", "rankgpt", thinking=False),
    "qwen3_8b_zeroshot": Row("Qwen/Qwen3-8B", "rankgpt", thinking=True),
    "qwen3_8b_off": Row("Qwen/Qwen3-8B", "rankgpt", thinking=False),
    "rankzephyr7b": Row("castorini/rank_zephyr_7b_v1_full", "rankzephyr", "RankZephyr-7B", max_tokens=200),
    "rank_r1_7b": Row("ielabgroup/Rank-R1-7B-v0.1", "rank_r1", "Rank-R1-7B", strategy="setwise"),
    "rearank7b": Row("le723z/Rearank-7B", "rearank", "REARANK-7B"),
    "rearank7b_zeroshot": Row("le723z/Rearank-7B", "rankgpt", "REARANK-7B, reasoning off"),
    "reasonrank7b": Row("liuwenhan/reasonrank-7B", "reasonrank", "ReasonRank-7B", max_tokens=3172),
    "reasonrank32b": Row("liuwenhan/reasonrank-32B", "reasonrank", max_tokens=3172),
    "deepseek_r1": Row("deepseek-reasoner", "rankgpt_r1", engine="deepseek", max_tokens=8192),
}
"""What a model's name alone must give."""

FOLLOWS_ANY = {
    "qwen05b",
    "qwen15b",
    "qwen3b",
    "qwen7b",
    "qwen3_4b",
    "qwen3_8b",
    "llama8b",
    "smollm2",
    "smollm2_q4_1",
    "local",
}
GROUPS = ("prompt", "strategy", "engine")
DRY = ("task=evaluate", "engine=none", "benchmark=synthetic", "tracking=none")
"""Nothing is missing here for an evaluation that asks no model."""


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


@cache
def chosen(name: str) -> tuple[Model, Mapping[str, str]]:
    """The model of ``model=name`` and what is chosen beside it."""
    given = ["model.path=some/path"] if name == "local" else []
    config = compose("config", ["name=test", "output_dir=out", f"model={name}", *given], return_hydra_config=True)
    choices = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
    model: Model = build(config.model, "model")
    return model, choices


def run_of(*overrides: str) -> Run:
    config = compose("config", ["name=test", "output_dir=out", *overrides], return_hydra_config=True)
    choices = {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}
    OmegaConf.set_struct(config, False)
    config.pop("hydra")
    plain = OmegaConf.to_container(config, resolve=True)
    assert isinstance(plain, dict)
    return make_run({str(key): value for key, value in plain.items()}, choices)


def prompt_of(name: str, **changes: Any) -> Prompt:
    node = OmegaConf.merge(OmegaConf.load(CONF / "prompt" / f"{name}.yaml"), changes)
    built: Prompt = build(node, "prompt")
    return built


def test_each_node_is_a_row_or_follows_any_prompt() -> None:
    assert {*ROWS, *FOLLOWS_ANY, "tiny"} == set(NAMES)


@pytest.mark.parametrize("name", ROWS)
def test_the_name_alone_chooses_prompt_strategy_and_engine(name: str) -> None:
    row = ROWS[name]
    model, choices = chosen(name)
    assert [choices[group] for group in GROUPS] == [row.prompt, row.strategy, row.engine]
    assert (model.name, model.path, model.prompt) == (name, row.path, row.prompt)
    assert (model.thinking, model.published, model.max_tokens) == (row.thinking, row.published, row.max_tokens)
    assert model.temperature == (0.6 if name == "deepseek_r1" else 0.0)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_node_names_is_there_and_is_chosen(name: str) -> None:
    model, choices = chosen(name)
    assert model.name == name
    for group in GROUPS:
        own = getattr(model, group)
        assert own is None or (CONF / group / f"{own}.yaml").is_file()
        assert own in (None, choices[group])
    assert (model.prompt is None) == (name in FOLLOWS_ANY)
    assert model.published is None or model.published in rows()


@pytest.mark.parametrize("name", ROWS)
def test_another_prompt_is_refused_and_its_own_is_not(name: str) -> None:
    model, choices = chosen(name)
    own = [choices[group] for group in GROUPS[:2]]
    assert model.preflight(*own, "none") == []
    (refusal,) = model.preflight("compact", own[1], "none")
    assert f"model {name} was trained with prompt={own[0]} and prompt=compact is chosen" in refusal


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (("model=rearank7b", "prompt=compact"), "was trained with prompt=rearank and prompt=compact is chosen"),
        (
            ("model=rank_r1_7b", "strategy=sliding_window"),
            "is used with strategy=setwise and strategy=sliding_window is",
        ),
        (("model=gpt4", "engine=transformers"), "gpt4 is served by engine=openai and engine=transformers is chosen"),
        (
            ("model=deepseek_r1", "engine=openai"),
            "is served by engine=deepseek and engine=openai is chosen",
        ),
        (("model=gpt35", "task=pipeline"), "gpt35 can't be trained: its weights are not to be had"),
        (("model=qwen3_8b_off", "task=train"), "qwen3_8b_off has its thinking switched off, and trainers leave"),
        (
            ("model=rank_r1_7b", "engine=transformers"),
            "python -m rearank.engines.merge Qwen/Qwen2.5-7B-Instruct ielabgroup/Rank-R1-7B-v0.1 models/rank_r1_7b",
        ),
    ],
)
def test_what_a_model_cant_do_is_refused(overrides: tuple[str, ...], message: str) -> None:
    with pytest.raises(PreflightError) as refusal:
        preflight(run_of(*DRY, *overrides))
    assert message in str(refusal.value)


def test_the_remedies_are_remedies(tmp_path: Path) -> None:
    preflight(run_of(*DRY, "model=rearank7b", "prompt=compact", "model.prompt=null"))
    preflight(run_of(*DRY, "model=rank_r1_7b", "strategy=sliding_window", "model.strategy=null"))
    merged = replace(chosen("rank_r1_7b")[0], path="pkg://rearank/training/assets/tiny", adapter_of=None)
    assert merged.preflight("rank_r1", "setwise", "transformers") == []


def test_a_servers_name_is_no_missing_folder() -> None:
    known_elsewhere = Model("r1", "accounts/some/models/r1", engine="openai")
    assert known_elsewhere.preflight(engine="openai", served=True) == []
    assert Model("mine", "accounts/some/models/mine").preflight(engine="openai", served=True) == []
    assert "no such folder" in Model("mine", "accounts/some/models/mine").preflight(engine="vllm")[0]


def test_an_adapter_alone_is_no_model(tmp_path: Path) -> None:
    (tmp_path / "adapter_config.json").write_text("{}")
    assert "holds a LoRA adapter alone" in Model("mine", str(tmp_path)).preflight()[0]


def test_gpt4_reranks_what_gpt35_left() -> None:
    experiment = run_of("experiment=gpt4_two_stage", "retriever.path=gpt35.trec").experiment
    assert (experiment.model.name, experiment.benchmark.name, experiment.benchmark.depth) == (
        "gpt4_two_stage",
        "dl19",
        30,
    )
    assert experiment.benchmark.retriever.path == "gpt35.trec"


WINDOW = Window(
    Query("q", "who wrote [3] hamlet?"),
    (
        Passage("a", "Hamlet  is a\ntragedy [12] by Shakespeare."),
        Passage("b", "A village of six houses.", "Hamlet"),
        Passage("c", "one two three four five six seven"),
    ),
)
PROTOCOLS = Path(__file__).resolve().parent / "protocols"
TAGS = {"rearank": True, "reasonrank": True, "rank_r1": True}
CUTS = {
    "rearank": ("max_characters", 400),
    "rankgpt": ("max_characters", 300),
    "rankgpt_words": ("max_words", 300),
    "rankgpt_r1": ("max_words", 100),
    "rankzephyr": ("max_tokens", 180),
    "reasonrank": ("max_tokens", 100),
    "rank_r1": ("max_tokens", 512),
}
"""Each published protocol's cut of a passage."""


class Words:
    """Takes words for tokens."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        self.words = text.split(" ")
        return list(range(len(self.words)))

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(self.words[i] for i in token_ids)


def protocol(name: str) -> tuple[Message, ...]:
    """The turns that a published model must be shown for ``WINDOW``, as its authors write them."""
    text = (PROTOCOLS / f"{name}.txt").read_text()
    turns = [turn.partition("\n") for turn in ("\n" + text).removesuffix("\n").split("\n--- ")[1:]]
    return tuple(Message(role, content) for role, _, content in turns)  # type: ignore[arg-type]


def test_each_prompt_of_a_row_has_its_protocol() -> None:
    assert {path.stem for path in PROTOCOLS.glob("*.txt")} == {row.prompt for row in ROWS.values()} == set(CUTS)


@pytest.mark.parametrize("name", CUTS)
def test_a_window_is_shown_as_its_authors_show_it(name: str) -> None:
    prompt = prompt_of(name)
    assert prompt.render(WINDOW, Words()) == protocol(name)
    assert prompt.tags is TAGS.get(name, False)


@pytest.mark.parametrize(("name", "cut"), CUTS.items())
def test_passages_are_cut_where_its_authors_cut_them(name: str, cut: tuple[str, int]) -> None:
    unit, number = cut
    long = Window(WINDOW.query, (Passage("a", "x " * 1200),))
    (shown,) = [m.content for m in prompt_of(name).render(long, Words()) if "[1] x" in m.content]
    letters = shown.partition("[1] x")[2].partition("\n")[0].count("x") + 1
    assert letters == (number // 2 if unit == "max_characters" else number)


@pytest.mark.parametrize("prompt", ["rankgpt_words", "rankgpt_r1"])
def test_apis_that_want_turns_to_alternate_get_them(prompt: str) -> None:
    roles = [message.role for message in prompt_of(prompt).render(WINDOW) if message.role != "system"]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


@pytest.mark.parametrize("prompt", CUTS)
def test_a_chat_template_takes_it_turn_by_turn(prompt: str) -> None:
    """With the tokenizer of the model that ships here, which also does the cutting."""
    pytest.importorskip("transformers")
    from rearank.engines.chat import load_chat
    from tests.shipped import ASSETS

    tokenizer = load_chat(ASSETS, None).tokenizer
    messages = prompt_of(prompt).render(WINDOW, tokenizer)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert (
        text == "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages) + "<|im_start|>assistant\n"
    )


class Says:
    """An engine that always gives one answer."""

    identity: Mapping[str, Any] = {}

    def __init__(self, text: str) -> None:
        self.text = text

    async def complete(self, messages: Sequence[Message], sampling: Sampling) -> Completion:
        return Completion(self.text, 1, 1, "stop", 0.0)

    async def aclose(self) -> None:
        pass


REPLIES = {
    "rankzephyr": "[3] > [1] > [2]",
    "reasonrank": "<think> [1] is closest to [2]. </think>\n<answer> [3] > [1] > [2] </answer>",
    "rank_r1": "<think> Not [1], not [2]. </think> <answer>[3]</answer>",
    "rearank": "<think> [1] says little. </think> <answer> [3] > [1] > [2] </answer>",
    "rankgpt": "<think>\nPassage [2] > [1]? No.\n</think>\n\n[3] > [1] > [2]",  # Qwen3's, thinking
    "rankgpt_words": "[3] > [1] > [2]",
    "rankgpt_r1": "[3] > [1] > [2]",
}


@pytest.mark.parametrize("name", CUTS)
def test_an_answer_as_its_protocol_asks_is_read_whole(name: str) -> None:
    ranker = PromptRanker(Says(REPLIES[name]), prompt_of(name), tokenizer=Words())
    assert asyncio.run(ranker.order(WINDOW)).order == (2, 0, 1)
    assert ranker.account.statuses == {ParseStatus.OK: 1}
