"""What training recorded, by epoch: γ and φ, the validation metric, the tested checkpoint."""

import pandas as pd

from src.config.modes import PATHS
from src.io.errors import UserError
from src.report.finished_runs import RETRAIN, Run
from src.report.transfer.data_sets import DataSet


def trajectories(data: DataSet) -> pd.DataFrame:
    """transfer.csv of SyNCRec's runs with their seed, and `share` = D·γ (1: uniform)."""
    parts = []
    for run in data.two_view.runs:
        rows = run.transfer()
        assert rows is not None  # checked by data_sets
        parts.append(rows.assign(seed=run.seed))
    rows = pd.concat(parts, ignore_index=True)
    return rows.assign(share=rows.gamma * len(data.domains))


def last_epochs(trajectories: pd.DataFrame) -> pd.DataFrame:
    """The rows of each seed's last epoch."""
    last = trajectories.groupby("seed").epoch.transform("max")
    return trajectories[trajectories.epoch == last]


def curves(data: DataSet) -> pd.DataFrame:
    """The validation metric that selects SyNCRec's checkpoint, by epoch.

    Columns: ranker, seed, epoch, domain, metric, value. `served` and `blend` have no curve: they
    are chosen after training.
    """
    metric, parts = data.two_view.runs[0].config["select_metric"], []
    for key, ranker in data.rankers.items():
        for run in ranker.group.runs if ranker.path in PATHS else []:
            rows = run.metrics()
            chosen = rows[
                (rows.split == "valid") & (rows.path == ranker.path) & (rows.metric == metric)
            ]
            parts.append(
                chosen[["epoch", "domain", "metric", "value"]].assign(ranker=key, seed=run.seed)
            )
    return pd.concat(parts, ignore_index=True)


def tested_epoch(run: Run) -> int:
    """The epoch of the tested checkpoint: the best validation of the run's first path.

    Raises UserError if metrics.csv has no validation of that path.
    """
    rows, path = run.metrics(), run.default_path
    rows = rows[
        (rows.split == "valid")
        & (rows.path == path)
        & (rows.domain == run.config["select_average"])
        & (rows.metric == run.config["select_metric"])
    ].sort_values("epoch")
    if rows.value.notna().sum() == 0:
        raise UserError(
            f"{run.folder / 'metrics.csv'} has no validation of the {path} path; {RETRAIN}"
        )
    return int(rows.epoch.iloc[rows.value.argmax()])


def tested_transfer(run: Run, transfer: pd.DataFrame) -> tuple[int, pd.DataFrame]:
    """The epoch of the tested checkpoint and its rows of transfer.csv, by domain. UserError where
    the file lacks it."""
    tested = tested_epoch(run)
    rows = transfer[transfer.epoch == tested]
    if rows.empty:
        raise UserError(
            f"{run.folder / 'transfer.csv'} lacks epoch {tested}, the epoch of the tested "
            f"checkpoint; {RETRAIN}"
        )
    return tested, rows.set_index("domain")
