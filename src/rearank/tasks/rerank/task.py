"""The whole of ``task=rerank``: what its result depends on, whether it is there, and how it is made.

``<output_dir>/rerank/`` holds ``settings.json`` and ``environment.json``, ``cost.jsonl`` (a line a command) and at the
end ``summary.json``; the answers are in ``<output_dir>/completions.sqlite``, from which the same command goes on. With
``rerank.runner=ray`` the folder has ``shards/``, too, and the answers are in ``<output_dir>/completions/``, by shard.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass, replace
from typing import ClassVar

from rearank.config import node_of
from rearank.experiment import Run
from rearank.reranker.setup import Parts
from rearank.runs import code_of, files_of
from rearank.runs.layout import RERANKED
from rearank.tasks.rerank.inputs import (
    collection_of,
    formats_of,
    make_input,
)
from rearank.tasks.rerank.reranking import Place, Reranking

_DECIDES = (
    *("rearank.parsing", "rearank.marks", "rearank.yes_no", "rearank.engines.ranker", "rearank.engines.session"),
    *("rearank.ranking.schedule", "rearank.tasks.rerank.rows", "rearank.tasks.rerank.lists"),
    "rearank.tasks.rerank.records",
)
"""Modules that decide the result whatever is chosen."""


@dataclass(frozen=True)
class RerankTask:
    """Rerank lists that have no judgements."""

    needs: ClassVar[tuple[str, ...]] = ("model", "engine", "rerank")

    def run(self, run: Run) -> None:
        """Into ``rerank.output``."""
        chosen, settings = run.experiment, run.experiment.rerank
        formats = formats_of(settings)
        keys = ("model", "prompt", "strategy", "engine", "rerank")
        stage = run.stage(RERANKED, *keys, modules=_DECIDES, **asdict(formats))
        if formats.uses_collection:
            benchmark = collection_of(chosen.benchmark)
            used = {"collection": benchmark.collection}
            used |= {"retriever": benchmark.first_stage} if formats.input == "topics" else {}
            stage = replace(
                stage,
                settings={**stage.settings, **{name: node_of(one) for name, one in used.items()}},
                code={**stage.code, **code_of(*used.values())},
                files={**stage.files, **files_of(run.cache, **used)},
            )
        parts = Parts(chosen.model, chosen.prompt, chosen.strategy, chosen.engine)
        given = make_input(settings, formats, chosen.benchmark)
        here = Place(run.folder, chosen.cluster, collection_of(chosen.benchmark) if formats.uses_collection else None)
        Reranking(settings, formats, parts, given, stage, here).carry_out()
