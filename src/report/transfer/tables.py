"""The tables of the negative-transfer report: formatted for the page, in full for the files."""

from dataclasses import dataclass

import pandas as pd

from src.config.modes import MODES
from src.report.formatting import interval, level, number, percent, relative_change, signed
from src.report.table_files import markdown_row
from src.report.transfer.data_sets import DataSet
from src.report.transfer.gamma_correlation import Correlation
from src.report.transfer.training_history import last_epochs
from src.report.transfer.verdicts import outcome_words

# Settings that are shown even if all models share them.
ALWAYS = (
    "loss", "softmax_items", "hidden", "layers", "heads", "experts_cross", "experts_single",
    "max_len", "lr", "batch_size", "max_epochs", "patience_steps", "weighting", "lc_ntg", "gap",
    "lc_ntg_tau", "lc_ntg_floor", "target_domain_query", "sdsr_context", "select_metric", "ties",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of the page: `shown` is the formatted table, `values` the content of the CSV file."""

    name: str
    title: str
    shown: pd.DataFrame
    values: pd.DataFrame

    def markdown(self) -> str:
        head = [markdown_row(self.shown.columns), "|" + "---|" * len(self.shown.columns)]
        rows = [markdown_row(row) for row in self.shown.itertuples(index=False)]
        return "\n".join([self.title, "", *head, *rows]) + "\n"


def _plain(name: str, title: str, shown: pd.DataFrame) -> Table:
    """A table whose CSV file holds what is shown."""
    return Table(name, title, shown, shown)


# ---------------------------------------------------------------- measured on test


def levels_table(data: DataSet, levels: pd.DataFrame) -> Table:
    shown = levels.drop_duplicates("domain")[["domain", "n"]]
    for key in data.columns:
        rows = levels[levels.ranker == key]
        shown[data.label(key)] = [
            f"{_estimate(row)}"
            + (f", seeds ± {number(row.seed_deviation)}" if row.seeds > 1 else "")
            for row in rows.itertuples()
        ]
    return Table("levels", "Metric by domain, with 95 % intervals", shown, levels)


def _estimate(row) -> str:
    return f"{number(row.value)} ({number(row.low)} to {number(row.high)})"


def differences_table(data: DataSet, differences: pd.DataFrame) -> Table:
    shown = _differences(data, differences)
    shown["verdict"] = [outcome_words(row) for row in differences.itertuples()]
    shown["p (uncorrected)"] = differences.p.map(number)
    shown["detectable"] = differences.detectable.map(number)
    shown["users"] = differences.users
    shown["seeds with this sign"] = [
        f"{row.same_sign} of {row.seeds}" for row in differences.itertuples()
    ]
    return Table(
        "differences",
        "Paired differences by domain",
        shown,
        differences,
    )


def _differences(data: DataSet, rows: pd.DataFrame, by: str = "domain") -> pd.DataFrame:
    """The columns that all tables of differences share; `by`: the column of domains or groups."""
    pairs = zip(rows["first"], rows["second"], strict=True)
    return pd.DataFrame(
        {
            "difference": [data.label(*pair) for pair in pairs],
            by: rows[by].to_numpy(),
            "first": rows.first_value.map(level).to_numpy(),
            "second": rows.second_value.map(level).to_numpy(),
            "change": rows.relative.map(relative_change).to_numpy(),
            "value": rows.difference.map(signed).to_numpy(),
            "95 % interval": [interval(row.low, row.high) for row in rows.itertuples()],
            "p (Holm)": rows.p_holm.map(number).to_numpy(),
            "targets": rows.n.to_numpy(),
        },
        index=rows.index,
    )


def group_tables(
    data: DataSet, levels: pd.DataFrame, differences: pd.DataFrame, domains: pd.DataFrame
) -> list[Table]:
    keys = ["grouping", "group"]
    shown = levels.drop_duplicates(keys)[[*keys, "n"]]
    for key in data.rankers:
        rows = levels[levels.ranker == key]
        shown[data.label(key)] = [_estimate(row) for row in rows.itertuples()]
    pairs = _differences(data, differences, "group")
    pairs.insert(0, "grouping", differences.grouping)
    by_domain = domains.pivot_table(
        index=[*keys, "domain", "n"], columns="ranker", values="value", sort=False
    ).reset_index()
    by_domain = by_domain.rename(columns={key: data.label(key) for key in data.rankers})
    labels = [data.label(key) for key in data.rankers]
    by_domain[labels] = by_domain[labels].map(number)
    return [
        Table("groups", "Metric by group of targets", shown, levels),
        Table(
            "group_differences",
            "Differences by group",
            pairs,
            differences,
        ),
        Table("group_domains", "Metric by group and domain", by_domain, domains),
    ]


def protocols_table(data: DataSet, protocols: pd.DataFrame) -> Table:
    order = list(protocols.domain.unique())
    wide = protocols.pivot_table(
        index=["protocol", "ranker"], columns="domain", values="value", sort=False
    )
    shown = wide[order].map(number).reset_index()
    shown["ranker"] = [data.label(key) if key in data.rankers else key for key in shown["ranker"]]
    return Table("protocols", "Metric by candidate protocol", shown, protocols)


def ties_table(data: DataSet, ties: pd.DataFrame) -> Table:
    wide = ties.pivot_table(index="ranker", columns="ties", values="value", sort=False)
    shown = wide.map(number).reset_index()
    shown["ranker"] = shown["ranker"].map(data.label)
    return Table("ties", "Mean over domains under each tie policy", shown, ties)


def beyond_table(data: DataSet, beyond: pd.DataFrame) -> Table:
    wide = beyond.pivot_table(
        index=["domain", "metric"], columns="ranker", values="value", sort=False
    )
    shown = wide.map(lambda value: number(value, 3)).reset_index()
    shown = shown.rename(columns={key: data.label(key) for key in data.rankers})
    return Table("beyond_accuracy", "Coverage and popularity of the top 10", shown, beyond)


# ---------------------------------------------------------------- training


def trajectory_table(trajectories: pd.DataFrame) -> Table:
    ends = last_epochs(trajectories)
    shown = ends[["domain", "seed", "epoch"]].assign(
        **{
            "D·γ": ends.share.map(lambda value: number(value, 3)),
            "φ": ends.phi.map(lambda value: signed(value, 3)),
            "weight": ends.weight.map(lambda value: number(value, 3)),
        }
    )
    return Table("gamma", "γ, φ and weight at the last epoch", shown, trajectories)


def curves_table(data: DataSet, curves: pd.DataFrame) -> Table:
    best = curves.loc[curves.groupby(["ranker", "seed", "domain"], sort=False).value.idxmax()]
    shown = best[["domain", "seed", "epoch"]].assign(value=best.value.map(number))
    shown.insert(0, "ranker", best.ranker.map(data.label))
    title = f"Best epoch by validation {best.metric.iloc[0].upper()}"
    return Table("curves", title, shown, curves)


def correlation_tables(points: pd.DataFrame, results: dict[str, Correlation]) -> list[Table]:
    values = pd.DataFrame(
        [
            (name, one.rho, one.low, one.high, one.points, one.clusters, one.used, one.verdict)
            for name, one in results.items()
        ],
        columns=["what", "rho", "low", "high", "points", "domains", "resamples", "verdict"],
    )
    shown = values.rename(columns={"what": "predictor of Δ", "rho": "ρ"})
    numbers = ["ρ", "low", "high"]
    shown[numbers] = shown[numbers].map(lambda value: signed(value, 2))
    digits = dict.fromkeys(("share", "share_last", "phi"), 3)
    digits |= dict.fromkeys(("transfer", "transfer_paired"), 4)
    texts = points.assign(
        **{name: points[name].map(lambda v, d=d: signed(v, d)) for name, d in digits.items()}
    ).rename(
        columns={
            "share": "D·γ", "share_last": "D·γ, last epoch", "phi": "φ", "transfer": "Δ",
            "transfer_paired": "paired Δ",
        }
    )  # fmt: skip
    return [
        Table(
            "claim",
            "Rank correlations with Δ; intervals from a bootstrap over domains",
            shown,
            values,
        ),
        Table("claim_points", "Points of the correlation", texts, points),
    ]


# ---------------------------------------------------------------- data and runs


def card_tables(card: dict) -> list[Table]:
    counts = pd.DataFrame([{"domain": name, **row} for name, row in card["domains"].items()])
    overlap = pd.DataFrame(
        [
            {"domain": f"{name} ({number})"}
            | {f"({column})": shared for column, shared in enumerate(row.values(), 1)}
            for number, (name, row) in enumerate(card["overlap"].items(), 1)
        ]
    )
    facts = pd.DataFrame(_card_facts(card), columns=["fact", "value"])
    return [
        _plain("card", "Data card", facts),
        _plain("domains", "Domains of the log", counts),
        _plain("overlap", "Users active in both domains", overlap),
    ]


def _card_facts(card: dict) -> list[tuple[str, str]]:
    """The entries of the card without tables of their own, as far as the card has them."""
    split, facts = card["split"], [(f"note: {key}", text) for key, text in card["notes"].items()]
    facts += [(key, str(card[key])) for key in ("source", "cutoff") if key in card]
    facts += [(key, f"{card[key]:,}") for key in ("users", "items", "events")]
    facts.append(("order of events with equal times", card["tie_order"]))
    facts.append(("split", split["protocol"]))
    facts += [
        (key.replace("_", " "), f"{split[key]:,}")
        for key in ("valid_events", "test_events", "cold_test_items")
    ]
    for key, count in card.get("audit", {}).items():
        name = f"audit: {key.replace('_', ' ')}"
        facts.append((name, f"{count['events']:,} ({percent(count['share'])})"))
    for reason, count in card.get("dropped", {}).items():
        facts.append((f"dropped: {reason}", f"{count:,}"))
    return [*facts, ("sha256", card["sha256"])]


def runs_table(data: DataSet) -> Table:
    rows = [
        {
            "run": run.name,
            "model": run.model,
            "mode": run.mode,
            "seed": run.seed,
            "commit": (run.environment.get("commit") or "unknown")[:12]
            + (" + changes" if run.environment.get("dirty") else ""),
            "device": run.environment.get("device", "unknown"),
        }
        for run in data.runs
    ]
    return _plain("runs", "Runs", pd.DataFrame(rows))


def endings_table(data: DataSet) -> Table:
    """How the training of each model ended, and whether it was trained to the end."""
    columns = [
        "run", "seed", "domain", "epochs", "steps", "best epoch", "warm-up steps", "ended by",
        "rise", "standard error", "error is a bound", "trained to the end",
    ]  # fmt: skip
    rows = [
        (one.run.name, one.run.seed, one.end.domain or "all", one.end.epochs, one.end.steps,
         one.end.best_epoch, one.end.warmup, "max_epochs" if one.end.at_limit else "patience",
         one.end.rise, one.error, one.bounded, one.fault or "yes")
        for group in data.groups.values() for one in group.ends
    ]  # fmt: skip
    values = pd.DataFrame(rows, columns=columns)
    shown = values.assign(
        **{name: values[name].map(number) for name in ("rise", "standard error")},
        **{"error is a bound": values["error is a bound"].map({True: "yes", False: "no"})},
    )
    return Table("training", "How each training ended", shown, values)


def differing(data: DataSet) -> list[str]:
    """The settings, other than the mode, in which the models differ."""
    every = [group.runs[0].settings for group in data.groups.values()]
    both_views = [one for one in every if len(MODES[one["mode"]].paths) == 2]

    def differs(name: str) -> bool:
        compared = both_views if name == "gap" else every  # one view alone has no gap
        return any(one.get(name) != compared[0].get(name) for one in compared)

    names = dict.fromkeys(name for one in every for name in one)
    return [name for name in names if name != "mode" and differs(name)]


def settings_table(data: DataSet) -> Table:
    """The settings in which the models differ, then those of ALWAYS that the runs have."""
    settings = {mode: group.runs[0].settings for mode, group in data.groups.items()}
    known = [name for name in ALWAYS if any(name in one for one in settings.values())]
    rows = [
        {"setting": name} | {mode: str(one.get(name, "–")) for mode, one in settings.items()}
        for name in dict.fromkeys([*differing(data), *known])
    ]
    return _plain("settings", "Main settings, and all that differ", pd.DataFrame(rows))
