"""verl's own manager of rewards, as it is configured here, hands our text to the reward."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path

import numpy as np
import pytest
from tests.engines.test_chat import marking_tokenizer

from rearank.algorithms import PolicyGradient
from rearank.config import node_of
from rearank.rewards import NdcgReward
from rearank.training.verl import Cluster, VerlTrainer
from rearank.training.verl.compose import ppo_config
from rearank.training.verl.settings import Files, Lengths, Weights

torch = pytest.importorskip("torch")


def test_special_tokens_that_mark_a_reasoning_reach_the_reward() -> None:
    """Without them the reasoning's ``[1] [2]`` would be read as the order."""
    from verl import DataProto
    from verl.trainer.ppo.reward import load_reward_manager

    tokenizer = marking_tokenizer()
    weights = Weights("owner/model", Lengths(64, 64), json.dumps(node_of(NdcgReward(tags=False))), 7)
    files = Files(Path("/rows/train.parquet"), Path("/rows/validation.parquet"), Path("/checkpoints"))
    manager = load_reward_manager(ppo_config(VerlTrainer(Cluster()), PolicyGradient(), weights, files, 5), tokenizer)
    answer = tokenizer("[THINK] [1] [2] [/THINK] [2] [1] </s>", return_tensors="pt")["input_ids"]
    row = {
        "data_source": "made",
        "reward_model": {"ground_truth": {"relevance": [0, 1], "ideal": [], "has_ideal": False}},
        "extra_info": {"index": 0, "query_id": "q", "query": "ships", "passage_ids": ["a", "b"]},
    }
    data = DataProto.from_single_dict(
        {"responses": answer, "attention_mask": torch.ones_like(answer)}
        | {name: np.array([value], dtype=object) for name, value in row.items()}
    )
    scored = asyncio.run(_scored(manager, data))
    assert scored["status"] == "ok"
    assert scored["ndcg_reranked"] == 1.0


async def _scored(manager: object, data: object) -> dict[str, object]:
    manager.loop = asyncio.get_running_loop()  # type: ignore[attr-defined]
    found: dict[str, dict[str, object]] = await manager.run_single(data)  # type: ignore[attr-defined]
    return found["reward_extra_info"]
