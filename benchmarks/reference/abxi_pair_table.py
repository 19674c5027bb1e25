"""The table of abxi_pair.sh: ABXI here and in its authors' README, on the same pair of domains.

    python benchmarks/reference/abxi_pair_table.py RUN [--json FILE]

RUN is the folder of the finished run. Counts stand beside it, under each protocol.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.config.cli import OneLineParser
from src.io.errors import run_command
from src.io.files import write_json
from src.report.finished_runs import read_runs

# https://github.com/DiMarzioBian/ABXI, README: means and deviations of five seeds
README = {
    "Beauty": {"hr@5": (0.2754, 0.0076), "hr@10": (0.3778, 0.0027), "ndcg@10": (0.2200, 0.0035)},
    "Electronics": {
        "hr@5": (0.1574, 0.0022), "hr@10": (0.2328, 0.0059), "ndcg@10": (0.1340, 0.0017),
    },
}  # fmt: skip
COUNTS = ("recent", "covisit", "markov")
PROTOCOLS = ("sampled-unseen", "sampled", "full-unseen", "full")


def main(arguments: list[str] | None = None) -> None:
    parser = OneLineParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("run", type=Path, help="the finished run")
    parser.add_argument("--json", type=Path, help="write the rows and the facts there as well")
    options = parser.parse_args(arguments)
    (run,) = read_runs([options.run])
    rows = [
        {
            "path": path,
            "domain": domain,
            "metric": metric,
            "readme": mean,
            "readme_deviation": deviation,
            **{name: run.scores("test", name, path)[domain][metric] for name in PROTOCOLS},
        }
        for path in ("cross", *COUNTS)
        for domain, metrics in README.items()
        for metric, (mean, deviation) in metrics.items()
    ]
    print(f"| path | domain | metric | README | {' | '.join(PROTOCOLS)} |")
    print("|---|---|---|---:|" + "---:|" * len(PROTOCOLS))
    for row in rows:
        values = " | ".join(f"{row[name]:.4f}" for name in PROTOCOLS)
        theirs = f"{row['readme']:.4f} ± {row['readme_deviation']:.4f}"
        print(f"| {row['path']} | {row['domain']} | {row['metric']} | {theirs} | {values} |")
    if options.json:
        facts = {"settings": run.settings, "data_sha256": run.data}
        write_json(options.json, {"rows": rows, **facts}, levels=2)


if __name__ == "__main__":
    run_command(main)
