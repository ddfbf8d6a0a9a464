"""``trainer=verl``: reinforcement learning and SFT on a Ray cluster, with verl as it is published and vLLM rollouts.

On the driver: ``settings`` what the config says · ``node`` what a trainer does · ``preflight`` what a run would fail
at · ``compose`` verl's config from ours · ``session`` Ray up and down · ``launch`` a
run, from rows to a model.
In the cluster: ``runner`` the actor that runs a training · ``trainer`` verl's PPO trainer, watched · ``step`` a step's
answers and figures · ``rollouts`` its sampling · ``reward`` the function it scores by · ``advantage`` the algorithm's ·
``sft`` fine-tuning · ``events`` what happened, sent to the driver.
``sharing`` computes each prompt once. ``export`` turns shards into a model; ``cpu`` lets all of it run without a GPU.
"""

from rearank.training.verl.node import VerlTrainer
from rearank.training.verl.settings import Cluster

__all__ = ["Cluster", "VerlTrainer"]
