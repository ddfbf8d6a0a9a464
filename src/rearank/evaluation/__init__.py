"""Evaluation: trec_eval's measures, how sure their differences are, and tables of both."""

from rearank.evaluation.scoring import check_measures, score
from rearank.evaluation.significance import PairedTest, bootstrap_interval, paired_test
from rearank.evaluation.table import Cell, render_table, summary_row

__all__ = [
    "Cell",
    "PairedTest",
    "bootstrap_interval",
    "check_measures",
    "paired_test",
    "render_table",
    "score",
    "summary_row",
]
