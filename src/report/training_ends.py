"""Whether compared models were trained to the end, and with equal budgets.

One rule (src/training/convergence.py) for the box of the transfer report, `compare` and the tables.
Where a model breaks it, no verdict is drawn from a difference.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from src.io.errors import UserError
from src.report.finished_runs import MEANS, Run
from src.report.formatting import join_and
from src.training.convergence import TrainingEnd, training_ends

CANNOT_TELL = "cannot tell: not trained to the end"
# The settings that are a model's budget, with the words of an unequal one
BUDGET = {
    "max_epochs": "epochs",
    "min_steps": "least steps",
    "lr": "learning rate",
    "lr_schedule": "schedule",
    "warmup_steps": "warm-up steps",
    "warmup_epochs": "warm-up epochs",
    "patience_steps": "patience in steps",
    "patience_epochs": "patience in epochs",
    "batch_size": "batch",
    "grad_accum": "batches per step",
    "optimizer": "optimiser",
    "weight_decay": "weight decay",
    "init_from": "start",
}
MANY = 2.0  # times as many steps are an unequal budget, where max_epochs ended the shorter training


@dataclass(frozen=True)
class ModelEnd:
    """The end of one model of a run: its own domain's, or that of all (empty `end.domain`)."""

    run: Run
    end: TrainingEnd
    error: float  # standard error of the selecting metric on validation
    bounded: bool  # whether `error` is only the largest that the metric allows

    @property
    def fault(self) -> str:
        """Why it was not trained to the end; empty if it was."""
        return self.end.fault(self.error)


def model_ends(runs: Iterable[Run]) -> list[ModelEnd]:
    """The ends of the runs' models; none for a run without metrics.csv."""
    ends = []
    for run in runs:
        if run.recorded_ends is not None:
            ends += [ModelEnd(run, *recorded) for recorded in run.recorded_ends]
            continue
        if not (run.folder / "metrics.csv").is_file():
            continue
        for end in training_ends(run.metrics(initial=True), run.trained_settings):
            ends.append(ModelEnd(run, end, *_selection_error(run, end.domain)))
    return ends


def _selection_error(run: Run, domain: str) -> tuple[float, bool]:
    """The standard error of the metric that selected a model, and whether it is only a bound.

    From the ranks of the validation targets; where an old run lacks them, the largest one that a
    metric between 0 and 1 of this mean can have.
    """
    metric, average = run.config["select_metric"], run.config["select_average"]
    try:
        values = run.values("valid", "full", run.default_path, metric)
    except UserError:
        return _largest_error(run, domain), True
    if domain:
        values, average = values[values.domain == domain], "users"
    return standard_error(values, average), False


def standard_error(values: pd.DataFrame, average: str) -> float:
    """The standard error over users of the mean of `Run.values`: `macro` (over domains) or `users`.

    Linearised: √Σ_u (Σ of (value − mean) / n over the targets of user u)², with the means and
    numbers of the domains for `macro`.
    """
    by_domain = values.groupby("domain").value
    if average == "macro":
        parts = (values.value - by_domain.transform("mean")) / by_domain.transform("size")
        parts = parts / by_domain.ngroups
    else:
        parts = (values.value - values.value.mean()) / len(values)
    by_user = parts.groupby(values.user_id).sum().to_numpy()
    count = len(by_user)
    return float(np.sqrt((by_user**2).sum() * count / (count - 1))) if count > 1 else 0.0


def _largest_error(run: Run, domain: str) -> float:
    """√(m·(1 − m) / n), the largest standard error of a mean m of n values between 0 and 1.

    0 if results.json lacks the validation: then every rise counts.
    """
    metric, average = run.config["select_metric"], run.config["select_average"]
    paths = run.results.get("valid", {}).get("full", {})
    means = paths.get(run.default_path, {})
    chosen = [domain] if domain else run.domains if average == "macro" else [average]
    cells = [
        means[name] for name in chosen if means.get(name, {}).get("n") and metric in means[name]
    ]
    if not cells:
        return 0.0
    squares = [cell[metric] * (1 - cell[metric]) / cell["n"] for cell in cells]
    return math.sqrt(max(0.0, sum(squares))) / len(cells)


def faults(ends: list[ModelEnd], name: str = "") -> dict[str, str]:
    """{domain, macro or users: why a model that ranks there was not trained to the end}.

    name: how the sentences call the model. A mean is affected by every domain. Of several seeds the
    first one at fault is described, and how many are.
    """
    broken = [one for one in ends if one.fault]
    if not broken:
        return {}
    every = [*broken[0].run.domains, *MEANS]
    result = {}
    for domain in every:
        here = [one for one in broken if domain in MEANS or one.end.domain in ("", domain)]
        if here:
            result[domain] = _sentence(here, domain, name, ends)
    return result


def _sentence(here: list[ModelEnd], domain: str, name: str, ends: list[ModelEnd]) -> str:
    first, runs = here[0], {one.run.folder for one in here}
    subject = name
    if first.end.domain and domain in MEANS:
        subject += f" in {join_and(list(dict.fromkeys(one.end.domain for one in here)))}"
    trained = len({one.run.folder for one in ends})
    seeds = f", {len(runs)} of {trained} seeds" if trained > 1 else ""
    return f"{subject}{seeds}: {first.fault}".removeprefix(", ").removeprefix(": ")


def withheld_lines(reasons: dict[str, str], names: list[str]) -> list[str]:
    """One sentence per reason: where no verdict is drawn, and why.

    reasons: {domain or mean: why not; empty: it is}. names: the domains of the comparison.
    """
    lines = []
    for reason in dict.fromkeys(filter(None, reasons.values())):
        where = [name for name, other in reasons.items() if other == reason]
        domains = [name for name in where if name not in MEANS]
        everywhere = set(domains) >= set(names)
        place = "" if everywhere else f" in {join_and(domains or where)}"
        lines.append(CANNOT_TELL.replace("cannot tell", f"cannot tell{place}") + f" ({reason})")
    return lines


def unequal_budgets(groups: dict[str, tuple[dict[str, Any], list[ModelEnd]]]) -> str:
    """One line that names what differs in the budgets of models; empty if nothing does.

    groups: {name: (settings, ends)}.
    """
    parts = []
    for setting, words in BUDGET.items():
        names: dict[str, list[str]] = {}  # by the value that they have
        for name, (settings, _) in groups.items():
            names.setdefault(_value(settings.get(setting)), []).append(name)
        if len(names) > 1:
            each = [f"{value} ({join_and(same)})" for value, same in names.items()]
            parts.append(f"{words}: {join_and(each)}")
    parts += _unequal_steps({name: ends for name, (_, ends) in groups.items()})
    return f"Unequal budgets: {'; '.join(parts)}." if parts else ""


def _value(value: Any) -> str:
    return "none" if value in (None, "") else f"{value:,}" if type(value) is int else str(value)


def _unequal_steps(groups: dict[str, list[ModelEnd]]) -> list[str]:
    """Steps that were trained, where max_epochs ended a model with far fewer than another's."""
    ranges = {
        name: (min(one.end.steps for one in ends), max(one.end.steps for one in ends))
        for name, ends in groups.items()
        if ends
    }
    most = max((high for _, high in ranges.values()), default=0)
    cut = any(
        one.end.at_limit and one.end.steps * MANY <= most
        for ends in groups.values()
        for one in ends
    )
    if not cut:
        return []
    each = [
        f"{low:,}{'' if low == high else f' to {high:,}'} ({name})"
        for name, (low, high) in ranges.items()
    ]
    return [f"steps trained: {join_and(each)}"]
