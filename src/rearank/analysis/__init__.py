"""Understanding the reasoning: four analyses of what a model writes, as rows for tables and figures. Pure: no engine.

``answer`` what all look at · ``length`` tokens against nDCG · ``mentions`` and ``faithfulness`` what the reasoning says
and whether the answer follows · ``position`` the same passages in other orders · ``attacks`` and ``attack_success``
passages that ask to be ranked first · ``rank_statistics`` · ``drawing`` · ``what_to_ask`` the config's section.
"""

from rearank.analysis.answer import Answer
from rearank.analysis.attack_success import Attacked, attack_row, choose_victim
from rearank.analysis.attacks import ATTACKS, HARMLESS, inject
from rearank.analysis.faithfulness import Faithfulness, compared_with_reasoning, faithfulness_row, tau_rows
from rearank.analysis.length import Point, bin_rows, correlation_row, window_points, without_zeros
from rearank.analysis.mentions import Implied, Mentions, OrderSource, read_implied, read_mentions
from rearank.analysis.position import Asked, ideal, ndcg_rows, position_row, rank_rows, shuffled
from rearank.analysis.what_to_ask import Analyse
from rearank.moved import attributes_of

__all__ = [
    "ATTACKS",
    "HARMLESS",
    "Analyse",
    "Answer",
    "Asked",
    "Attacked",
    "Faithfulness",
    "Implied",
    "Mentions",
    "OrderSource",
    "Point",
    "attack_row",
    "bin_rows",
    "choose_victim",
    "compared_with_reasoning",
    "correlation_row",
    "faithfulness_row",
    "ideal",
    "inject",
    "ndcg_rows",
    "position_row",
    "rank_rows",
    "read_implied",
    "read_mentions",
    "shuffled",
    "tau_rows",
    "window_points",
    "without_zeros",
]

__getattr__ = attributes_of(__name__)  # old names of what has moved
