"""The runs of a negative-transfer report, with planted transfer and γ, and what it says of them."""

import json
from pathlib import Path

from src.report.finished_runs import read_runs
from src.report.transfer import differences, training_history
from src.report.transfer.data_sets import data_sets, measure
from src.report.transfer.gamma_correlation import correlation, correlation_points
from src.report.transfer.summary import prediction_sentences, summary
from tests.support.run_folders import Log, write_run

AUDIT = {
    "ties": {"events": 12, "share": 0.1},
    "future_leaks": {"events": 3, "share": 0.05},
}


def write_models(
    folder: Path,
    log: Log,
    *,
    transfer: dict[str, float] | None = None,
    gaps: dict[str, float] | None = None,
    seeds: tuple[int, ...] = (1,),
    modes: tuple[str, ...] = ("sdsr", "cdsr", "syncrec"),
    notes: dict[str, str] | None = None,
    **options,
) -> list[Path]:
    """One run per mode and seed.

    transfer: {domain: gain of the cross path over SDSR, in logits}. gaps: {domain: φ}. notes: for
    the data card.
    """
    runs = []
    for seed in seeds:
        for mode in modes:
            run = write_run(
                folder / f"{log.name}-{mode}-seed{seed}", log, mode=mode, loss="ce", seed=seed,
                gains={"cross": transfer or {}, "single": 0.0}, gaps=gaps,
                **{"protocols": ("full", "sampled"), "noise": 0.3} | options,
            )  # fmt: skip
            card = log.card | {"audit": AUDIT, "notes": notes or {}}
            (run / "data_card.json").write_text(json.dumps(card))
            runs.append(run)
    return runs


class Analysed:
    """A data set with the tables that the sentences are made from."""

    def __init__(self, folders, metric="ndcg@10"):
        (self.data,) = data_sets(read_runs(folders))
        self.measured = measure(self.data, metric)
        self.levels = differences.levels(self.data, self.measured)
        self.differences = differences.differences(self.data, self.measured)
        self.trajectories = training_history.trajectories(self.data)
        self.points = correlation_points(self.data, self.measured)
        self.within = correlation(self.points)
        tables = self.levels, self.differences, self.points, self.within
        self.box = summary(self.data, *tables, metric)
        self.summary = dict(self.box.topics)

    @property
    def outcomes(self):
        """{domain: its outcome in the box}"""
        return {row.name: row.outcome for row in self.box.verdicts}

    @property
    def prediction(self):
        rows = differences.of_pair(self.differences, *self.data.transfer_pair)
        return prediction_sentences(differences.by_outcome(rows), self.points, self.within)
