"""Random generators of each process: seeding, saving and restoring their states."""

import random

import numpy as np
import torch

from src.io.errors import UserError
from src.training.processes import Process


def seed_everything(seed: int, rank: int = 0) -> None:
    """Seed every generator of a process; data order and negatives have separate seeds.

    The streams of two processes are independent, and none equals the stream of another run's seed.
    """
    if rank:
        seed = int(np.random.SeedSequence([seed, rank]).generate_state(1, np.uint64)[0] >> 1)
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002 - for libraries that draw from the global one
    torch.manual_seed(seed)


def random_state(device: torch.device) -> dict[str, torch.Tensor]:
    """torch's random states of this process, {device type: bytes}."""
    states = {"cpu": torch.get_rng_state()}
    if device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(device)
    return states


def restore_state(states: dict[str, torch.Tensor], device: torch.device) -> None:
    """Restore a `random_state` of this process."""
    torch.set_rng_state(states["cpu"])
    if device.type == "cuda" and "cuda" in states:
        torch.cuda.set_rng_state(states["cuda"], device)


def restore_all(states: dict[str, torch.Tensor], process: Process, key: tuple[int, ...]) -> None:
    """Restore the random states of all P processes, {device type: [P, bytes]}; an additional
    process is seeded from `key` and its rank. UserError for an invalid state."""
    states = {name: torch.atleast_2d(rows).cpu() for name, rows in states.items()}
    if process.rank >= len(states["cpu"]):
        seed_everything(int(np.random.SeedSequence([*key, process.rank]).generate_state(1)[0]))
        return
    # copies: torch reads a state from the start of its memory
    state = {name: rows[process.rank].clone() for name, rows in states.items()}
    try:
        restore_state(state, process.device)
    except (RuntimeError, TypeError) as error:  # torch validates the bytes
        raise UserError(f"invalid random state in the checkpoint ({error})") from None
