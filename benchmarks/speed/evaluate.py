"""Ranking targets among a large catalogue, as a share of the matrix-multiplication peak.

    python benchmarks/speed/evaluate.py
    python benchmarks/speed/evaluate.py --items 100000 --hidden 64 --targets 8192 --json

The real code path on a random item table: `rank_targets` with the model's own scoring makes the
scores, checks that they are finite and counts the ranks of all targets among all items of one
domain. The bare product of one chunk, [rows, H] x [H, width], is timed before every block of rows:
the peak of evaluation's own shape. FLOP are the 2 · targets · items · H of the scores alone.

`peak_mib` is the most memory that the process held, `table_mib` what of it is the item table, and
`added_mib` how far the peak rose above what was there before the first ranking. All scores at once
would be `all_scores_mib`.
"""

import sys
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import (
    MatmulPeak,
    interleaved,
    machine,
    make_parser,
    peak_mib,
    print_result,
    seconds,
    spread,
    start,
)
from src.evaluation.queries import Ensemble
from src.evaluation.rank_counts import item_chunks
from src.evaluation.ranking import Block, ModelScorer, Plan, rank_targets
from src.evaluation.targets import Targets
from src.io.errors import run_command
from tests.support.step_benches import generated_dataset


class Table:
    """A random item table that scores as the model does: rows 1 … V are one domain's items."""

    def __init__(self, items: int, hidden: int, device: torch.device):
        self.item_starts = [1, items + 1]
        # filled in place, so that the peak of memory is not this
        self.item_table = torch.empty(items + 1, hidden, device=device).normal_(std=0.02)


def timed_rounds(
    table: Table, targets: int, negatives: int, rounds: int, device: torch.device
) -> dict[str, Any]:
    """What the rounds give: `seconds` of each full ranking, `peak` GFLOP/s of the product beside
    it, the `chunk`'s shape, and `peak_mib` before and after."""
    items, hidden = len(table.item_table) - 1, table.item_table.shape[1]
    dataset = generated_dataset(np.ones(targets, dtype=np.int64), [1], [items])
    rows = np.arange(targets)
    zeros = np.zeros_like(rows)
    ranked = Targets("test", rows, rows, dataset.items.astype(np.int64), zeros, rows, rows)
    drawn, protocols = {}, ("full",)
    if negatives:
        rng, protocols = np.random.default_rng(0), ("full", "sampled")
        drawn["sampled"] = rng.integers(1, items + 1, (targets, negatives))
    plan = Plan(dataset, ranked, protocols, drawn, device)
    outputs = torch.randn(targets, hidden, device=device)
    scorer = ModelScorer(Ensemble([table]), outputs, rows[None])
    width = len(np.arange(items)[item_chunks(items, device)[0].columns])
    blocks = list(plan.blocks(rows))

    def rank(block: Block) -> float:
        return seconds(lambda: rank_targets(scorer, plan, block.rows, [block]), device)

    product = MatmulPeak(len(blocks[0].rows), hidden, width, device=device, least=0.3)
    before, runs = peak_mib(device), {}
    for number, block in enumerate(blocks):
        runs[f"product {number}"] = product
        runs[f"block {number}"] = lambda block=block: rank(block)
    timed = interleaved(runs, rounds)
    return {
        "seconds": np.sum([timed[name] for name in runs if "block" in name], axis=0).tolist(),
        "peak": np.mean([timed[name] for name in runs if "product" in name], axis=0).tolist(),
        "chunk": [len(blocks[0].rows), width],
        "peak_mib": [before, peak_mib(device)],
    }


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--items", type=int, default=1_000_000, help="catalogue size (1000000)")
    parser.add_argument("--hidden", type=int, default=256, help="hidden size (256)")
    parser.add_argument("--targets", type=int, default=2048, help="targets to rank (2048)")
    parser.add_argument("--negatives", type=int, default=0, help="of the sampled protocol (0)")
    parsed = parser.parse_args(arguments)
    process = start(parsed)
    torch.manual_seed(0)
    table = Table(parsed.items, parsed.hidden, process.device)
    found = timed_rounds(table, parsed.targets, parsed.negatives, parsed.rounds, process.device)
    gflop = 2e-9 * parsed.targets * parsed.items * parsed.hidden
    speeds = [gflop / second for second in found["seconds"]]
    shares = [speed / peak for speed, peak in zip(speeds, found["peak"], strict=True)]
    before, after = found["peak_mib"]
    result = {
        "items": parsed.items,
        "hidden": parsed.hidden,
        "targets": parsed.targets,
        "negatives": parsed.negatives,
        "chunk": found["chunk"],
        "seconds": median(found["seconds"]),
        "gflops": median(speeds),
        "peak_gflops": median(found["peak"]),
        "share_of_peak": median(shares),
        "peak_mib": after,
        "table_mib": table.item_table.nbytes / 2**20,
        "added_mib": after - before,
        "all_scores_mib": 4 * parsed.targets * parsed.items / 2**20,
        "rounds": {"seconds": found["seconds"], "peak_gflops": found["peak"]},
        **machine(process),
    }
    rows, width = found["chunk"]
    lines = [
        [f"{parsed.targets} targets, {parsed.items} items, H {parsed.hidden}", "median (range)"],
        ["evaluation, s", spread(found["seconds"])],
        ["evaluation, GFLOP/s", spread(speeds)],
        [f"product {rows} x {parsed.hidden} x {width}, GFLOP/s", spread(found["peak"])],
        ["share of the product's", spread(shares)],
        ["memory that ranking added, MiB", f"{result['added_mib']:.0f}"],
        ["all scores at once would take, MiB", f"{result['all_scores_mib']:.0f}"],
        ["peak memory of the process, MiB", f"{result['peak_mib']:.0f}"],
    ]
    print_result(result, lines, parsed.json)


if __name__ == "__main__":
    run_command(main)
