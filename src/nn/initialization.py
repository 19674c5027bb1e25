"""Initial weights that depend only on the seed and on the part of the model."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_stream(seed: int, part: str) -> Iterator[None]:
    """Draw the weights of a part from a separate random stream, so that a flag that adds or removes
    one part changes neither the weights of another nor the dropout that follows."""
    with torch.random.fork_rng(devices=[]):
        # the CPU generator alone: torch.manual_seed would reseed the GPUs and their dropout too
        torch.default_generator.manual_seed(zlib.crc32(f"{seed}/{part}".encode()))
        yield
