"""Paired differences between the ABXI runs, on the same targets.

    python experiments/abxi_differences.py runs/abxi --out results/abxi_differences

The macro mean of NDCG@10 under `full`; its 95 % interval is normal, from the variance of the paired
differences over users in each domain. Writes OUT.md.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.arguments import OneLineParser
from src.errors import UserError, run_command
from src.evaluation.metrics import target_metrics
from utils import write_atomically

# (run, path) against (run, path)
PAIRS = [
    (("cdsr-{}", "cross"), ("sdsr_separate-{}", "single")),
    (("cdsr-{}", "cross"), ("sdsr-{}", "single")),
    (("syncrec-{}", "cross"), ("cdsr-{}", "cross")),
    (("syncrec-{}", "cross"), ("syncrec-{}", "single")),
    (("syncrec-{}", "single"), ("sdsr-{}", "single")),
    (("cdsr-{}", "cross"), ("cdsr-{}", "markov")),
]


def ndcg(runs: Path, name: str, path: str) -> pd.DataFrame:
    """[n] domain and NDCG@10 of every test target, by user."""
    file = runs / name / "ranks.parquet"
    if not file.is_file():
        raise UserError(f"{file} does not exist; run experiments/abxi.sh")
    wanted = [("split", "==", "test"), ("protocol", "==", "full"), ("path", "==", path)]
    ranks = pd.read_parquet(file, filters=wanted).set_index("user_id").sort_index()
    values = target_metrics(ranks.better.to_numpy(), ranks.tied.to_numpy())["ndcg@10"]
    return pd.DataFrame({"domain": ranks.domain, "value": values})


def macro(values: pd.Series, domains: pd.Series) -> tuple[float, float]:
    """Macro mean over domains and its standard error."""
    groups = values.groupby(domains)
    errors = groups.var() / groups.size()
    return float(groups.mean().mean()), float(np.sqrt(errors.sum()) / len(errors))


def main() -> None:
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("runs", type=Path, help="folder of the runs")
    parser.add_argument("--out", type=Path, required=True, help="OUT.md")
    arguments = parser.parse_args()
    lines = [
        "| loss | first | second | first − second | 95 % interval |",
        "|---|---|---|---:|---:|",
    ]
    for loss in ("ce", "bce"):
        for pair in PAIRS:
            names = [(run.format(loss), path) for run, path in pair]
            first, second = (ndcg(arguments.runs, *name) for name in names)
            mean, error = macro(first.value - second.value, first.domain)
            low, high = mean - 1.96 * error, mean + 1.96 * error
            cells = [f"{run}, {path}" for run, path in names]
            lines.append(
                f"| {loss} | {' | '.join(cells)} | {mean:+.4f} | {low:+.4f}, {high:+.4f} |"
            )
    text = "\n".join(lines) + "\n"
    write_atomically(arguments.out.with_suffix(".md"), lambda path: path.write_text(text))
    print(text)


if __name__ == "__main__":
    run_command(main)
