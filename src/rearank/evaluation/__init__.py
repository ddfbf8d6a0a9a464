"""Evaluation: trec_eval's measures, how sure their differences are, tables of both, and what others published.

``scoring`` runs and judgements -> values · ``measures`` their names and headings · ``significance`` intervals, paired
tests and Holm's correction · ``comparison`` any number of systems · ``table`` Markdown, CSV and LaTeX · ``terminal`` as
wide as a screen · ``published`` numbers of papers, with their sources.
"""

from rearank.evaluation.comparison import Comparison, Scored, common_queries, compare, most_moved
from rearank.evaluation.measures import JUDGED, check_measures, heading
from rearank.evaluation.published import Published
from rearank.evaluation.scoring import ScoreError, score, trec_order
from rearank.evaluation.significance import PairedTest, bootstrap_interval, holm, paired_test
from rearank.evaluation.table import Cell, render_csv, render_latex, render_table, summary_row, write_tables
from rearank.evaluation.terminal import for_terminal

__all__ = [
    "JUDGED",
    "Cell",
    "Comparison",
    "PairedTest",
    "Published",
    "ScoreError",
    "Scored",
    "bootstrap_interval",
    "check_measures",
    "common_queries",
    "compare",
    "for_terminal",
    "heading",
    "holm",
    "most_moved",
    "paired_test",
    "render_csv",
    "render_latex",
    "render_table",
    "score",
    "summary_row",
    "trec_order",
    "write_tables",
]
