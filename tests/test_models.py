"""Each row of the published tables has its node, and no node goes with another's prompt in silence."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from rearank.config import build
from rearank.engines.model import Model
from rearank.evaluation.published import rows
from rearank.prompts import Prompt
from rearank.tasks.experiment import Run, make_run
from rearank.tasks.preflight import PreflightError, preflight
from rearank.types import Message, Passage, Query, Window

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

FOLLOWS_ANY = {"qwen05b", "qwen15b", "qwen3b", "qwen7b", "qwen3_4b", "qwen3_8b", "llama8b", "local"}
DRY = ("task=evaluate", "engine=none", "benchmark=synthetic", "tracking=none")
"""Nothing is missing here for an evaluation that asks no model."""


@pytest.fixture(scope="module", autouse=True)
def _hydra() -> Iterator[None]:
    with initialize_config_dir(str(CONF), version_base="1.3"):
        yield


def composed(*overrides: str) -> tuple[Mapping[str, Any], Mapping[str, str]]:
    given = ["model.path=some/path"] if "model=local" in overrides else []
    config = compose("config", ["name=test", "output_dir=out", *overrides, *given], return_hydra_config=True)
    plain = {str(key): OmegaConf.to_container(node) for key, node in config.items() if key in ("model", "engine")}
    return plain, {str(key): str(value) for key, value in config.hydra.runtime.choices.items()}


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
    nodes, choices = composed(f"model={name}")
    model: Model = build(nodes["model"], "model")
    assert {key: choices[key] for key in ("model", "prompt", "strategy", "engine")} == {
        "model": name,
        "prompt": row.prompt,
        "strategy": row.strategy,
        "engine": row.engine,
    }
    assert (model.name, model.path, model.prompt) == (name, row.path, row.prompt)
    assert (model.thinking, model.published, model.max_tokens) == (row.thinking, row.published, row.max_tokens)
    assert model.engine in (None, row.engine)
    assert model.strategy in (None, row.strategy)


@pytest.mark.parametrize("name", NAMES)
def test_what_a_node_names_is_there(name: str) -> None:
    nodes, choices = composed(f"model={name}")
    model: Model = build(nodes["model"], "model")
    assert model.name == name
    for group in ("prompt", "strategy", "engine"):
        own = getattr(model, group)
        assert own is None or (CONF / group / f"{own}.yaml").is_file()
        assert own is None or own == choices[group], "the node must choose what it names"
    assert (model.prompt is None) == (name in FOLLOWS_ANY)
    assert model.published is None or model.published in rows()


def test_greedy_but_for_what_says_otherwise() -> None:
    warm = {name for name in NAMES if composed(f"model={name}")[0]["model"]["temperature"] > 0}
    assert warm == {"deepseek_r1"}


@pytest.mark.parametrize("name", ROWS)
def test_another_prompt_is_refused_by_name(name: str) -> None:
    with pytest.raises(PreflightError) as refusal:
        preflight(run_of(f"model={name}", "prompt=compact", *DRY))
    assert f"model {name} was trained with prompt={ROWS[name].prompt} and prompt=compact is chosen" in str(
        refusal.value
    )


@pytest.mark.parametrize("name", ROWS)
def test_its_own_choice_is_not_refused(name: str) -> None:
    preflight(run_of(f"model={name}", *DRY))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ("model=rank_r1_7b", "strategy=sliding_window"),
            "rank_r1_7b is used with strategy=setwise and strategy=sliding",
        ),
        (("model=gpt4", "engine=transformers"), "gpt4 is served by engine=openai and engine=transformers is chosen"),
        (
            ("model=deepseek_r1", "engine=openai"),
            "deepseek_r1 is served by engine=deepseek and engine=openai is chosen",
        ),
        (("model=gpt35", "task=pipeline"), "gpt35 can't be trained: its weights are not to be had"),
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
    (tmp_path / "config.json").write_text("{}")
    merged = ("model=rank_r1_7b", f"model.path={tmp_path}", "model.adapter_of=null")
    preflight(run_of(*DRY, *merged, "engine=transformers"))


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
FIRST, SECOND = "Hamlet is a tragedy (12) by Shakespeare.", "Title: Hamlet Content: A village of six houses."
QUERY = "who wrote (3) hamlet?"


class Words:
    """Cuts at white space."""

    def encode(self, text: str, *, add_special_tokens: bool = True) -> list[int]:
        self.words = text.split(" ")
        return list(range(len(self.words)))

    def decode(self, token_ids: list[int]) -> str:
        return " ".join(self.words[i] for i in token_ids)


def test_rankzephyrs_protocol() -> None:
    assert prompt_of("rankzephyr").render(WINDOW, Words()) == (
        Message(
            "system",
            "You are RankLLM, an intelligent assistant that can rank passages based on their relevancy to the query",
        ),
        Message(
            "user",
            "I will provide you with 3 passages, each indicated by a numerical identifier []. Rank the passages based on "
            f"their relevance to the search query: {QUERY}.\n[1] {FIRST}\n[2] {SECOND}\n[3] one two three four five six "
            f"seven\nSearch Query: {QUERY}.\nRank the 3 passages above based on their relevance to the search query. All "
            "the passages should be included and listed using identifiers, in descending order of relevance. The output "
            "format should be [] > [], e.g., [2] > [1], Answer concisely and directly and only respond with the ranking "
            "results, do not say any word or explain.",
        ),
    )
    assert not prompt_of("rankzephyr").tags


def test_reasonranks_protocol() -> None:
    prompt = prompt_of("reasonrank", max_tokens=6)
    assert prompt.render(WINDOW, Words()) == (
        Message(
            "system",
            "You are RankLLM, an intelligent assistant that can rank passages based on their relevance to the query. Given "
            "a query and a passage list, you first thinks about the reasoning process in the mind and then provides the "
            "answer (i.e., the reranked passage list). The reasoning process and answer are enclosed within <think> "
            "</think> and <answer> </answer> tags, respectively, i.e., <think> reasoning process here </think> <answer> "
            "answer here </answer>.",
        ),
        Message(
            "user",
            "I will provide you with 3 passages, each indicated by a numerical identifier []. Rank the passages based on "
            f"their relevance to the search query: {QUERY}.\n\n[1] Hamlet is a tragedy (12) by\n[2] Title: Hamlet Content: "
            f"A village of\n[3] one two three four five six\nSearch Query: {QUERY}.\nRank the 3 passages above based on "
            "their relevance to the search query. All the passages should be included and listed using identifiers, in "
            "descending order of relevance. The format of the answer should be [] > [], e.g., [2] > [1].",
        ),
    )
    assert prompt.tags


def test_rank_r1s_protocol() -> None:
    assert prompt_of("rank_r1").render(WINDOW, Words()) == (
        Message(
            "system",
            "A conversation between User and Assistant. The user asks a question, and the Assistant solves it. The "
            "assistant first thinks about the reasoning process in the mind and then provides the user with the answer. "
            "The reasoning process and answer are enclosed within <think> </think> and <answer> </answer> tags, "
            "respectively, i.e., <think> reasoning process here </think> <answer> answer here </answer>.",
        ),
        Message(
            "user",
            f'Given the query: "{QUERY}", which of the following documents is most relevant?\n[1] {FIRST}\n[2] {SECOND}\n'
            "[3] one two three four five six seven\nAfter completing the reasoning process, please provide only the label "
            "of the most relevant document to the query, enclosed in square brackets, within the answer tags. For "
            "example, if the third document is the most relevant, the answer should be: <think> reasoning process here "
            "</think> <answer>[3]</answer>.",
        ),
    )


def rankgpt_turns(prompt: str, **changes: Any) -> tuple[Message, ...]:
    """The conversation without its opening, which differs."""
    return prompt_of(prompt, **changes).render(WINDOW)[-7:]


@pytest.mark.parametrize(("prompt", "example"), [("rankgpt_words", "[1] > [2]"), ("rankgpt_r1", "[2] > [1]")])
def test_rankgpts_own_protocol_answers_each_passage(prompt: str, example: str) -> None:
    assert rankgpt_turns(prompt, max_words=6) == (
        Message("user", "[1] Hamlet is a tragedy (12) by"),
        Message("assistant", "Received passage [1]."),
        Message("user", "[2] Title: Hamlet Content: A village of"),
        Message("assistant", "Received passage [2]."),
        Message("user", "[3] one two three four five six"),
        Message("assistant", "Received passage [3]."),
        Message(
            "user",
            f"Search Query: {QUERY}. \nRank the 3 passages above based on their relevance to the search query. The passages "
            "should be listed in descending order using identifiers. The most relevant passages should be listed first. "
            f"The output format should be [] > [], e.g., {example}. Only response the ranking results, do not say any word "
            "or explain.",
        ),
    )


def test_how_rankgpt_opens() -> None:
    ask = f"each indicated by number identifier []. \nRank the passages based on their relevance to query: {QUERY}."
    okay = Message("assistant", "Okay, please provide the passages.")
    assert prompt_of("rankgpt_words").render(WINDOW)[:3] == (
        Message(
            "system",
            "You are RankGPT, an intelligent assistant that can rank passages based on their relevancy to the query.",
        ),
        Message("user", f"I will provide you with 3 passages, {ask}"),
        okay,
    )
    assert prompt_of("rankgpt_r1").render(WINDOW)[:2] == (
        Message(
            "user",
            "You are an intelligent assistant that can rank passages based on their relevance to the query. I will provide "
            f"you with 3 passages, {ask}",
        ),
        okay,
    )


@pytest.mark.parametrize("prompt", ["rankgpt_words", "rankgpt_r1"])
def test_apis_that_want_turns_to_alternate_get_them(prompt: str) -> None:
    roles = [message.role for message in prompt_of(prompt).render(WINDOW) if message.role != "system"]
    assert roles == ["user", "assistant"] * (len(roles) // 2) + ["user"]


@pytest.mark.parametrize("prompt", ["rankzephyr", "reasonrank", "rank_r1", "rearank", "rankgpt", "rankgpt_words"])
def test_a_chat_template_takes_it_turn_by_turn(prompt: str) -> None:
    """With the tokenizer of the model that ships here, which also does the cutting."""
    pytest.importorskip("transformers")
    from rearank.engines.chat import load_chat
    from rearank.training.tiny import ASSETS

    tokenizer = load_chat(ASSETS, None).tokenizer
    messages = prompt_of(prompt).render(WINDOW, tokenizer)
    turns = [{"role": message.role, "content": message.content} for message in messages]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert (
        text == "".join(f"<|im_start|>{m.role}\n{m.content}<|im_end|>\n" for m in messages) + "<|im_start|>assistant\n"
    )
