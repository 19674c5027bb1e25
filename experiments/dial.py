"""What joining gains on generated logs, beside what it could: the figure of dial.toml.

    python experiments/dial.py --out results/dial_gains

Reads results/dial.csv and dial_differences.csv (`experiments/run.py experiments/specs/dial.toml`),
computes the limits of each of the spec's logs, and writes OUT.csv (one row per log and domain),
OUT.md (one per log) and OUT.png: the gain of each model over one model per domain against that of
the limits, joined − own.
"""

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path

import matplotlib
import pandas as pd
from matplotlib import pyplot

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
from src.config.cli import OneLineParser, build_parser, from_namespace
from src.dataset.generator.interests import InterestConfig, generate
from src.dataset.generator.limits import summarise, target_limits
from src.io.errors import UserError, run_command
from src.io.files import check_output, write_atomically
from src.io.paths import ROOT
from src.report.formatting import number, signed
from src.report.table_files import markdown
from src.report.transfer import figure_style as style

SPEC = ROOT / "experiments" / "specs" / "dial.toml"
ALONE = "sdsr_separate:single"
# {how a row of the differences names a model: how the figure does}
GAINS = {
    "cdsr:cross": "CDSR",
    "syncrec:cross": "SyNCRec, cross path",
    "syncrec:blend": "SyNCRec, blend",
}
COLOURS = dict(zip(GAINS, (style.GREY, style.VERMILION, style.BLUE), strict=True))


def main(words: list[str] | None = None) -> None:
    parser = OneLineParser(description=(__doc__ or "").splitlines()[0], allow_abbrev=False)
    parser.add_argument("--results", type=Path, default=ROOT / "results", metavar="DIR")
    parser.add_argument("--out", type=Path, required=True, help="writes OUT.csv, OUT.md, OUT.png")
    given = parser.parse_args(words)
    for suffix in (".csv", ".md", ".png"):
        check_output(given.out.with_suffix(suffix), "--out")
    gains = measured(given.results / "dial_differences.csv")
    table = pd.concat(limits()).merge(gains, on=["log", "domain"]).round(6)
    write_atomically(given.out.with_suffix(".csv"), lambda path: table.to_csv(path, index=False))
    write_atomically(given.out.with_suffix(".png"), lambda path: draw(table, path))
    text = markdown(*summary(table), left=1)
    write_atomically(
        given.out.with_suffix(".md"), lambda path: path.write_text(text, encoding="utf-8")
    )
    print(text)


def limits() -> Iterator[pd.DataFrame]:
    """One row per domain of each log: log, relatedness, domain, own, joined, possible (joined −
    own), the best NDCG@10 that any ranking can have."""
    logs = tomllib.loads(SPEC.read_text(encoding="utf-8"))["logs"]
    parser = build_parser(InterestConfig, "the generator's flags")
    for log, entry in logs.items():
        flags = entry["generate"][2:]  # after -m and the module
        config = from_namespace(InterestConfig, parser.parse_args(flags))
        table = summarise(config, target_limits(config, *generate(config)))
        yield pd.DataFrame(
            {
                "log": log, "relatedness": config.relatedness[0], "domain": table.domain,
                "own": table.own, "joined": table.joined, "possible": table.joined_minus_own,
            }
        )  # fmt: skip


def measured(path: Path) -> pd.DataFrame:
    """The gains over one model per domain on test: log, model, domain, difference, low, high."""
    if not path.is_file():
        raise UserError(f"{path} does not exist; run {SPEC.relative_to(ROOT)} first")
    table = pd.read_csv(path)
    rows = table[(table.second == ALONE) & (table.split == "test") & (table.metric == "ndcg@10")]
    rows = rows.rename(columns={"first": "model"})
    columns = ["log", "model", "domain", "second_value", "difference", "low", "high"]
    return rows.loc[rows.model.isin(list(GAINS)), columns]


def summary(table: pd.DataFrame) -> tuple[list[str], list[list[str]]]:
    """Head and cells of the table: one row per log, means over the domains."""
    head = [
        "relatedness",
        "limit, own domain",
        "limit, joined",
        "possible gain",
        "one model per domain",
    ]
    cells = []
    for relatedness, rows in table.groupby("relatedness"):
        mean = rows[["own", "joined", "possible", "second_value"]].mean()
        gains = rows.groupby("model").difference.mean()
        cells.append(
            [
                number(relatedness, 2), number(mean.own), number(mean.joined),
                signed(mean.possible), number(mean.second_value),
                *(signed(gains[model]) for model in GAINS),
            ]
        )  # fmt: skip
    return [*head, *(f"{name} gains" for name in GAINS.values())], cells


def draw(table: pd.DataFrame, path: Path) -> None:
    """Measured against possible gain, one point per domain and log."""
    matplotlib.use("Agg")
    figure, axes = pyplot.subplots(1, len(GAINS), figsize=(9.6, 3.2), sharex=True, sharey=True)
    ends = [table.possible.min(), table.possible.max()]
    for axis, (model, name) in zip(axes, GAINS.items(), strict=True):
        rows = table[table.model == model]
        spread = [rows.difference - rows.low, rows.high - rows.difference]
        axis.errorbar(
            rows.possible, rows.difference, yerr=spread, fmt="o", markersize=3.5, linewidth=0.8,
            color=COLOURS[model],
        )  # fmt: skip
        axis.plot(ends, ends, color=style.BLACK, linewidth=0.6)
        axis.axhline(0, color=style.BLACK, linewidth=0.6)
        axis.set(title=name, xlabel="possible gain, NDCG@10")
    axes[0].set_ylabel("gain over one model per domain")
    figure.tight_layout()
    figure.savefig(path, format="png", dpi=130, metadata={"Software": None})
    pyplot.close(figure)


if __name__ == "__main__":
    run_command(main)
