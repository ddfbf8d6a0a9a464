"""``task=serve``: the model behind an HTTP endpoint or an MCP server, until the process is asked to stop."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

from rearank.experiment import Experiment, Run
from rearank.progress import progress
from rearank.reranker import Reranker
from rearank.serving.server import address_of, bind, serve
from rearank.tasks.rerank.outputs import standard_output


@dataclass(frozen=True)
class ServeTask:
    """Load the model, then answer: ``/v1/rerank``, or MCP's tools (``serve.protocol``)."""

    needs: ClassVar[tuple[str, ...]] = ("model", "engine", "serve")

    def run(self, run: Run) -> None:
        """Until SIGINT or SIGTERM; over standard input and output also until the input ends."""
        if run.experiment.serve.over_stdio:
            with _reranker(run.experiment) as reranker:
                from rearank.adapters.mcp import serve_stdio

                serve_stdio(reranker, run.experiment.serve, standard_output())
        else:
            _listen(run.experiment)
            print("stopped", flush=True)


def _reranker(experiment: Experiment) -> Reranker:
    # Preflight has held the names against each other; here they are objects.
    return Reranker(
        replace(experiment.model, prompt=None, strategy=None, engine=None),
        prompt=experiment.prompt,
        strategy=experiment.strategy,
        engine=experiment.engine,
        store=experiment.serve.store,
        max_concurrent_queries=None,
    )


def _listen(experiment: Experiment) -> None:
    settings = experiment.serve
    if settings.protocol == "mcp":
        from rearank.adapters.mcp import PATH, create_app
    else:
        from rearank.serving.app import PATH, create_app
    with bind(settings) as place, _reranker(experiment) as reranker:
        with progress(f"loading {reranker.model.name}"):
            reranker.warm_up()
        line = f"serving {reranker.model.name} at {address_of(place)}{PATH}; Ctrl-C stops it"
        serve(create_app(reranker, settings), settings, place, line)
