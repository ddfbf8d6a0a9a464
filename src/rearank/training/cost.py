"""What a step of reinforcement learning computes: tokens and floating-point operations, by the model's sizes."""

from __future__ import annotations

from dataclasses import dataclass

from rearank.engines.architecture import Architecture


@dataclass(frozen=True)
class StepCost:
    """Of a step in which answers are sampled and learned from, where all are as long as they may be: an upper bound.

    Args:
        a: the model's sizes.
        prompts: windows a step.
        group: answers to each.
        prompt: tokens of a prompt.
        answer: tokens of an answer.
        passes: forward passes over all answers besides the update's own: old log-probabilities, the reference.
        again: the update computes each layer twice (gradient checkpointing).
    """

    a: Architecture
    prompts: int
    group: int
    prompt: int
    answer: int
    passes: int = 0
    again: bool = False

    def tokens(self, *, shared: bool) -> int:
        """That a pass goes through: prompts once a group, or once an answer."""
        times = 1 if shared else self.group
        return self.prompts * (times * self.prompt + self.group * self.answer)

    @property
    def repeated(self) -> float:
        """The share of these tokens, where nothing is shared, that are a prompt again."""
        return self.prompts * (self.group - 1) * self.prompt / self.tokens(shared=False)

    def operations(self, *, shared: bool) -> float:
        """Floating-point operations of all passes; sampling is not counted. A backward pass takes two forward ones."""
        a, prompt, answer = self.a, self.prompt, self.answer
        times = 1 if shared else self.group
        compared = times * prompt**2 / 2 + self.group * answer * (prompt + answer / 2)  # pairs of tokens, a prompt's
        linear = 2 * a.layers * a.layer_parameters * self.tokens(shared=shared)
        attention = self.prompts * 4 * a.layers * a.query_width * compared
        output = 2 * a.embedding_parameters * self.prompts * self.group * answer
        return (3 + self.passes) * (linear + attention + output) + (linear + attention if self.again else 0)

    def describe(self, *, shared: bool) -> str:
        """A line for a person."""
        tokens = [f"{self.tokens(shared=s):,}" for s in (shared, not shared)]
        work = [_tera(self.operations(shared=s)) for s in (shared, not shared)]
        other = "not shared" if shared else "shared"
        return (
            f"a pass over a step's answers takes {tokens[0]} tokens at most ({tokens[1]} where prompts are {other}; "
            f"not shared, {self.repeated:.0%} of them are a prompt computed again), and training {work[0]} TFLOP a "
            f"step ({work[1]} where {other})"
        )


def _tera(operations: float) -> str:
    tera = operations / 1e12
    return f"{tera:,.0f}" if tera >= 10 else f"{tera:.2g}"
