"""What all candidate protocols cost beside `full_all` alone, and the memory that ranking adds.

    python benchmarks/speed/protocols.py
    python benchmarks/speed/protocols.py --items 14000 --domains 4 --targets 4096 --json

The real path of evaluation: a SyNCRec model encodes the queries of generated users, the items of
all domains are scored, and the ranks are counted, by the cross and the single view. In each round
`full_all` alone and all protocols, with and without seen items, are ranked in turn; `ratio` is the
second time over the first. `pass_ratio` is the same without the encoding, which both have to do.
The negatives are drawn before the clock starts, as a run finds them stored.

`added_mib` is how far the peak of memory rose above what was there before the first ranking; all
scores at once would be `all_scores_mib`.
"""

import dataclasses
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import (
    interleaved,
    machine,
    make_parser,
    peak_mib,
    print_result,
    seconds,
    spread,
    start,
)
from models import SyNCRec
from src.config.names import PROTOCOLS, RELEASED
from src.config.settings import Settings
from src.dataset.store.folder import TEST, Dataset
from src.evaluation.path_scores import model_scorer, score_paths
from src.evaluation.protocols import DRAWN
from src.evaluation.queries import Ensemble
from src.evaluation.ranking import Plan, rank_targets
from src.evaluation.targets import Targets, drawn_candidates, split_targets
from src.io.errors import run_command
from tests.support.step_benches import generated_dataset, split_evenly, training_lengths

ALONE = ("full_all",)


def held_out_dataset(users: int, domains: int, items: int) -> Dataset:
    """A generated log in which each user's last event is a test target."""
    lengths = training_lengths(users) + 1
    dataset = generated_dataset(lengths, [1] * domains, split_evenly(items, domains))
    split = dataset.split.copy()
    split[dataset.offsets[1:] - 1] = TEST
    return dataclasses.replace(dataset, split=split)


def draw(dataset: Dataset, targets: Targets, count: int) -> dict[str, np.ndarray]:
    """{set: [n, count] items} of every set that is drawn, as a run finds them."""
    with tempfile.TemporaryDirectory() as folder:
        return drawn_candidates(dataset, targets, (*DRAWN, RELEASED), count, 0, Path(folder))


def timed_rounds(dataset: Dataset, hidden: int, count: int, rounds: int, process) -> dict[str, Any]:
    """Seconds of each round, whole and of the `pass` without encoding, for `full_all` `alone` and
    for `all`; and by how many MiB the peak of memory rose."""
    settings = Settings(hidden=hidden)
    targets = split_targets(dataset, "test")
    drawn = draw(dataset, targets, count)
    plans = {
        name: Plan(dataset, targets, protocols, drawn, process.device)
        for name, protocols in (("alone", ALONE), ("all", PROTOCOLS))
    }
    model = SyNCRec(settings, dataset.item_starts.tolist()).to(process.device).eval()
    ensemble, rows = Ensemble([model]), np.arange(len(targets.events))
    before = peak_mib(process.device)
    scorer = model_scorer(ensemble, settings, plans["all"], rows, "cross", bar=False)

    def whole(plan: Plan) -> float:
        return seconds(
            lambda: score_paths(ensemble, settings, plan, process, {}, lists=False), process.device
        )

    def one_pass(plan: Plan) -> float:
        return seconds(
            lambda: rank_targets(scorer, plan, rows, list(plan.blocks(rows))), process.device
        )

    runs = {}
    for name, plan in plans.items():
        runs[name] = lambda plan=plan: whole(plan)
        runs[f"pass {name}"] = lambda plan=plan: one_pass(plan)
    timed = interleaved(runs, rounds)
    return timed | {"added_mib": peak_mib(process.device) - before}


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=5)
    parser.add_argument("--items", type=int, default=1_000_000, help="items in all (1000000)")
    parser.add_argument("--domains", type=int, default=5, help="domains (5)")
    parser.add_argument("--hidden", type=int, default=64, help="hidden size (64)")
    parser.add_argument("--targets", type=int, default=1024, help="targets to rank (1024)")
    parser.add_argument("--negatives", type=int, default=100, help="negatives a target (100)")
    parsed = parser.parse_args(arguments)
    process = start(parsed)
    dataset = held_out_dataset(parsed.targets, parsed.domains, parsed.items)
    timed = timed_rounds(dataset, parsed.hidden, parsed.negatives, parsed.rounds, process)
    added = timed.pop("added_mib")
    ratios = [b / a for a, b in zip(timed["alone"], timed["all"], strict=True)]
    passes = [b / a for a, b in zip(timed["pass alone"], timed["pass all"], strict=True)]
    result = {
        **{name: getattr(parsed, name) for name in ("items", "domains", "hidden", "targets")},
        "negatives": parsed.negatives,
        "protocols": len(PROTOCOLS),
        "seconds": {name: median(times) for name, times in timed.items()},
        "ratio": median(ratios),
        "pass_ratio": median(passes),
        "added_mib": added,
        "all_scores_mib": 4 * parsed.targets * parsed.items / 2**20,
        "rounds": timed,
        **machine(process),
    }
    sizes = f"{parsed.targets} targets, {parsed.items} items, {parsed.domains} domains"
    lines = [
        [f"{sizes}, H {parsed.hidden}", "median (range)"],
        ["full_all alone, s", spread(timed["alone"])],
        [f"all {len(PROTOCOLS)} protocols, s", spread(timed["all"])],
        ["ratio", spread(ratios)],
        ["ratio without encoding", spread(passes)],
        ["memory that ranking added, MiB", f"{added:.0f}"],
        ["all scores at once would take, MiB", f"{result['all_scores_mib']:.0f}"],
    ]
    print_result(result, lines, parsed.json)


if __name__ == "__main__":
    run_command(main)
