"""``task=serve``: the model behind an HTTP endpoint, until the process is asked to stop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rearank.experiment import Run
from rearank.progress import progress
from rearank.reranker import Reranker
from rearank.serving.server import bind, serve


@dataclass(frozen=True)
class ServeTask:
    """Load the model, then answer ``/v1/rerank``."""

    needs: ClassVar[tuple[str, ...]] = ("model", "engine", "serve")

    def run(self, run: Run) -> None:
        """Until SIGINT or SIGTERM."""
        experiment, settings = run.experiment, run.experiment.serve
        # Preflight has held the names against each other; here they are objects.
        model = replace(experiment.model, prompt=None, strategy=None, engine=None)
        with bind(settings) as place:
            reranker = Reranker(
                model,
                prompt=experiment.prompt,
                strategy=experiment.strategy,
                engine=experiment.engine,
                store=settings.store,
                max_concurrent_queries=None,
            )
            with reranker:
                with progress(f"loading {model.name}"):
                    reranker.warm_up()
                serve(reranker, settings, place)
        print("stopped", flush=True)
