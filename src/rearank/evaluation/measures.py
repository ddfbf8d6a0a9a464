"""Which measures there are, by what names: trec_eval's own, those computed from them, and ir_measures' spellings.

Every name is held against what trec_eval really computes: it aborts the process for some names that look right
(``ndcg_10``) and answers others (``map_10``) with another measure's value.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

JUDGED = "judged_10"
"""Share of the first 10 passages that is judged: beside nDCG@10 in every table."""
_RR, _JUDGED = "recip_rank_cut", "judged"  # families of ours; the first follows from trec_eval's recip_rank
_CUT = {
    **{"ndcg_cut": "nDCG", "map_cut": "MAP", "recall": "R", "success": "Success", "P": "P", "relative_P": ""},
    **{_RR: "MRR", _JUDGED: "judged"},
}
"""Families that take a whole number as cut-off, and how tables call them where they don't keep trec_eval's name."""
_SHARED = {"iprec_at_recall": 1.0, "Rprec_mult": 10.0}  # families of a share, and the largest that makes sense
_HEADINGS = {"map": "MAP", "recip_rank": "MRR", "ndcg": "nDCG", "Rprec": "R-precision"}
_NO_MEAN = {
    **dict.fromkeys(("gm_map", "gm_bpref"), "is a logarithm for each query, so that a mean over queries is no value"),
    **dict.fromkeys(("num_q", "relstring", "runid"), "is no number for each query"),
}
_IR_MEASURES = {
    **{"ndcg": ("nDCG", "ndcg", "ndcg_cut"), "ap": ("AP", "map", "map_cut"), "map": ("AP", "map", "map_cut")},
    **{"rr": ("RR", "recip_rank", _RR), "mrr": ("RR", "recip_rank", _RR), "p": ("P", "", "P")},
    **{"precision": ("P", "", "P"), "r": ("R", "", "recall"), "recall": ("R", "", "recall")},
    **{"success": ("Success", "", "success"), "judged": ("Judged", "", _JUDGED), "rprec": ("Rprec", "Rprec", "")},
    **{"bpref": ("Bpref", "bpref", ""), "infap": ("infAP", "infAP", ""), "iprec": ("IPrec", "", "iprec_at_recall")},
    **{"setp": ("SetP", "set_P", ""), "setr": ("SetR", "set_recall", ""), "setf": ("SetF", "set_F", "")},
    **{"setap": ("SetAP", "set_map", ""), "setrelp": ("SetRelP", "set_relative_P", "")},
    **{"numret": ("NumRet", "num_ret", ""), "numrel": ("NumRel", "num_rel", "")},
    **{"numrelret": ("NumRelRet", "num_rel_ret", "")},
}
"""ir_measures' names and aliases in small letters: its spelling, ours without a cut-off, ours with one."""
_GRADED = ("nDCG", "Judged", "NumRet")  # they know no lowest relevant grade
_IR_NAME = re.compile(r"([A-Za-z]+)(?:\((.*)\))?(?:@([\d.]+))?")
_HELP = "such as ndcg_cut_10, map, recall_100, or ir_measures' nDCG@10, MRR@10, AP(rel=2)"


@dataclass(frozen=True, slots=True)
class Measure:
    """One measure.

    Args:
        name: ours: trec_eval's where it has one, else ``recip_rank_cut_10``, ``judged_10`` or ``AP(rel=2)``.
        trec: the name under which trec_eval computes what it is made from; empty for the share that is judged.
        cut: the cut-off that is left to us; ``None`` where trec_eval does it.
        relevant_from: the lowest relevant grade, where the name itself sets one.
    """

    name: str
    trec: str
    cut: int | None = None
    relevant_from: int | None = None


def heading(measure: str) -> str:
    """``nDCG@10`` for ``ndcg_cut_10``, ``R@100`` for ``recall_100``, ``MRR``...; others stay as they are."""
    family, _, cut = measure.rpartition("_")
    named = _CUT.get(family) if cut.isdecimal() else None
    return f"{named}@{cut}" if named else _HEADINGS.get(measure, measure)


