"""From a dataset to the batches of each optimiser step: this process's part of them."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch

from src.dataset.batching.batch import Batch
from src.dataset.batching.packing import build_batch
from src.dataset.batching.sampler import epoch_shares
from src.dataset.batching.windows import (
    Windows,
    context_windows,
    mim_user_counts,
    training_dataset,
    window_lengths,
)
from src.dataset.store.folder import Dataset
from src.io.errors import UserError


class Loader:
    """The training events of a dataset, in the batches of each epoch.

    Every process reads the same order of users, a function of seed and epoch, and takes its share
    of each batch. The keyword arguments are the settings of the same names (`context` is
    `--sdsr_context`); `share_mim_counts`: the processes' users are compared with each other
    (SC-MIM); `held_out`: the share of the events that are inputs only; `times`: the views have
    intervals; `negatives`: those of each target. UserError without training events, or with fewer
    users per batch than processes.
    """

    def __init__(
        self,
        dataset: Dataset,
        device: torch.device,
        rank: int = 0,
        processes: int = 1,
        *,
        batch_size: int,
        max_len: int,
        seed: int,
        grad_accum: int = 1,
        batch_by: str = "random",
        context: str = "paired",
        share_mim_counts: bool = False,
        held_out: float = 0.0,
        times: bool = False,
        negatives: int = 1,
    ):
        self.device, self.rank, self.processes = device, rank, processes
        self.batch_size, self.grad_accum, self.seed = batch_size, grad_accum, seed
        self.max_len, self.context = max_len, context
        self.held_out, self.times, self.negatives = held_out, times, negatives
        self.share_mim_counts = share_mim_counts and processes > 1
        self.training, self.ends = training_dataset(dataset, times)
        self.users = np.flatnonzero(self.ends - self.training.offsets[:-1] > 0)
        if len(self.users) == 0:
            raise UserError(
                f"{dataset.folder} has no training events; loosen the filters or change the split"
            )
        if batch_size < processes:
            raise UserError(
                f"--batch_size {batch_size} gives {processes} processes less than one user each; "
                "raise it or start fewer processes"
            )
        self.lengths = self._all_window_lengths() if batch_by == "length" else None

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps per epoch."""
        return math.ceil(len(self.users) / (self.batch_size * self.grad_accum))

    def window_lengths(self) -> np.ndarray:
        """[training users] targets in each one's window."""
        lengths = self._all_window_lengths() if self.lengths is None else self.lengths
        return lengths[self.users]

    def _all_window_lengths(self) -> np.ndarray:
        """[users] the same for every user of the dataset."""
        return window_lengths(self.training, self.ends, self.max_len, self.context)

    def steps(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """The batches of each optimiser step of an epoch, starting with step `first`."""
        for step in self.shares(epoch, first):
            yield [self.batch(shares, epoch) for shares in step]

    def shares(self, epoch: int, first: int = 0) -> Iterator[list[list[np.ndarray]]]:
        """The users of the batches of each optimiser step: for each batch every process's share."""
        batches = epoch_shares(
            self.users,
            self.batch_size,
            self.seed,
            epoch,
            self.processes,
            lengths=self.lengths,
            start=first * self.grad_accum,
        )
        while step := list(itertools.islice(batches, self.grad_accum)):
            yield step

    def batch(self, shares: list[np.ndarray], epoch: int) -> Batch:
        """This process's part of the batch whose users the processes share: [P] users each."""
        windows, mim_users = self._windows(shares[self.rank]), None
        if self.share_mim_counts:
            # each process counts for all, so that no step waits for an exchange of the counts
            mim_users = np.stack(
                [mim_user_counts(self.training, self._windows(users)) for users in shares]
            )
        return self.pack(windows, epoch, mim_users)

    def pack(self, windows: Windows, epoch: int, mim_users: np.ndarray | None = None) -> Batch:
        """Windows of the training events as a batch on the device."""
        batch = build_batch(
            self.training, windows, self.seed, epoch, mim_users, self.held_out, self.times,
            self.negatives,
        )  # fmt: skip
        return batch.to(self.device)

    def _windows(self, users: np.ndarray) -> Windows:
        return context_windows(self.training, users, self.ends[users], self.max_len, self.context)
