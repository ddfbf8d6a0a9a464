"""The tokenizer as a GGUF file describes it: what transformers makes of the file, mended where that is another one."""

from __future__ import annotations

from typing import Any

from rearank.engines.base import EngineError
from rearank.engines.from_gguf.source import GgufFile

_NO_DIGITS = frozenset({"gpt-2", "default", "jina-es", "jina-de", "phi-2", "olmo", "mpt"})
_SINGLE_DIGITS = frozenset({"smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"})
_LONGEST_NUMBER = {"qwen2": "", "llama3": "{1,3}", "llama-v3": "{1,3}", "llama-bpe": "{1,3}", "falcon3": "{1,3}"}


def tokenizer_of(loaded: Any, file: GgufFile) -> list[str]:
    """Mend ``loaded``, transformers' tokenizer of ``file``, in place; what could not be held to the file, in lines.

    The tokens that begin, end and fill a text are those that the file numbers; of several that end one, the template's.
    A tokenizer over bytes (GPT-2's kind) splits texts as ``tokenizer.ggml.pre`` says, and leaves out a byte that its
    vocabulary lacks: transformers writes the unknown token instead, a control token that a passage could make so.

    Raises:
        EngineError: where the tokens of the two differ, or no answer would end.
    """
    tokens = [str(token) for token in file["tokenizer.ggml.tokens"]]
    vocabulary = loaded.get_vocab()
    if differing := [token for number, token in enumerate(tokens) if vocabulary.get(token) != number]:
        raise EngineError(
            f"{file.name}: transformers reads another vocabulary than the file's {len(tokens)} tokens "
            f"({differing[0]!r} first); no folder is made"
        )
    loaded.chat_template = file.get("tokenizer.chat_template")
    for name, key in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding")):
        setattr(loaded, f"{name}_token", file.token(f"{key}_token_id"))
    if loaded.eos_token is None:
        raise EngineError(f"{file.name}: its metadata names no end token (tokenizer.ggml.eos_token_id)")
    if loaded.pad_token is None:
        loaded.pad_token = loaded.eos_token
    loaded.model_max_length = int(file[f"{file.architecture}.context_length"])
    notices = _split_as_the_file_says(loaded, file) if file["tokenizer.ggml.model"] == "gpt2" else []
    return [*notices, *_ended_as_turns_are(loaded, tokens, file)]


def ends_of(file: GgufFile) -> list[int]:
    """The numbers of the tokens that end an answer, the tokenizer's own first: a turn may end otherwise than a text."""
    numbers = [file.get(f"tokenizer.ggml.{key}_token_id") for key in ("eos", "eot", "eom")]
    return list(dict.fromkeys(number for number in numbers if number is not None))


def _split_as_the_file_says(loaded: Any, file: GgufFile) -> list[str]:
    from tokenizers import Regex, pre_tokenizers

    backend, pre = loaded.backend_tokenizer, str(file.get("tokenizer.ggml.pre") or "default")
    backend.model.unk_token = None
    loaded.clean_up_tokenization_spaces = False  # a text comes back as it went in: "3 ." isn't "3."
    words = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    if pre in _NO_DIGITS:
        backend.pre_tokenizer = words
    elif pre in _SINGLE_DIGITS:
        backend.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), words])
    elif pre in _LONGEST_NUMBER:
        pattern = (
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
            rf"|\p{{N}}{_LONGEST_NUMBER[pre]}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        )
        split = pre_tokenizers.Split(Regex(pattern), behavior="isolated")
        whole = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
        backend.pre_tokenizer = pre_tokenizers.Sequence([split, whole])
        backend.model.ignore_merges = pre != "qwen2"  # a word that is a token is that token, whatever merges give
    else:
        return [
            f"how tokenizer.ggml.pre={pre} splits a text isn't known here, so it is transformers' guess: numbers and "
            "white space may become other tokens than in training; compare with the model's tokenizer.json"
        ]
    return []


def _ended_as_turns_are(loaded: Any, tokens: list[str], file: GgufFile) -> list[str]:
    """Take the end token that the template ends a turn with; a notice where there is no template.

    Raises ``EngineError`` where it ends a turn with none of the file's.
    """
    if not loaded.chat_template:
        return [
            "it has no chat template (a base model?): engines and trainers need one; put the model's "
            "chat_template.jinja into the folder"
        ]
    said = "answer"
    turns = [{"role": "user", "content": "question"}, {"role": "assistant", "content": said}]
    try:
        text = loaded.apply_chat_template(turns, tokenize=False)
    except Exception as error:  # a template may raise anything
        raise EngineError(f"{file.name}: its chat template can't be used: {error}") from error
    after = text.rpartition(said)[2].strip()
    ends = [tokens[number] for number in ends_of(file)]
    ended = next((end for end in ends if after.startswith(end)), None)
    if ended is not None:
        loaded.eos_token = ended  # trainers know this one alone, and end an answer with it
    elif after:
        raise EngineError(
            f"{file.name}: its chat template ends a turn with {after[:40]!r} and its metadata ends an answer with "
            f"{' or '.join(ends)} (tokenizer.ggml.eos_token_id, eot_token_id): no answer would end"
        )
    return []
