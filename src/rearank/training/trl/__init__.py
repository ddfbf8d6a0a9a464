"""``trainer=trl``: reinforcement learning and SFT on one machine with TRL, unforked.

``settings`` what the config says · ``node`` the two verbs · ``fit`` what both share, from loading to the best
checkpoint · ``policy`` TRL's GRPOTrainer with our advantages and our order of answers · ``sharing`` below it: a prompt
is computed once for its answers · ``answers`` sampled and greedy ones · ``rollouts`` vLLM in the same process ·
``passes`` and ``plan`` what fits the memory · ``reward`` what it is paid by.

What a run leaves in its folder: ``checkpoints/`` (the last few, to resume from), ``model/`` (the best by validation),
``train.jsonl`` (curves), ``train-rollouts.jsonl`` (some sampled answers), ``result.json`` once it is finished.
"""

from rearank.training.trl.node import TrlTrainer

__all__ = ["TrlTrainer"]
