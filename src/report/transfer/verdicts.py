"""The first answers of a data set: which domain gained, was hurt, or cannot be told, and why.

The rows of the box's table, its headline, and what the simple baselines say. Everything is made
from the tables of levels and differences.
"""

from dataclasses import dataclass

import pandas as pd

from src.config.modes import JOINT_MODE
from src.report.finished_runs import MEANS
from src.report.formatting import (
    count_of,
    interval,
    join_and,
    join_some,
    level,
    number,
    p_value,
    relative_change,
    signed,
)
from src.report.training_ends import CANNOT_TELL
from src.report.transfer.data_sets import DataSet
from src.report.transfer.differences import GAINED, HURT, UNSURE, WITHHELD, of_pair, outcome

MACRO = "mean over domains"
METRIC_WORDS = {
    "ndcg": "1 if the item that the user chose next is the first of the {k} in the list, less the "
    "lower it stands, 0 if it is missing",
    "hr": "the share of users whose next item is among the first {k}",
    "mrr": "1 divided by the place of the user's next item",
}


@dataclass(frozen=True)
class Verdict:
    """A row of the box's table: a domain, or the mean over domains."""

    name: str
    outcome: str
    words: str  # the outcome with its reason
    alone: str
    joined: str
    change: str  # relative
    evidence: str  # difference, interval and p
    simple: list[str]  # levels of the count models
    detectable: str  # the true difference that such data would show in 80 % of the cases
    targets: int

    def text(self, alone: str, joined: str) -> str:
        """The row as a sentence; `alone` and `joined` are the labels of the two models."""
        size = f"; detectable: {self.detectable}" if self.outcome == UNSURE else ""
        return (
            f"{self.name}: {self.alone} {alone}, {self.joined} {joined}: {self.change} "
            f"({self.evidence}{size}): {self.words}"
        )


def verdicts(data: DataSet, levels: pd.DataFrame, differences: pd.DataFrame) -> list[Verdict]:
    """One row per domain that has targets, then the mean over domains."""
    rows = of_pair(differences, *data.transfer_pair)
    simple = levels.set_index(["ranker", "domain"]).value
    return [
        Verdict(
            name=MACRO if row.domain == "macro" else row.domain,
            outcome=outcome(row),
            words=outcome_words(row),
            alone=level(row.second_value),
            joined=level(row.first_value),
            change=relative_change(row.relative),
            evidence=evidence(row),
            simple=[level(simple[name, row.domain]) for name in data.count_models],
            detectable=number(row.detectable),
            targets=row.n,
        )
        for row in rows[rows.domain != "users"].itertuples()
    ]


def evidence(row) -> str:
    """Difference, interval and p of a row of `differences`."""
    p = p_value(row.p if row.domain in MEANS else row.p_holm)
    return f"{signed(row.difference)}, {interval(row.low, row.high)}, {p}"


def outcome_words(row) -> str:
    """The outcome of a row of `differences`, with the models because of which none can be told."""
    kind = outcome(row)
    if kind == WITHHELD:
        return f"{CANNOT_TELL} ({row.untrained})"
    if kind == UNSURE:
        return f"cannot tell: {UNSURE}"
    return kind


def headline(rows: list[Verdict]) -> str:
    """Which domains gained, were hurt, or cannot be told."""
    domains = [row for row in rows if row.name != MACRO]
    parts = []
    for words, kinds in (("Gained", {GAINED}), ("Hurt", {HURT})):
        chosen = [f"{row.name} ({row.change})" for row in domains if row.outcome in kinds]
        parts.append(f"{words}: {join_some(chosen, 8) or 'no domain'}.")
    unsure = [row.name for row in domains if row.outcome in {UNSURE, WITHHELD}]
    if unsure:
        parts.append(f"Cannot tell: {join_some(unsure, 8)}.")
    return " ".join(parts)


def explained_metric(metric: str) -> str:
    """What a metric is, for somebody who does not know it."""
    kind, _, cutoff = metric.partition("@")
    words = METRIC_WORDS.get(kind, "").format(k=cutoff)
    return f"{metric.upper()}: {words}." if words else f"{metric.upper()}."


def paired_sentence(data: DataSet, differences: pd.DataFrame) -> str:
    """The second answer: joined against the other form of "on its own"."""
    (other,) = data.baselines[1:]
    parts: dict[str, list[str]] = {}
    for row in of_pair(differences, JOINT_MODE, other).itertuples():
        if row.domain not in MEANS:
            parts.setdefault(_short_outcome(row), []).append(
                f"{row.domain} {level(row.second_value)} to {level(row.first_value)} "
                f"({relative_change(row.relative)}, {p_value(row.p_holm)})"
            )
    macro = of_pair(differences, JOINT_MODE, other)
    (row,) = macro[macro.domain == "macro"].itertuples()
    each = [f"{words}: {join_some(names, 8)}" for words, names in parts.items()]
    return (
        f"{'; '.join(each)}; {MACRO} {level(row.second_value)} to {level(row.first_value)} "
        f"({relative_change(row.relative)}, {evidence(row)})."
    )


def _short_outcome(row) -> str:
    kind = outcome(row)
    return CANNOT_TELL if kind == WITHHELD else kind


def count_model_sentences(data: DataSet, levels: pd.DataFrame, differences: pd.DataFrame) -> str:
    """Where a count model, which is a look-up table, is above a trained model."""
    if not data.count_models:
        return "The runs have none."
    value = levels.set_index(["ranker", "domain"]).value
    models, wins = (JOINT_MODE, data.baseline), []
    domains = [name for name in levels.domain.unique() if name != "users"]
    for domain in domains:
        best = max(data.count_models, key=lambda name: value[name, domain])
        beaten = [key for key in models if value[best, domain] > value[key, domain]]
        if beaten:
            where = f"the {MACRO}" if domain == "macro" else domain
            phrases = [_win(data, differences, key, best, domain) for key in beaten]
            wins.append(f"in {where} {best} ({level(value[best, domain])}) {join_and(phrases)}")
    names = join_and(list(data.count_models))
    labels = " or ".join(data.phrase(key, one=True) for key in models)
    if not wins:
        return f"None of them ({names}) is above {labels} in any domain."
    more = f"; and in {count_of(len(wins) - 8, 'more domain')}" if len(wins) > 8 else ""
    return f"A look-up table wins: {'; '.join(wins[:8])}{more}."


def _win(data: DataSet, differences: pd.DataFrame, key: str, name: str, domain: str) -> str:
    rows = of_pair(differences, key, name)
    (row,) = rows[rows.domain == domain].itertuples()
    p = row.p if domain in MEANS else row.p_holm
    kind = outcome(row)
    verb = "beats" if kind == HURT else "is above"
    why = {UNSURE: ", not significantly", WITHHELD: ", which was not trained to the end"}.get(
        kind, ""
    )
    name = data.phrase(key, one=domain not in MEANS)
    return f"{verb} {name} ({level(row.first_value)}, {p_value(p)}){why}"
