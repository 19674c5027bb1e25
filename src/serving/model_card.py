"""model_card.md of a bundle: what the model is, was measured to do, and should not be used for."""

from collections.abc import Iterator

import numpy as np
import pandas as pd

from src.config.modes import BLEND, CROSS, SINGLE
from src.config.names import COUNTED
from src.io.errors import UserError, plain
from src.report.finished_runs import Run
from src.report.formatting import ALPHA, interval, join_and, number, percent, signed
from src.report.table_files import markdown
from src.statistics.bootstrap import Estimate, estimates
from src.statistics.comparison import compare
from src.statistics.holm import holm

METRIC, SPLIT, PROTOCOL = "ndcg@10", "test", "full"
FILES = {
    "model.pt2, model.onnx": "the model: histories of item ids -> query vectors",
    "item_vectors.npy": "a vector per item",
    "items.parquet": "item ids, domains, and how often each item occurred, summed over all users",
    "transitions.parquet, joint_transitions.parquet": "how often one item directly followed "
    "another of its domain, or of any, summed over all users",
    "followers.parquet": "how often one item came soon after another, summed over all users, newer "
    "ones counting more",
    "serving.json": "settings, domains, the path that serves each domain, weights of the blend",
}


def model_card(run: Run, names: list[str]) -> str:
    """The card, Markdown; `names` are the domains in the order of their ids."""
    parts = [_head(run), _use(run), _data(run, names), _figures(run, names), _serving(run, names)]
    return "\n".join([*parts, _transfer(run, names), _limits(run), _privacy()])


def _head(run: Run) -> str:
    commit = run.environment.get("commit") or "unknown"
    return (
        f"# {plain(run.name)}\n\n"
        f"{run.title}, loss `{run.loss}`, seed {run.seed}, trained on {plain(run.data_name)} "
        f"(sha256 `{run.data}`) by commit `{commit}`. The settings of the training are "
        "those of the run's `config.json`.\n"
    )


def _use(run: Run) -> str:
    return (
        "## Intended use\n\n"
        f"To rank the items of one of the domains {_listed(run.domains)} for a person whose events "
        "in these domains are known, the newest one included. The score of an item orders the "
        "items of a domain for one person; it is no probability, and scores of two domains or "
        "persons cannot be compared. The model ranks by what people chose after what they saw; "
        "it was not made to decide about people, and was not examined for fairness to groups of "
        "them.\n"
    )


def _data(run: Run, names: list[str]) -> str:
    card = run.card
    targets = card["split"].get("targets", {})
    rows = [
        [name, *(f"{card['domains'][name][column]:,}" for column in ("users", "items", "events")),
         f"{targets.get(name, {}).get(SPLIT, 0):,}"]
        for name in names
    ]  # fmt: skip
    table = markdown(["domain", "users", "items", "events", "test targets"], rows, left=1)
    times = card.get("time_range", {})
    lines = [
        f"{card['users']:,} users, {card['items']:,} items, {card['events']:,} events from "
        f"{times.get('first', 'unknown')} to {times.get('last', 'unknown')}. "
        f"Split: {plain(str(card['split']['protocol']))}."
    ]
    notes = [  # without their examples, which may be ids of users
        f"- {plain(entry['what'])}: {entry['count']:,} of {entry['of']:,}"
        for entry in card.get("data_notes", [])
    ]
    return "\n".join(["## Data\n", table, *lines, *notes, ""])


def _figures(run: Run, names: list[str]) -> str:
    """NDCG@10 of every path and count model, with intervals where the run has its ranks."""
    paths = [path for path in run.protocol_scores(SPLIT, PROTOCOL) if path not in COUNTED]
    counted = [path for path in run.protocol_scores(SPLIT, PROTOCOL) if path in COUNTED]
    found = {path: _estimates(run, path, names) for path in [*paths, *counted]}
    rows = [
        [name, *(_cell(run, path, name, of_path) for path, of_path in found.items())]
        for name in [*names, "macro"]
    ]
    ranked = "" if all(found.values()) else " The run has no ranks.parquet: without intervals."
    return (
        "## Figures\n\n"
        "NDCG@10 on the test split, each target among all items of its domain (protocol `full`), "
        f"with 95 % bootstrap intervals over users.{ranked} "
        f"{_listed(counted)} are counted, not trained, for comparison.\n\n"
        + markdown(["domain", *found], rows, left=1)
    )


def _estimates(run: Run, path: str, names: list[str]) -> dict[str, Estimate]:
    """The estimates of a path by domain; {} where the run folder has lost its ranks."""
    try:
        values = run.values(SPLIT, PROTOCOL, path, METRIC)
    except UserError:
        return {}
    least = run.config["min_domain_targets"]
    users, domains = _rows(values, names)
    return estimates(values.value.to_numpy(), users, domains, names, least=least)


def _rows(values: pd.DataFrame, names: list[str]) -> tuple[np.ndarray, np.ndarray]:
    """The user of each target [n] and the number of its domain [n]."""
    numbers = {name: number for number, name in enumerate(names)}
    return values.user_id.to_numpy(), values.domain.map(numbers).to_numpy()


