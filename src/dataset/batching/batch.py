"""The batch that the model reads: the events of B users, packed in the two aligned views.

Every event of a window is a target once in each view. The canonical order of the targets is by
domain, then user, then time: the targets of a domain are one slice, and the two losses of a target
have the same index.
"""

import dataclasses
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class View:
    """N tokens of one view; a sequence is a user (cross) or a user's events in a domain (single).

    The tokens lie in M slots, with M slightly above N: attention runs over tiles, stretches of
    slots of one length that hold whole sequences one after the other. A slot without a token has
    zeros and the sequence id `sequences`.
    """

    inputs: Tensor  # [M] the item before the target in this view; 0: the start token
    positions: Tensor  # [M] from 0 at the start token
    reversed_positions: Tensor  # [M] from 0 at the newest token
    domains: Tensor  # [M] domain of the target
    sequence_ids: Tensor  # [M]
    sequences: int
    intervals: Tensor | None  # [M] seconds from input to target, −1 at a start token; or not read
    tiles: list[tuple[int, int]]  # (count, length) of each block of tiles of one length
    target_slots: Tensor  # [N] slot of each target, in the canonical order


@dataclass(frozen=True)
class Batch:
    """B users and their N targets, in the canonical order."""

    targets: Tensor  # [N] items
    negatives: Tensor  # [N, n] other items of the target's domain
    counts: list[int]  # targets in each of the D domains
    domain_counts: Tensor  # [D] the same on the device
    trained: Tensor | None  # [N] 1 for a target to be trained on, 0 where it is held out; None: all
    trained_counts: Tensor  # [D] targets to be trained on
    last_targets: Tensor  # [B] indices of the users' last targets, in the canonical order
    last_counts: list[int]  # last targets in each of the D domains
    last_rows: Tensor  # [B] for each user: the row of `last_targets` that is theirs
    pair_lengths: Tensor  # [S] targets of each (domain, user) pair
    mim_pairs: list[tuple[int, Tensor]]  # (domain, rows of S with at least two targets)
    mim_sizes: list[list[int]]  # per process: its number of users in each of these domains
    cross: View
    single: View

    def to(self, device: torch.device) -> "Batch":
        """The batch on a device; on the CPU it is the batch itself."""
        return self if device.type == "cpu" else _to(self, device)


def _to(value: Any, device: torch.device) -> Any:
    """Move every tensor inside a nested value, without waiting for the copies."""
    if isinstance(value, Tensor):
        return value.pin_memory().to(device, non_blocking=True)
    if isinstance(value, (list, tuple)):
        return type(value)(_to(member, device) for member in value)
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        moved = {
            field.name: _to(getattr(value, field.name), device)
            for field in dataclasses.fields(value)
        }
        return dataclasses.replace(value, **moved)
    return value
