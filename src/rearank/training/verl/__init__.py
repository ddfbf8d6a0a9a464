"""``trainer=verl``: reinforcement learning and SFT on a Ray cluster, with verl as it is published and vLLM rollouts.

On the driver: ``node`` the config's nodes · ``preflight`` what a run would fail at · ``lengths`` prompts in tokens ·
``compose`` verl's config from ours · ``session`` Ray up and down · ``launch`` a run, from rows to a model.
In the cluster: ``runner`` the actor that runs a training · ``trainer`` verl's PPO trainer, watched · ``rollouts`` its
sampling · ``reward`` the function it scores by · ``sft`` fine-tuning · ``events`` what happened, told to the driver.
``export`` turns shards into a model; ``cpu`` lets all of it run without a GPU.
"""

from rearank.training.verl.node import Cluster, VerlTrainer

__all__ = ["Cluster", "VerlTrainer"]
