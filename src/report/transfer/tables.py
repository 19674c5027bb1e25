"""The tables of the negative-transfer report: what a person sees, and every value for a file."""

from dataclasses import dataclass

import pandas as pd

from src.report.compared_paths import DataSet
from src.report.gamma_claim import Correlation
from src.report.outcomes import last_epochs
from src.report.output import markdown_row
from src.report.wording import interval, number, percent, signed

# Settings that are shown even where all models share them.
ALWAYS = (
    "loss", "softmax_items", "hidden", "layers", "heads", "experts_cross", "experts_single",
    "max_len", "lr", "batch_size", "max_epochs", "patience_steps", "lc_ntg", "lc_ntg_tau",
    "lc_ntg_floor", "target_domain_query", "sdsr_context", "select_metric", "ties",
)  # fmt: skip


@dataclass(frozen=True)
class Table:
    """A table of the page: `shown` holds texts; `values` is what the CSV file holds."""

    name: str
    title: str
    shown: pd.DataFrame
    values: pd.DataFrame

    def markdown(self) -> str:
        head = [markdown_row(self.shown.columns), "|" + "---|" * len(self.shown.columns)]
        rows = [markdown_row(row) for row in self.shown.itertuples(index=False)]
        return "\n".join([self.title, "", *head, *rows]) + "\n"


def _plain(name: str, title: str, shown: pd.DataFrame) -> Table:
    """A table whose file holds what is shown."""
    return Table(name, title, shown, shown)


# ---------------------------------------------------------------- measured on test


def levels_table(data: DataSet, levels: pd.DataFrame) -> Table:
    shown = levels.drop_duplicates("domain")[["domain", "n"]]
    for key in data.sources:
        own = levels[levels.source == key]
        shown[data.label(key)] = [
            f"{_estimate(row)}"
            + (f", seeds ± {number(row.seed_deviation)}" if row.seeds > 1 else "")
            for row in own.itertuples()
        ]
    return Table("levels", "By domain, with 95 % intervals", shown, levels)


def _estimate(row) -> str:
    return f"{number(row.value)} ({number(row.low)} to {number(row.high)})"


def differences_table(data: DataSet, differences: pd.DataFrame) -> Table:
    shown = _differences(data, differences)
    shown["plain p"] = differences.p.map(number)
    shown["found 4 times in 5"] = differences.detectable.map(number)
    shown["users"] = differences.users
    shown["seeds of this sign"] = [
        f"{row.same_sign} of {row.seeds}" for row in differences.itertuples()
    ]
    return Table("differences", "Paired differences; Holm over the domains", shown, differences)


