"""The report: one HTML file in which a run, or several side by side, can be looked at query by query.

``replay`` finds every window in the completions store again; ``queries``, ``curves``,
``results`` and ``analyses`` turn that into plain JSON; ``page`` puts it into one file with the scripts and styles of
``assets/``; ``figures`` draws what a paper needs. ``tasks/report.py`` puts them together.
"""

from rearank.report.page import render
from rearank.report.what_to_show import Report

__all__ = ["Report", "ReportError", "render"]


class ReportError(ValueError):
    """A report that can't be made; the message names the folder and the remedy."""
