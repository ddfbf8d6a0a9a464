"""A prompt and all its answers in one row, under a mask in which no answer sees another.

A row is ``prompt, answer 1, ..., answer G``. A token sees its prompt and what came before it in its own answer, at the
positions that it has when the answer stands alone; so it gets the same output, and the prompt is computed once. All of
it is one ordinary forward pass: gradient checkpointing, adapters and FSDP need nothing special.

An answer's part of the row begins with the prompt's last token, whose output predicts the answer's first token, and
ends before its own last token, whose output predicts nothing. So each output of that part has one token to predict.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch.nn.utils.rnn import pad_sequence

Form = Literal["dense", "flex"]
"""How the mask is given: a tensor for torch's attention, or blocks for flex_attention (GPUs: no backward on CPUs)."""

_PADDING = -1  # in place of a tree's number
_WINDOWED = {"full_attention": False, "sliding_attention": True}
"""transformers' kinds of layers that a mask is known for, and whether they see no further back than a window."""

_ELEMENTS = 1 << 26
"""Logits that are worked on at once: 256 MiB of float32."""


@dataclass(frozen=True)
class PackedBatch:
    """``N`` answers of up to ``R`` tokens, and their prompts, in ``B`` rows of ``T`` tokens.

    Args:
        ids: (B, T).
        positions: (B, T).
        tree: (B, T): the number of the prompt that a token belongs to; -1 for padding.
        branch: (B, T): 0 for the prompt's tokens, from 1 on the number of the answer.
        kept: (K,): the columns whose outputs predict an answer's token in some row; of others no logits are needed.
        place: (N, R): where the output that predicts an answer's token is: row x K + number of the kept column.
        targets: (N, R): the answers' tokens.
        mask: (N, R): true for an answer's tokens, false for the padding on the right.
    """

    ids: Any
    positions: Any
    tree: Any
    branch: Any
    kept: Any
    place: Any
    targets: Any
    mask: Any

    def inputs(self, config: Any, form: Form = "dense") -> dict[str, Any]:
        """Arguments, beside ``use_cache=False``, for the forward pass of a causal language model.

        Its logits are of shape (B, K, vocabulary).

        Args:
            config: the model's.
            form: ``dense`` for the attention implementations ``sdpa`` and ``eager``, ``flex`` for ``flex_attention``.

        Raises ``ValueError`` for layers whose attention is neither over everything before nor over a window.
        """
        return {
            "input_ids": self.ids,
            "position_ids": self.positions,
            "attention_mask": self._masks(config.get_text_config(), form),
            "logits_to_keep": self.kept,
        }

    def figures(self, logits: Any, temperature: float = 1.0) -> tuple[Any, Any]:
        """Of each answer's token its log-probability, and the entropy of its distribution in nats; 0 for padding.

        Both have a gradient. Computed in float32 at least.

        Args:
            logits: (B, K, vocabulary), of ``inputs``.
            temperature: that logits are divided by.

        Returns:
            Two tensors (N, R).
        """
        place = self.place[self.mask]
        targets = self.targets.new_zeros(logits.shape[:2]).flatten().index_put((place,), self.targets[self.mask])
        found = _TokenFigures.apply(logits.flatten(0, 1), targets, temperature)
        log_probs, entropies = (one.new_zeros(self.mask.shape).masked_scatter(self.mask, one[place]) for one in found)
        return log_probs, entropies

    def _masks(self, config: Any, form: Form) -> Any:
        """One mask, or one for each kind of layer where there are several."""
        kinds = kinds_of_layers(config)
        if unknown := kinds - _WINDOWED.keys():
            raise ValueError(f"no mask is known for layers of {', '.join(sorted(unknown))}")
        eager = config._attn_implementation == "eager"
        masks = {kind: self._mask(config.sliding_window if _WINDOWED[kind] else None, form, eager) for kind in kinds}
        return masks if len(masks) > 1 else masks.popitem()[1]

    def _mask(self, window: int | None, form: Form, eager: bool) -> Any:
        places = (self.tree, self.branch, self.positions)
        if form == "flex":
            from torch.nn.attention.flex_attention import create_block_mask

            def sees(row: Any, _: Any, query: Any, key: Any) -> Any:
                return _sees([place[row, query] for place in places], [place[row, key] for place in places], window)

            rows, length = self.ids.shape
            device = self.ids.device
            # Compiled, it never holds tokens x tokens.
            return create_block_mask(sees, rows, None, length, length, device=device, _compile=device.type == "cuda")
        queries, keys = ([place[:, None, :].unsqueeze(axis) for place in places] for axis in (-1, -2))
        seen = _sees(queries, keys, window)
        if not eager:
            return seen
        return torch.zeros(seen.shape, device=seen.device).masked_fill_(~seen, torch.finfo(torch.float32).min)


def kinds_of_layers(config: Any) -> set[str]:
    """By transformers' names: ``full_attention``, ``sliding_attention`` and others.

    A config that names none has one kind, over a window if it has one.
    """
    named = set(getattr(config, "layer_types", None) or ())
    return named or {"full_attention" if getattr(config, "sliding_window", None) is None else "sliding_attention"}


