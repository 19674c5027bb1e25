"""Initial weights that depend on the seed and on the part of the model alone."""

import zlib
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def own_stream(seed: int, part: str) -> Iterator[None]:
    """Draw the weights of a part from a random stream of its own, so that a flag that adds or
    removes one part changes no other's weights, nor the dropout that follows."""
    with torch.random.fork_rng(devices=[]):
        # the CPU generator alone: torch.manual_seed would reseed the GPUs and their dropout too
        torch.default_generator.manual_seed(zlib.crc32(f"{seed}/{part}".encode()))
        yield
