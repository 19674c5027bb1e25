"""The best possible NDCG@10 on the test targets of a log of `src.dataset.generator.interests`.

For each target, the exact probability of each item of its domain given

- `own`: the newest L events of its domain, with their times,
- `joined`: the newest L events of all domains,
- `everything`: all events before it.

Ranking by these probabilities is the best that anything can do with the same events. The *limit* is
the NDCG@10 of that ranking expected over the item's probabilities given everything. So for each
target the limit of `everything` is at least the two others. The *realised* value is the NDCG@10 on
the item that was drawn: the same on average, with a larger error.
"""

from pathlib import Path

import numpy as np
import pandas as pd

from src.config.dataset_settings import cutoff
from src.dataset.generator.interests import (
    InterestConfig,
    InterestLog,
    Laws,
    command_line,
    generate,
)
from src.dataset.generator.posterior import VIEWS, History, item_probabilities, read_history
from src.evaluation.metrics import target_metrics
from src.io.errors import UserError
from src.io.files import check_output, write_atomically, write_json

K = 10  # of NDCG
CHUNK = 2000  # targets at once, which bounds memory
DIGITS = 12  # of a probability; items with equal ones are ties
FILE_DIGITS = 6


def target_limits(config: InterestConfig, log: InterestLog, laws: Laws) -> pd.DataFrame:
    """One row per test target: user, domain, item (numbers of the log), time; for each view its
    limit (`own`, …) and its realised value (`own_realised`, …)."""
    past = read_history(config, log, laws, cutoff(config.strd_ym))
    targets = past.targets()
    if not len(targets):
        raise UserError(f"--strd_ym {config.strd_ym} leaves no user with three events")
    table = pd.DataFrame(
        {
            "user": past.users[np.searchsorted(past.offsets, targets, side="right") - 1],
            "domain": past.domains[targets],
            "item": laws.shelves[past.domains[targets], past.slots[targets]],
            "time": past.times[targets],
        }
    )
    columns = {
        name: np.empty(len(targets)) for view in VIEWS for name in (view, f"{view}_realised")
    }
    for domain in range(len(config.domains)):
        rows = np.flatnonzero(past.domains[targets] == domain)
        for start in range(0, len(rows), CHUNK):
            chunk = rows[start : start + CHUNK]
            for name, values in _values(config, laws, past, targets[chunk]).items():
                columns[name][chunk] = values
    return table.assign(**columns)


def _values(
    config: InterestConfig, laws: Laws, past: History, targets: np.ndarray
) -> dict[str, np.ndarray]:
    """The limit and the realised value [n] of each view, for targets of one domain."""
    chances = {
        view: item_probabilities(config, laws, past, targets, view, config.window) for view in VIEWS
    }  # {view: [n, slots]}
    truth, values = chances["everything"], {}
    for view, scores in chances.items():
        scores = np.round(scores, DIGITS)
        values[view] = expected_ndcg(scores, truth)
        target_scores = np.take_along_axis(scores, past.slots[targets, None], axis=1)
        better = (scores > target_scores).sum(axis=1)
        tied = (scores == target_scores).sum(axis=1)
        values[f"{view}_realised"] = target_metrics(better, tied)[f"ndcg@{K}"]
    return values


def expected_ndcg(scores: np.ndarray, chances: np.ndarray) -> np.ndarray:
    """[n] the NDCG@10 of ranking by `scores` [n, items], expected over an item drawn by `chances`
    [n, items]; equal scores share their ranks."""
    order = np.argsort(-scores, axis=1, kind="stable")
    ranked = np.take_along_axis(scores, order, axis=1)
    columns = np.arange(ranked.shape[1])
    changes = np.diff(ranked, axis=1, prepend=np.inf) != 0
    better = np.maximum.accumulate(np.where(changes, columns, 0), axis=1)
    ends = np.diff(ranked, axis=1, append=-np.inf) != 0
    last = np.where(ends, columns, len(columns))[:, ::-1]
    tied = np.minimum.accumulate(last, axis=1)[:, ::-1] + 1 - better
    gains = target_metrics(better.ravel(), tied.ravel())[f"ndcg@{K}"].reshape(ranked.shape)
    return (np.take_along_axis(chances, order, axis=1) * gains).sum(axis=1)


def summarise(config: InterestConfig, table: pd.DataFrame) -> pd.DataFrame:
    """One row per domain: test targets, the mean of each limit, joined − own, and the realised
    values, each with its standard error over targets (`_se`)."""
    rows = []
    for domain, name in enumerate(config.domains):
        part = table[table["domain"] == domain]
        columns = {view: part[view] for view in VIEWS}
        columns["joined_minus_own"] = part["joined"] - part["own"]
        columns |= {f"{view}_realised": part[f"{view}_realised"] for view in VIEWS}
        row: dict[str, object] = {"domain": name, "targets": len(part)}
        for column, values in columns.items():
            row |= {column: values.mean(), f"{column}_se": values.sem()}
        rows.append(row)
    return pd.DataFrame(rows)


def run(config: InterestConfig) -> None:
    """Print the limits of each domain; with `out`, write limits.csv and limits.json there."""
    if config.out:
        check_output(Path(config.out), "--out", folder=True)
    summary = summarise(config, target_limits(config, *generate(config)))
    if config.out:
        write_limits(config, summary, Path(config.out))
    print(f"best possible NDCG@{K} on the test targets up to {config.strd_ym}, L = {config.window}")
    columns = (*VIEWS, "joined_minus_own")
    width = max(map(len, config.domains))
    print(" " * width, f"{'n':>7}", *(f"{name.replace('_', ' '):>17}" for name in columns))
    for row in summary.to_dict("records"):
        cells = (f"{row[name]:z9.4f} ± {row[f'{name}_se']:.4f}" for name in columns)
        print(f"{row['domain']:<{width}}", f"{row['targets']:>7}", *cells)


def write_limits(config: InterestConfig, summary: pd.DataFrame, folder: Path) -> None:
    """Write limits.csv, the summary, and limits.json, which also says what it is of."""
    folder.mkdir(parents=True, exist_ok=True)
    rounded = summary.round(FILE_DIGITS)
    records = [
        {name: None if pd.isna(value) else value for name, value in row.items()}
        for row in rounded.to_dict("records")
    ]
    settings = {"log": command_line(config), "strd_ym": config.strd_ym, "window": config.window}
    write_json(folder / "limits.json", settings | {"metric": f"ndcg@{K}", "domains": records})
    write_atomically(folder / "limits.csv", lambda path: rounded.to_csv(path, index=False))
