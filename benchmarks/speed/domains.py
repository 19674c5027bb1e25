"""How a training step's time grows with the number of domains, the tokens being the same.

    python benchmarks/speed/domains.py
    python benchmarks/speed/domains.py --hidden 512 --json

The same users with as many events each; every event falls on one of the D domains by an even draw,
so a user's history is spread over them all, and the same number of items is split among them.
Everything is on: a gate, tower and start token a domain, LC-NTG, SC-MIM. One step of each D in
every round; `ratio` is the median of 20 domains over that of 2.
"""

import sys
from pathlib import Path
from statistics import median

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import (
    interleaved,
    machine,
    make_parser,
    print_result,
    seconds,
    spread,
    start,
)
from src.io.errors import run_command
from tests.support.step_benches import (
    DOMAIN_ITEMS,
    generated_dataset,
    make_bench,
    paper_settings,
    split_evenly,
    training_lengths,
)

DOMAINS = (1, 2, 3, 5, 10, 20)


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=10)
    parser.add_argument("--hidden", type=int, default=64, help="hidden size (64)")
    parser.add_argument("--batch", type=int, default=128, help="users in the batch (128)")
    parsed = parser.parse_args(arguments)
    process = start(parsed)
    settings = paper_settings(hidden=parsed.hidden, batch_size=parsed.batch)
    lengths, items = training_lengths(parsed.batch), sum(DOMAIN_ITEMS)
    benches = {
        count: make_bench(
            settings,
            generated_dataset(lengths, [1.0] * count, split_evenly(items, count)),
            process,
        )
        for count in DOMAINS
    }
    found = interleaved(
        {
            str(count): lambda step=bench.step: seconds(step, process.device)
            for count, bench in benches.items()
        },
        parsed.rounds,
    )
    medians = {count: median(times) for count, times in found.items()}
    result = {
        "ratio": medians["20"] / medians["2"],
        "hidden": parsed.hidden,
        "tokens": int(lengths.sum()),
        "domains": list(DOMAINS),
        "step_s": list(medians.values()),
        "rounds": found,
        **machine(process),
    }
    rows = [["domains", "step, s: median (least to greatest)", "to 2 domains"]]
    rows += [
        [count, spread(times), f"{medians[count] / medians['2']:.2f}"]
        for count, times in found.items()
    ]
    print_result(result, rows, parsed.json)


if __name__ == "__main__":
    run_command(main)