def _differences(data: DataSet, rows: pd.DataFrame, what: str = "domain") -> pd.DataFrame:
    """The columns that all tables of differences have; `what` names the column of groups."""
    pairs = zip(rows["first"], rows["second"], strict=True)
    return pd.DataFrame(
        {
            "difference": [data.label(*pair) for pair in pairs],
            what: rows[what].to_numpy(),
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
    for key in data.sources:
        own = levels[levels.source == key]
        shown[data.label(key)] = [_estimate(row) for row in own.itertuples()]
    pairs = _differences(data, differences, "group")
    pairs.insert(0, "grouping", differences.grouping)
    by_domain = domains.pivot_table(
        index=[*keys, "domain", "n"], columns="source", values="value", sort=False
    ).reset_index()
    by_domain = by_domain.rename(columns={key: data.label(key) for key in data.sources})
    labels = [data.label(key) for key in data.sources]
    by_domain[labels] = by_domain[labels].map(number)
    return [
        Table("groups", "By group of targets, over all domains", shown, levels),
        Table(
            "group_differences", "Differences by group; Holm over the groups", pairs, differences
        ),
        Table("group_domains", "By group and domain", by_domain, domains),
    ]


def protocols_table(data: DataSet, protocols: pd.DataFrame) -> Table:
    order = list(protocols.domain.unique())
    wide = protocols.pivot_table(
        index=["protocol", "source"], columns="domain", values="value", sort=False
    )
    shown = wide[order].map(number).reset_index()
    shown["source"] = [data.label(key) if key in data.sources else key for key in shown["source"]]
    return Table("protocols", "Every candidate protocol of the runs", shown, protocols)


def ties_table(data: DataSet, ties: pd.DataFrame) -> Table:
    wide = ties.pivot_table(index="source", columns="ties", values="value", sort=False)
    shown = wide.map(number).reset_index()
    shown["source"] = shown["source"].map(data.label)
    return Table("ties", "Mean of the domains by what a tie counts", shown, ties)


def beyond_table(data: DataSet, beyond: pd.DataFrame) -> Table:
    wide = beyond.pivot_table(
        index=["domain", "metric"], columns="source", values="value", sort=False
    )
    shown = wide.map(lambda value: number(value, 3)).reset_index()
    shown = shown.rename(columns={key: data.label(key) for key in data.sources})
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
    return Table("gamma", "γ, φ and weight after the last epoch", shown, trajectories)


def curves_table(data: DataSet, curves: pd.DataFrame) -> Table:
    best = curves.loc[curves.groupby(["source", "seed", "domain"], sort=False).value.idxmax()]
    shown = best[["domain", "seed", "epoch"]].assign(value=best.value.map(number))
    shown.insert(0, "model and path", best.source.map(data.label))
    title = f"Best epoch by {best.metric.iloc[0].upper()} on validation"
    return Table("curves", title, shown, curves)


def claim_tables(points: pd.DataFrame, found: dict[str, Correlation]) -> list[Table]:
    values = pd.DataFrame(
        [
            (name, one.rho, one.low, one.high, one.points, one.clusters, one.used, one.verdict)
            for name, one in found.items()
        ],
        columns=["what", "rho", "low", "high", "points", "domains", "resamples", "verdict"],
    )
    shown = values.rename(columns={"what": "rank correlation with Δ of", "rho": "ρ"})
    numbers = ["ρ", "low", "high"]
    shown[numbers] = shown[numbers].map(lambda value: signed(value, 2))
    digits = dict.fromkeys(("share", "share_last", "phi"), 3) | {"transfer": 4}
    texts = points.assign(
        **{name: points[name].map(lambda v, d=d: signed(v, d)) for name, d in digits.items()}
    ).rename(columns={"share": "D·γ", "share_last": "D·γ, last epoch", "phi": "φ", "transfer": "Δ"})
    return [
        Table("claim", "Rank correlations with Δ, bootstrap over domains", shown, values),
        Table("claim_points", "The points", texts, points),
    ]


# ---------------------------------------------------------------- data and runs


def card_tables(card: dict) -> list[Table]:
    counts = pd.DataFrame([{"domain": name, **row} for name, row in card["domains"].items()])
    overlap = pd.DataFrame(
        [
            {"domain": f"{name} ({place})"}
            | {f"({column})": shared for column, shared in enumerate(row.values(), 1)}
            for place, (name, row) in enumerate(card["overlap"].items(), 1)
        ]
    )
    facts = pd.DataFrame(_card_facts(card), columns=["what", "value"])
    return [
        _plain("card", "Data card", facts),
        _plain("domains", "Domains of the log", counts),
        _plain("overlap", "Users active in both domains", overlap),
    ]


def _card_facts(card: dict) -> list[tuple[str, str]]:
    """The card's entries that are not tables of their own; what an old card lacks is left out."""
    split, facts = card["split"], [(f"note: {key}", text) for key, text in card["notes"].items()]
    facts += [(key, str(card[key])) for key in ("source", "cutoff") if key in card]
    facts += [(key, f"{card[key]:,}") for key in ("users", "items", "events")]
    facts.append(("order of events of equal time", card["tie_order"]))
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
            "mode": run.mode,
            "seed": run.seed,
            "commit": (run.environment.get("commit") or "unknown")[:12]
            + (" + changes" if run.environment.get("dirty") else ""),
            "device": run.environment.get("device", "unknown"),
        }
        for run in data.runs
    ]
    return _plain("runs", "Runs", pd.DataFrame(rows))


def differing(data: DataSet) -> list[str]:
    """The settings, other than the mode, that the models do not share."""
    every = [model.runs[0].settings for model in data.models.values()]
    return [
        name
        for name in dict.fromkeys(name for one in every for name in one)
        if name != "mode" and any(one.get(name) != every[0].get(name) for one in every)
    ]


def settings_table(data: DataSet) -> Table:
    names = list(dict.fromkeys([*differing(data), *ALWAYS]))
    rows = [
        {"setting": name}
        | {mode: str(model.runs[0].settings.get(name, "–")) for mode, model in data.models.items()}
        for name in names
    ]
    return _plain("settings", "Settings that matter, and all that differ", pd.DataFrame(rows))
