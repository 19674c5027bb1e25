"""A trainer on a few generated users, for the tests of the benchmarks and of the GPU."""

import torch

from benchmarks.reference.padded import PaddedBatch, pad
from benchmarks.speed import common
from utils import start_process


def small_bench(
    *, device="cpu", dtype=torch.float64, users=9, noise=0.3, **settings
) -> common.Bench:
    """A bench of a few users whose weights are large enough that every part shows."""
    defaults = {"hidden": 8, "dropout": 0.0, "experts_cross": 2, "batch_size": users}
    if dtype == torch.float64:
        defaults["precision"] = "float64"
    dataset = common.generated_dataset(
        common.training_lengths(users), common.DOMAIN_EVENTS, [30, 20, 10, 9, 8]
    )
    bench = common.make_bench(
        common.paper_settings(**(defaults | settings)), dataset, start_process(device)
    )
    with torch.no_grad():
        for parameter in bench.trainer.model.parameters():
            parameter.add_(torch.randn_like(parameter) * noise)
    return bench


def padded_batch(bench: common.Bench) -> PaddedBatch:
    """Its batch as the oracle takes it."""
    return pad(bench.trainer.dataset, bench.windows, bench.batch, bench.trainer.settings.max_len)
