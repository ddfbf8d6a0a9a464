"""Policy gradients, one a file: rewards of sampled answers -> an advantage for each; the loss by named settings.

``grpo`` (r - mean) / std of a group, the paper's · ``dr_grpo`` r - mean · ``rloo`` r - mean of the others ·
``reinforce_pp`` normalised over the batch · ``maxrl`` (r - mean) / mean, the worked example · ``ppo`` a value model's.
GRPO, Dr. GRPO, RLOO and REINFORCE++ are values of :class:`PolicyGradient`, and so are DAPO and GSPO, which take GRPO's
advantage and differ in the loss: see ``conf/algorithm``. Both trainers call the same object;
verl computes PPO's advantage, and REINFORCE++'s with ``kl_in=reward``, itself: they need its values of tokens.

To add one, subclass :class:`PolicyGradient` with a method ``advantages`` in a file of your own, as ``maxrl`` does, and
point a yaml's ``_target_`` at it.
"""

from rearank.algorithms.base import ADVANTAGES, Advantage, PolicyGradient
from rearank.algorithms.groups import Floats, mean_of_group
from rearank.algorithms.maxrl import MaxRl
from rearank.algorithms.ppo import Ppo

__all__ = ["ADVANTAGES", "Advantage", "Floats", "MaxRl", "PolicyGradient", "Ppo", "mean_of_group"]