def check_measures(measures: Sequence[str]) -> tuple[str, ...]:
    """``measures`` under our names, each once.

    Raises:
        ValueError: for the first that can't be computed, or where there is none; the message says what could be meant.
    """
    if not measures:
        raise ValueError(f"measures: none given; name one at least, {_HELP}")
    try:
        return tuple(dict.fromkeys(parse_measure(name).name for name in measures))
    except ValueError as error:
        raise ValueError(f"measures: {error}") from error


@cache
def parse_measure(name: str) -> Measure:
    """A measure by trec_eval's name or ir_measures'; raises ``ValueError`` for what neither can compute."""
    found = _trec(name) if isinstance(name, str) else None
    if found is None and isinstance(name, str) and (match := _IR_NAME.fullmatch(name)):
        found = _ir_measure(name, match[1], match[2], match[3])
    if found is None:
        raise ValueError(f"{name} is no measure of trec_eval; use names {_HELP}")
    return found


def _trec(name: str) -> Measure | None:
    """Exactly as trec_eval writes it, or with a dot before the cut-off as on its command line."""
    import pytrec_eval

    if name in _NO_MEAN:
        raise ValueError(f"{name} {_NO_MEAN[name]}; use names {_HELP}")
    if name in _CUT or name in _SHARED:
        cut = "0.10" if name in _SHARED else "10"
        raise ValueError(f"{name} is a family of measures and needs a cut-off: {name}_{cut}, say")
    if name in pytrec_eval.supported_measures:
        return Measure(name, name)
    found = re.fullmatch(r"([A-Za-z_]*[A-Za-z])[._](\d+(?:\.\d+)?)", name, re.ASCII)
    if found is None:
        return None
    if found[1] in _CUT or found[1] in _SHARED:
        return _with_cut(name, found[1], found[2])
    if found[1] in pytrec_eval.supported_measures:
        with_cut = {"map": "map_cut", "ndcg": "ndcg_cut", "recip_rank": _RR}.get(found[1])
        meant = f"; {with_cut}_{found[2]} has one" if with_cut else ""
        raise ValueError(f"{name}: {found[1]} of trec_eval has no cut-off{meant}")
    return None


def _with_cut(name: str, family: str, cut: str) -> Measure:
    """Cut-offs are written as trec_eval writes them in its answers: ``P_5`` for ``P_05``."""
    if family in _SHARED:
        if not 0 <= float(cut) <= _SHARED[family] or round(float(cut), 2) != float(cut):
            raise ValueError(f"{name}: {cut} must be a share up to {_SHARED[family]:g}, of two decimals at most")
        return Measure(f"{family}_{float(cut):.2f}", f"{family}_{float(cut):.2f}")
    if not cut.isdecimal() or not 0 < int(cut) < 10**9:
        raise ValueError(f"{name}: the cut-off must be a whole number from 1 on, not {cut}")
    ours = f"{family}_{int(cut)}"
    if family == _RR:
        return Measure(ours, "recip_rank", int(cut))
    return Measure(ours, "", int(cut)) if family == _JUDGED else Measure(ours, ours)


def _ir_measure(name: str, base: str, parameters: str | None, cut: str | None) -> Measure | None:
    known = _IR_MEASURES.get(base.lower())
    if known is None:
        return None
    spelling, plain, family = known
    if cut is None and not plain:
        raise ValueError(f"{name} needs a cut-off: {spelling}{f'({parameters})' if parameters else ''}@10, say")
    if cut is not None and not family:
        raise ValueError(f"{name}: {spelling} has no cut-off")
    found = _with_cut(name, family, cut) if cut is not None else Measure(plain, plain)
    if parameters is None:
        return found
    level = re.fullmatch(r"\s*rel\s*=\s*(\d+)\s*", parameters, re.ASCII)
    if level is None or not 0 < int(level[1]) < 10**6 or spelling in _GRADED:
        read = "no parameter" if spelling in _GRADED else "rel=<lowest relevant grade, from 1 on> alone"
        raise ValueError(f"{name}: of {spelling}'s parameters {read} can be set here")
    at = f"@{cut if family in _SHARED else int(cut)}" if cut is not None else ""
    return Measure(f"{spelling}(rel={int(level[1])}){at}", found.trec, found.cut, int(level[1]))
