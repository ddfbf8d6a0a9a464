"""A tiny random model with a word-level tokenizer, saved as any checkpoint is."""

from __future__ import annotations

from pathlib import Path
from typing import Any

CHAT = (
    "{% for m in messages %}<|start|> {{ m.role }} {{ m.content }} <|end|> {% endfor %}"
    "{% if add_generation_prompt %}<|start|> assistant {% endif %}"
)
WORDS = [f"w{i}" for i in range(60)]


def save_tiny_model(folder: Path, *, context: int = 256, chat: str | None = CHAT, end: str | None = "<|end|>") -> Path:
    """Random weights from a fixed seed."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

    torch.set_num_threads(1)
    words = ["<unk>", "<|end|>", "<|start|>", "system", "user", "assistant", *WORDS]
    raw = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    raw.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    settings: dict[str, Any] = {"unk_token": "<unk>", "additional_special_tokens": ["<|start|>"]}
    if end is not None:
        settings |= {"eos_token": end, "pad_token": end}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=raw, **settings)
    tokenizer.chat_template = chat
    tokenizer.save_pretrained(folder)
    torch.manual_seed(5)
    config = LlamaConfig(
        vocab_size=len(words),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=context,
        bos_token_id=None,
        eos_token_id=1 if end is not None else None,
        pad_token_id=None,
        initializer_range=0.4,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    return folder
