"""Evaluation: trec_eval's measures, and how sure their differences are."""

from rearank.evaluation.scoring import score
from rearank.evaluation.significance import PairedTest, bootstrap_interval, paired_test

__all__ = ["PairedTest", "bootstrap_interval", "paired_test", "score"]
