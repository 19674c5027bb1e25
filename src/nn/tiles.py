"""Attention tiles: packed sequences whose attention scores are one batched product."""

from dataclasses import dataclass

import torch
from torch import Tensor

FAR = -1e9  # added to a forbidden score: its softmax is exactly 0


@dataclass(frozen=True)
class Tiles:
    """A block of attention tiles: `count` runs of `length` slots from slot `start` on.

    A tile holds whole sequences one after the other; `mask` [count, length, length] is 0 where a
    slot may see another of its sequence and FAR elsewhere.
    """

    start: int
    count: int
    length: int
    mask: Tensor


def tiles_of(
    groups: list[tuple[int, int]], sequence: Tensor, dtype: torch.dtype, causal: bool = True
) -> list[Tiles]:
    """The tiles of a view from its (count, length) groups and the sequence of each slot [M].

    A slot sees itself and the earlier slots of its sequence; unless `causal`, the later ones too.
    """
    blocks, start = [], 0
    for count, length in groups:
        end = start + count * length
        block_sequence = sequence[start:end].view(count, length)
        mask = torch.empty(count, length, length, dtype=dtype, device=sequence.device)
        torch.ne(block_sequence[:, :, None], block_sequence[:, None, :], out=mask)
        if causal:
            mask.add_(torch.ones_like(mask[0]).triu_(1))
        mask.mul_(FAR)
        blocks.append(Tiles(start, count, length, mask))
        start = end
    return blocks