def _cell(run: Run, path: str, name: str, found: dict[str, Estimate]) -> str:
    if name in found:
        value = found[name]
        return f"{number(value.value)} ({number(value.low)} to {number(value.high)})"
    metrics = run.scores(SPLIT, PROTOCOL, path)[name]
    return number(metrics[METRIC]) if metrics["n"] else "–"


def _serving(run: Run, names: list[str]) -> str:
    if not run.serving:
        (path, *_) = run.trained_settings.paths
        return f"## Which path serves\n\n`{path}` serves every domain; the run has no other.\n"
    rows = []
    for name in names:
        entry = run.serving[name]
        bound = entry.get("bound")
        rows.append(
            [name, entry["path"], signed(entry.get("difference", float("nan"))),
             "–" if bound is None else signed(bound), f"{entry.get('n', 0):,}"]
        )  # fmt: skip
    head = ["domain", "path", "difference", "lower bound", "validation targets"]
    return (
        "## Which path serves\n\n"
        f"`{CROSS}` reads the events of all domains, `{SINGLE}` those of the asked domain alone. "
        f"`{SINGLE}` serves a domain where it was better on validation: where the one-sided 95 % "
        f"lower bound of the mean difference {SINGLE} − {CROSS} is above 0.\n\n"
        + markdown(head, rows, left=2)
    )


def _transfer(run: Run, names: list[str]) -> str:
    """What the other domains' events are worth, where the run ranks with and without them."""
    paths = run.trained_settings.paths
    if len(paths) < 2:
        return (
            "## Negative transfer\n\n"
            "Not measured: the run has one path. `python report.py transfer` compares runs.\n"
        )
    lines = list(_transfer_lines(run, names)) or ["- not measured: the run has no ranks.parquet"]
    return (
        "## Negative transfer\n\n"
        f"The difference in NDCG@10 on test between the two views of this model, {CROSS} − "
        f"{SINGLE}: where it is below 0, the events of other domains made the ranking worse. A "
        "verdict needs p < .05 after Holm's correction over the domains. The difference "
        "says nothing about a model that is trained for one domain alone; `python report.py "
        "transfer` compares those.\n\n" + "\n".join(lines) + "\n"
    )


def _transfer_lines(run: Run, names: list[str]) -> Iterator[str]:
    try:
        cross, single = (
            run.values(SPLIT, PROTOCOL, path, METRIC) for path in run.trained_settings.paths
        )
    except UserError:
        return
    values = cross.value.to_numpy(), single.value.to_numpy()
    pairs = compare(*values, *_rows(cross, names), names)
    by_domain = {name: pair for name, pair in pairs.items() if name in names}
    corrected = holm([pair.p for pair in by_domain.values()])
    for (name, pair), p in zip(by_domain.items(), corrected, strict=True):
        verdict = "no certain difference"
        if p < ALPHA:
            hurt = "**the other domains hurt**"
            verdict = hurt if pair.difference < 0 else "the other domains help"
        span = interval(pair.low, pair.high)
        yield f"- {plain(name)}: {signed(pair.difference)} ({span}; n {pair.targets:,}): {verdict}"


def _limits(run: Run) -> str:
    settings, card = run.trained_settings, run.card
    audit = card.get("audit", {})
    lines = [
        f"- A path reads the newest {settings.max_len - 1} events at most.",
        "- An item without a training event has a vector that says nothing; one that is not in "
        "items.parquet cannot be ranked, and is ignored in a history.",
        "- Someone without an event gets the same list as everyone without one.",
        f"- What changed after {card.get('time_range', {}).get('last', 'the log ended')} is not "
        "known to the model; its counts are as of then too.",
    ]
    shares = {
        "future_leaks": "of the test targets are older than a training event of any user, which "
        "flatters the figures: trends are learnt from the future",
        "repeat_targets": "of the test targets are items that the user had before; "
        "serving.json says whether lists leave such items out",
    }
    for name, meaning in shares.items():
        if audit.get(name, {}).get("share"):
            lines.append(f"- {percent(audit[name]['share'])} {meaning}.")
    if BLEND in run.protocol_scores(SPLIT, PROTOCOL):
        lines.append("- The blend's counts are not updated by requests; export again to do so.")
    return "## Limits\n\n" + "\n".join(lines) + "\n"


def _privacy() -> str:
    rows = [[f"`{name}`", holds] for name, holds in FILES.items()]
    return (
        "## What the files hold\n\n" + markdown(["file", "holds"], rows, left=2) + "\n"
        "No file holds a user id or the history of a user. Counts are sums over all users, but an "
        "item or a pair of items that a single user had is counted as well, and a model can repeat "
        "what it was trained on: where that must not show, drop rare items before training "
        "(`make_dataset.py --min_item_events`).\n"
    )


def _listed(names: list[str]) -> str:
    return join_and([plain(name) for name in names])