def pack(prompts: Sequence[Any], answers: Sequence[Any], group: Sequence[int], *, one_row: bool = False) -> PackedBatch:
    """Each prompt and its answers in a row of its own, or all of them in one.

    With a dense mask rows of their own are cheaper, as attention's work grows with the square of a row's length. With
    blocks (``flex``) one row needs no padding and costs no more.

    Args:
        prompts: of each its tokens (P,), one at least.
        answers: of each its tokens (R,).
        group: the number of each answer's prompt.
        one_row: whether all go into one row.
    """
    members = [[index for index, its in enumerate(group) if its == number] for number in range(len(prompts))]
    together = [range(len(prompts))] if one_row else [[number] for number in range(len(prompts))]
    rows = [[piece for number in row for piece in _pieces(prompts, answers, members, number)] for row in together]
    # Prompts end in the same column, so that few columns have an output that predicts nothing.
    shared = [0 if one_row else len(row[0].ids) for row in rows]
    rows = [[_Piece(row[0].ids.new_zeros(max(shared) - ahead)), *row] for row, ahead in zip(rows, shared, strict=True)]
    lengths = [sum(len(piece.ids) for piece in row) for row in rows]
    flat = [
        piece
        for row, length in zip(rows, lengths, strict=True)
        for piece in (*row, _Piece(row[0].ids.new_zeros(max(lengths) - length)))
    ]
    device, width = prompts[0].device, max(lengths)
    sizes = torch.tensor([len(piece.ids) for piece in flat], device=device)
    begins = sizes.cumsum(0) - sizes

    def spread(values: Any) -> Any:
        return torch.as_tensor(values, device=device).repeat_interleave(sizes).view(len(rows), width)

    within = torch.arange(len(rows) * width, device=device).view(len(rows), width) - spread(begins)
    targets = pad_sequence(list(answers), batch_first=True)
    steps = torch.arange(targets.size(1), device=device)
    mask = steps < torch.tensor([len(answer) for answer in answers], device=device)[:, None]
    begin = torch.empty_like(mask[:, 0], dtype=torch.long)
    begin[[index for row in together for number in row for index in members[number]]] = begins[
        torch.tensor([piece.branch > 0 for piece in flat], device=device)
    ]
    column = begin[:, None] % width + steps
    kept = column[mask].unique()
    return PackedBatch(
        ids=torch.cat([piece.ids for piece in flat]).view(len(rows), width),
        positions=spread([piece.first for piece in flat]) + within,
        tree=spread([piece.tree for piece in flat]),
        branch=spread([piece.branch for piece in flat]),
        kept=kept,
        place=begin[:, None] // width * len(kept) + torch.searchsorted(kept, column),
        targets=targets,
        mask=mask,
    )


@dataclass(frozen=True)
class _Piece:
    """Neighbours in a row: tokens, the first one's position, and what they belong to."""

    ids: Any
    first: int = 0
    tree: int = _PADDING
    branch: int = 0


def _pieces(
    prompts: Sequence[Any], answers: Sequence[Any], members: Sequence[Sequence[int]], number: int
) -> Iterator[_Piece]:
    """A prompt without its last token, then each of its answers behind that token and without its own last."""
    prompt = prompts[number]
    yield _Piece(prompt[:-1], 0, number)
    for branch, index in enumerate(members[number], 1):
        yield _Piece(torch.cat([prompt[-1:], answers[index]])[:-1], len(prompt) - 1, number, branch)


def _sees(query: Sequence[Any], key: Sequence[Any], window: int | None) -> Any:
    """Whether a token sees another, each given by its tree, branch and position."""
    (tree, branch, position), (its_tree, its_branch, its_position) = query, key
    seen = (tree == its_tree) & ((its_branch == 0) | (its_branch == branch)) & (its_position <= position)
    return seen if window is None else seen & (position - its_position < window)


class _TokenFigures(torch.autograd.Function):  # type: ignore[misc]
    """Log-probability of a target and entropy, for each row of logits.

    Its backward pass makes one tensor of the logits' size, which are the largest thing in memory in training. Of
    torch's own operations each makes one.
    """

    @staticmethod
    def forward(ctx: Any, logits: Any, targets: Any, temperature: float) -> tuple[Any, Any]:
        """``logits`` (M, vocabulary) and ``targets`` (M,); returns two tensors (M,)."""
        found = []
        for part, its in _parts(logits, targets):
            log_probs = _log_softmax(part, temperature)
            found.append((log_probs.gather(1, its).squeeze(1), torch.special.entr(log_probs.exp()).sum(1)))
        picked, entropy = (torch.cat(one) for one in zip(*found, strict=True))
        ctx.save_for_backward(logits, targets, entropy)
        ctx.temperature = temperature
        ctx.set_materialize_grads(False)
        return picked, entropy

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Any, None, None]:
        """Of a row: ``g (1[target] - p) - h p (log p + entropy)``, over the temperature; ``g, h`` the two gradients."""
        logits, targets, entropy = ctx.saved_tensors
        result, begin = torch.empty_like(logits), 0
        for part, its in _parts(logits, targets):
            rows = slice(begin, begin := begin + len(part))
            probs = _log_softmax(part, ctx.temperature).exp_()
            grad = torch.zeros_like(probs)
            if grads[1] is not None:
                grad = (torch.special.entr(probs) - probs * entropy[rows, None]).mul_(grads[1][rows, None])
            if grads[0] is not None:
                of = grads[0][rows, None]
                grad = grad.addcmul_(probs, of, value=-1).scatter_add_(1, its, of)
            result[rows] = grad.div_(ctx.temperature)
        return result, None, None


def _parts(logits: Any, targets: Any) -> Iterator[tuple[Any, Any]]:
    """Some rows at a time, and their targets as a column."""
    size = max(1, _ELEMENTS // logits.size(1))
    return zip(logits.split(size), targets[:, None].split(size), strict=True)


def _log_softmax(logits: Any, temperature: float) -> Any:
    wide = logits.to(torch.promote_types(logits.dtype, torch.float32))
    return (wide if temperature == 1 else wide / temperature).log_softmax(1)
