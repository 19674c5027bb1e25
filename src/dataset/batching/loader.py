"""From a dataset to the batches of each optimiser step: this process's part of them."""

import itertools
import math
from collections.abc import Iterator

import numpy as np
import torch

from src.config.settings import Settings
from src.dataset.batching import batches, sampler
from src.dataset.batching.batches import Batch
from src.dataset.store.folder import Dataset
from src.io.errors import UserError


class Loader:
    """The training events of a dataset, in the batches of each epoch.

    Every process reads the same order of users, a function of seed and epoch, and takes its share
    of each batch. UserError where there is nothing to train on, or less than a user a process.
    """

    def __init__(
        self,
        settings: Settings,
        dataset: Dataset,
        device: torch.device,
        rank: int = 0,
        processes: int = 1,
    ):
        self.settings, self.device, self.rank, self.processes = settings, device, rank, processes
        self.training, self.ends = batches.training_part(dataset)
        self.users = np.flatnonzero(self.ends - self.training.offsets[:-1] > 0)
        if len(self.users) == 0:
            raise UserError(
                f"{dataset.folder} has no training events; loosen the filters or change the split"
            )
        if settings.batch_size < processes:
            raise UserError(
                f"{processes} processes share batches of --batch_size {settings.batch_size} users; "
                "start fewer"
            )
        self.lengths = None
        if settings.batch_by == "length":
            self.lengths = self._window_lengths()

    @property
    def steps_per_epoch(self) -> int:
        """Optimiser steps of an epoch."""
        return math.ceil(len(self.users) / (self.settings.batch_size * self.settings.grad_accum))

    def window_lengths(self) -> np.ndarray:
        """[users that train] targets of each one's window."""
        lengths = self._window_lengths() if self.lengths is None else self.lengths
        return lengths[self.users]

    def _window_lengths(self) -> np.ndarray:
        """[users] the same of all of them."""
        settings = self.settings
        return batches.window_lengths(
            self.training, self.ends, settings.max_len, settings.sdsr_context
        )

    def steps(self, epoch: int, first: int = 0) -> Iterator[list[Batch]]:
        """The batches of each optimiser step of an epoch, from its step `first` on."""
        for step in self.shares(epoch, first):
            yield [self.batch(shares, epoch) for shares in step]

    def shares(self, epoch: int, first: int = 0) -> Iterator[list[list[np.ndarray]]]:
        """The users of the batches of each optimiser step: of each batch every process's share."""
        settings = self.settings
        found = sampler.epoch_shares(
            self.users,
            settings.batch_size,
            settings.seed,
            epoch,
            self.processes,
            lengths=self.lengths,
            start=first * settings.grad_accum,
        )
        while step := list(itertools.islice(found, settings.grad_accum)):
            yield step

    def batch(self, shares: list[np.ndarray], epoch: int) -> Batch:
        """This process's part of the batch whose users the processes share: [P] users each."""
        own, mim_users = self._windows(shares[self.rank]), None
        if self.processes > 1 and self.settings.compares_views:
            # each process counts for all, so that nobody waits for a count within the step
            mim_users = np.stack(
                [batches.repeat_users(self.training, self._windows(users)) for users in shares]
            )
        batch = batches.build_batch(self.training, own, self.settings.seed, epoch, mim_users)
        return batch.to(self.device)

    def _windows(self, users: np.ndarray) -> batches.Windows:
        settings = self.settings
        return batches.context_windows(
            self.training, users, self.ends[users], settings.max_len, settings.sdsr_context
        )
