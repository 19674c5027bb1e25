"""The table of quality.sh: this project's model against an independent one, on the same targets.

    python benchmarks/reference/quality_table.py --ours RUN … --theirs FILE … [--json FILE]

RUN is a finished run folder per seed, FILE the record of an independent run per seed. The value of
a target is the mean over a side's seeds of its NDCG@10; differences, intervals and p-values are
those of `report.py compare`.
"""

import json
import sys
from dataclasses import asdict
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from src.config.cli import OneLineParser
from src.evaluation.metrics import target_metrics
from src.io.errors import UserError, run_command
from src.io.files import write_json
from src.report.finished_runs import domain_means, read_runs
from src.report.seed_groups import SeedGroup, group_seeds
from src.statistics.comparison import compare

METRIC = "ndcg@10"
BY_SEED = {"seed", "cpu_seconds", "epochs", "best_epoch", "valid", "test", "better", "tied"}
RANKS = {"better", "tied"}
SHOWN = (
    "model", "mode", "softmax_items", "hidden", "dropout", "max_len", "batch_size", "lr",
    "warmup_steps", "clip_norm", "patience_epochs",
)  # fmt: skip
OF_MODEL = {
    "sasrec": ("layers", "heads", "positions"),
    "gru4rec": ("gru4rec_layers", "gru4rec_output"),
}


def read_theirs(paths: list[Path], sha256: str) -> list[dict]:
    """The records of independent runs on the data with this hash, that differ in the seed alone."""
    records = [json.loads(path.read_text()) for path in paths]
    fixed = [{name: one[name] for name in one.keys() - BY_SEED} for one in records]
    for path, settings in zip(paths, fixed, strict=True):
        if settings["data_sha256"] != sha256:
            raise UserError(f"{path} is of other data than the runs of --ours")
        if settings != fixed[0]:
            raise UserError(f"{path} differs from {paths[0]} in more than the seed")
    return records


def read_ours(folders: list[Path]) -> SeedGroup:
    """The runs, which must differ in the seed alone."""
    groups = group_seeds(read_runs(folders))
    if len(groups) > 1:
        raise UserError("the runs of --ours differ in more than the seed")
    return groups[0]


def rows_of(ours: pd.DataFrame, theirs: list[dict], names: list[str]) -> list[dict]:
    """One row a domain, for the macro mean and for all targets (`users`)."""
    values = [target_metrics(one["better"], one["tied"])[METRIC] for one in theirs]
    other = ours.assign(value=np.mean(values, axis=0))
    pairs = compare(
        ours.value.to_numpy(),
        other.value.to_numpy(),
        pd.factorize(ours.user_id)[0],
        ours.domain.map(names.index).to_numpy(),
        names,
    )
    figures = [domain_means(frame) for frame in (ours, other)]
    return [
        {
            "domain": name,
            "ours": figures[0][name],
            "theirs": figures[1][name],
            **{key: value for key, value in asdict(pair).items() if key != "error"},
            "half_width": (pair.high - pair.low) / 2 / figures[1][name],
        }
        for name, pair in pairs.items()
    ]


def facts_of(group: SeedGroup) -> dict:
    """What the record says of our runs: settings, versions, and the end and figures of each."""
    run = group.runs[0]
    path = run.default_path
    return {
        **{name: run.settings[name] for name in (*SHOWN, *OF_MODEL[run.model])},
        "packages": run.environment.get("packages"),
        "data_sha256": run.data,
        "runs": [
            {
                "seed": one.run.seed,
                "epochs": one.end.epochs,
                "best_epoch": one.end.best_epoch,
                "valid": one.run.scores("valid", "full", path)["macro"][METRIC],
                "test": one.run.scores("test", "full", path)["macro"][METRIC],
            }
            for one in group.ends
        ],
    }


def facts_of_theirs(records: list[dict]) -> dict:
    """The same of the independent runs."""
    fixed = {name: records[0][name] for name in records[0] if name not in BY_SEED}
    own = [{name: one[name] for name in one if name in BY_SEED - RANKS} for one in records]
    return fixed | {"runs": own}


def table(rows: list[dict], name: str) -> str:
    """The rows as a Markdown table."""
    lines = [
        f"| domain | ours | {name} | difference | 95 % interval | half-width | p | targets |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for row in rows:
        lines.append(
            f"| {row['domain']} | {row['ours']:.4f} | {row['theirs']:.4f} "
            f"| {row['difference']:+.4f} | {row['low']:+.4f} to {row['high']:+.4f} "
            f"| {row['half_width']:.1%} | {row['p']:.3f} | {row['targets']:,} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = OneLineParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument("--ours", type=Path, nargs="+", required=True, help="run folders")
    parser.add_argument("--theirs", type=Path, nargs="+", required=True, help="records")
    parser.add_argument("--json", type=Path, help="write the rows and the facts there as well")
    options = parser.parse_args(arguments)
    group = read_ours(options.ours)
    run = group.runs[0]
    theirs = read_theirs(options.theirs, run.data)
    values = group.values("test", "full", run.default_path, METRIC)
    rows = rows_of(values, theirs, run.domains)
    print(table(rows, f"{theirs[0]['library']} {theirs[0]['version']}"))
    if options.json:
        facts = {"ours": facts_of(group), "theirs": facts_of_theirs(theirs)}
        write_json(options.json, {"metric": METRIC, "rows": rows, **facts}, levels=2)


if __name__ == "__main__":
    run_command(main)
