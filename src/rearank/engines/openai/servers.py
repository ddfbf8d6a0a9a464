"""Several servers of one model: which one is asked next, and which is left out for a while.

A call goes to the server with the fewest calls under way. One that fails rests, longer each time; then it is asked for
its models, which costs nothing, and where it answers it gets one call at a time until it answers one. Where all rest,
the one whose rest ends first is asked: what its calls wait for then is ``retries``' business, as with a single server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from rearank.engines.openai.retries import Backoff, Kind, Trouble
from rearank.engines.openai.server import Server
from rearank.engines.openai.settings import OpenAISettings

_log = logging.getLogger(__name__)


@dataclass
class _State:
    """Of one server.

    ``failures``: rests in a row without an answered call; ``rests_until``: by the loop's clock, seconds; ``ready``:
    whether it may be given a call to try it; ``look``: the question for its models, under way.
    """

    server: Server
    asking: int = 0
    asked: int = 0
    failures: int = 0
    rests_until: float = 0.0
    ready: bool = True
    look: asyncio.Task[None] | None = None


class Servers:
    """Those of ``node``; belongs to one event loop."""

    def __init__(self, node: OpenAISettings) -> None:
        self._states = {url: _State(Server(node, url)) for url in node.urls}
        self._backoff = Backoff(node.first_wait, node.longest_wait)
        self._logged: set[str] = set()

    def next(self, failed: Server | None) -> Server:
        """The one to ask, its client loaded; ``failed`` is where this call's last request failed, if it did."""
        well = [state for state in self._states.values() if self._is_well(state)]
        others = [state for state in well if state.server is not failed]
        if well:
            chosen = min(others or well, key=lambda state: (state.asking, state.asked))
        else:
            chosen = min(self._states.values(), key=lambda state: state.rests_until)
        chosen.server.open()
        return chosen.server

    def other_than(self, failed: Server) -> bool:
        """Whether another server can be asked at once."""
        return any(state.server is not failed and self._is_well(state) for state in self._states.values())

    @contextmanager
    def asking(self, server: Server) -> Iterator[None]:
        """Around a request and the reading of its reply: counts it, and sees how it goes."""
        state = self._states[server.url]
        state.asking += 1
        state.asked += 1
        try:
            yield
        except Trouble as trouble:
            if trouble.kind is Kind.RETRY and not trouble.empty:
                self._rest(state, trouble)
            else:  # it answers, if not as one would like
                state.failures = 0
            raise
        else:
            self._answered(state)
        finally:
            state.asking -= 1

    async def close(self) -> None:
        """Drop the connections."""
        for state in self._states.values():
            if state.look is not None:
                state.look.cancel()
            await state.server.close()

    def _is_well(self, state: _State) -> bool:
        """Whether it may be asked now; one that has rested long enough is looked at, and later may be."""
        if _now() < state.rests_until:
            return False
        if state.failures == 0:
            return True
        if not state.ready and state.look is None:
            state.look = asyncio.get_running_loop().create_task(self._look(state))
        return state.ready and state.asking == 0

    def _rest(self, state: _State, trouble: Trouble) -> None:
        """Leave it out; calls that were under way when it began to rest fail for the same reason and count as one."""
        if len(self._states) == 1 or _now() < state.rests_until:
            return
        state.rests_until = _now() + self._backoff.seconds(state.failures, trouble.wait)
        state.failures += 1
        state.ready = trouble.wait is not None  # it says itself when it is
        if state.failures > 1 and state.server.url not in self._logged:  # a single failure is everyday
            self._logged.add(state.server.url)
            _log.warning("%s: %s; the other servers get its calls until it answers", state.server.url, trouble)

    def _answered(self, state: _State) -> None:
        if _now() >= state.rests_until and state.server.url in self._logged:
            _log.warning("%s answers again", state.server.url)
            self._logged.discard(state.server.url)
        state.failures = 0

    async def _look(self, state: _State) -> None:
        """Ask for its models: whether somebody is there, not what they are, which not every server says."""
        try:
            state.server.open()
            await state.server.listed()
            state.ready = True
        except Trouble as trouble:
            state.ready = not trouble.silent
            if trouble.silent:
                self._rest(state, trouble)
        finally:
            state.look = None


def _now() -> float:
    """Seconds by the running loop's clock."""
    return asyncio.get_running_loop().time()
