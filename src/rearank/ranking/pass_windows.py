"""Training windows as a sliding window's passes meet them, mixed with drawn ones (``augmentation=pass_windows``).

In a pass the last places of a window hold what the window below promoted, and the first ones what nobody has read yet;
a set drawn at random never looks like that. The passes are run before training, by the first stage's order and by a
noisy ideal ranker. They are not the trained model's own: that would be on-policy, and takes drawing while it trains.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Interval

from rearank.augmentation import Augmented, MultiSample, NoAugmentation
from rearank.ranking.plan import check_plan, plan_windows
from rearank.types import Candidates, JudgedWindow


@dataclass(frozen=True)
class PassWindows(MultiSample):
    """``mix`` of a query's ``sets`` are windows that passes meet; the others are drawn as ``MultiSample`` draws them.

    One pass leaves every window as it is; the others order it by grade with noise, anew for each window. Of the
    distinct windows that the filter keeps as many as wanted are taken at random, or all where there are fewer: a list
    of n has ``1 + ceil((n - size) / step)`` windows a pass. They are never padded.

    Args:
        step: how far a window moves, as the strategy's (``strategy.step``; ``size`` as its size).
        passes: by the noisy ranker.
        noise: standard deviation of what it adds to each grade; 0: the ideal order, ties as given.
        mix: share of ``sets``.
    """

    step: Annotated[int, Ge(1)] = 10
    passes: Annotated[int, Ge(0)] = 8
    noise: Annotated[float, Ge(0)] = 1.0
    mix: Annotated[float, Interval(ge=0, le=1)] = 0.5

    def __post_init__(self) -> None:
        super().__post_init__()
        check_plan(self.size, self.step)

    def augment(self, candidates: Candidates, grades: Mapping[str, int]) -> Augmented:
        """Windows of passes first, then drawn ones. A query with fewer than two candidates gives none."""
        if len(candidates.passages) < 2:
            return super().augment(candidates, grades)
        draw = random.Random(f"{self.seed}/passes/{candidates.query.id}")
        pool = candidates.top(self.depth)
        one = NoAugmentation(self.size, self.ideal, self.filter)
        kept: list[JudgedWindow] = []
        dropped: Counter[str] = Counter()
        for places in dict.fromkeys(self._met(pool, grades, draw)):
            shown = Candidates(pool.query, tuple(pool.passages[place] for place in places))
            made = one.augment(shown, grades)
            kept += made.windows
            dropped.update(made.dropped)
        wanted = round(self.mix * self.sets)
        taken = sorted(draw.sample(range(len(kept)), min(wanted, len(kept))))
        windows = [kept[number] for number in taken]
        if self.sets > wanted:
            drawn = MultiSample(
                self.sets - wanted, self.size, self.depth, self.order, self.ideal, self.filter, self.seed
            ).augment(candidates, grades)
            others = [window for window in drawn.windows if window not in windows]
            dropped.update(drawn.dropped)
            if repeated := len(drawn.windows) - len(others):
                dropped["repeated"] += repeated
            windows += others
        return Augmented(tuple(windows), dict(dropped))

    def _met(self, pool: Candidates, grades: Mapping[str, int], draw: random.Random) -> Iterator[tuple[int, ...]]:
        """Every window of every pass, as positions in the first stage's list."""
        spans = plan_windows(len(pool.passages), self.size, self.step)
        known = [grades.get(passage.id, 0) for passage in pool.passages]
        for number in range(1 + self.passes):
            ranked = list(range(len(known)))
            for span in spans:
                window = ranked[span.start : span.stop]
                yield tuple(window)
                if number:
                    noisy = {place: known[place] + draw.gauss(0.0, self.noise) for place in window}
                    ranked[span.start : span.stop] = sorted(window, key=lambda place: -noisy[place])
