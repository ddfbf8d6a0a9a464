"""How trec_eval's measures are called in tables."""

from __future__ import annotations

import re

_NAMES = {
    **{"map": "MAP", "recip_rank": "MRR", "ndcg": "nDCG", "P": "P", "recall": "R", "Rprec": "R-precision"},
    **{"bpref": "bpref", "success": "Success", "ndcg_cut": "nDCG", "map_cut": "MAP"},
}
_CUT = re.compile(r"(ndcg_cut|map_cut|recall|success|P)_(\d+)")


def heading(measure: str) -> str:
    """``nDCG@10`` for ``ndcg_cut_10``, ``R@100`` for ``recall_100``, ``MRR``...; others stay trec_eval's."""
    found = _CUT.fullmatch(measure)
    return f"{_NAMES[found[1]]}@{found[2]}" if found else _NAMES.get(measure, measure)
