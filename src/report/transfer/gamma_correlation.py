"""The paper's central claim against the data: does γ_d foretell the transfer that is measured?

A point is a data set, a domain and a seed: D·γ_d of SyNCRec's run (1: uniform) against
Δ_d = CDSR − SDSR of the runs with the same seed on the test targets. A domain's seeds are no
independent evidence, so the interval of Spearman's ρ resamples domains with all their seeds.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
from scipy.stats import rankdata, spearmanr

from src.io.errors import UserError
from src.report.analysis import tested_epoch
from src.report.compared_paths import DataSet, Measured

ENOUGH = 10  # (data set, domain) pairs; below it the report does not judge
RESAMPLES = 2000


@dataclass(frozen=True)
class Correlation:
    """Spearman's ρ over points in clusters, its 95 % interval, and how many resamples had one.

    rho, low and high are NaN where they cannot be had: without two distinct values on each side.
    """

    rho: float
    low: float
    high: float
    points: int
    clusters: int
    used: int  # resamples with two distinct values on each side
    resamples: int

    @property
    def verdict(self) -> str:
        """`positive`, `negative` or `cannot tell`."""
        sure = self.clusters >= ENOUGH and np.isfinite(self.rho) and self.low * self.high > 0
        return ("positive" if self.rho > 0 else "negative") if sure else "cannot tell"


def claim_points(data: DataSet, measured: Measured) -> pd.DataFrame:
    """One row a domain and seed that SDSR, CDSR and SyNCRec share: data, domain, seed, share (D·γ
    at the epoch of the tested checkpoint), share_last (at the last epoch), phi, transfer (Δ), n."""
    base, rows = data.baseline, []
    runs = {run.seed: run for run in data.models["syncrec"].runs}
    for seed in sorted(set(runs) & set(measured.seeds("cdsr", base))):
        gap = measured.by_seed["cdsr"][seed] - measured.by_seed[base][seed]
        transfer = runs[seed].transfer().set_index(["epoch", "domain"])
        epochs = transfer.index.get_level_values("epoch")
        tested, last = tested_epoch(runs[seed]), epochs.max()
        if tested not in epochs:
            raise UserError(
                f"{runs[seed].folder / 'transfer.csv'} lacks epoch {tested}, whose checkpoint was "
                "tested; train again"
            )
        for number, domain in enumerate(measured.names):
            own = measured.domains == number
            if own.any():
                shares = [
                    float(transfer.gamma[epoch, domain]) * len(measured.names)
                    for epoch in (tested, last)
                ]
                phi = float(transfer.phi[tested, domain])
                rows.append(
                    (data.name, domain, seed, *shares, phi, float(gap[own].mean()), own.sum())
                )
    columns = ["data", "domain", "seed", "share", "share_last", "phi", "transfer", "n"]
    numbers = dict.fromkeys(("share", "share_last", "phi", "transfer"), float)
    return pd.DataFrame(rows, columns=columns).astype(numbers)  # also where there is no row


def correlation(
    points: pd.DataFrame, predictor: str = "share", *, resamples: int = RESAMPLES, seed: int = 0
) -> Correlation:
    """Spearman's ρ of a column with `transfer`; percentile bootstrap over (data, domain).

    Points without the predictor (φ of a domain that was not trained) do not take part. Resamples in
    which a side has one value only have no ρ; they are left out and counted.
    """
    points = points[np.isfinite(points[predictor])].reset_index(drop=True)
    x, y = points[predictor].to_numpy(), points.transfer.to_numpy()
    members = list(points.groupby(["data", "domain"], sort=True).indices.values())
    if not _varies(x, y):
        nan = float("nan")
        return Correlation(nan, nan, nan, len(points), len(members), 0, resamples)
    rng = np.random.default_rng(seed)
    found = []
    for drawn in rng.integers(len(members), size=(resamples, len(members))):
        rows = np.concatenate([members[number] for number in drawn])
        if _varies(x[rows], y[rows]):
            ranks = rankdata(np.stack([x[rows], y[rows]]), axis=1)
            found.append(np.corrcoef(ranks)[0, 1])
    low, high = np.quantile(found, [0.025, 0.975])
    rho = float(spearmanr(x, y).statistic)
    return Correlation(
        rho, float(low), float(high), len(points), len(members), len(found), resamples
    )


def _varies(x: np.ndarray, y: np.ndarray) -> bool:
    return len(x) > 1 and np.ptp(x) > 0 and np.ptp(y) > 0


def correlations(points: pd.DataFrame) -> dict[str, Correlation]:
    """{what is correlated with Δ: how}; first D·γ over all points, then the variations."""
    found = {"D·γ, epoch that was tested": correlation(points)}
    found["D·γ, last epoch"] = correlation(points, "share_last")
    found["φ, epoch that was tested"] = correlation(points, "phi")
    names = points.data.unique()
    if len(names) > 1:
        for name in names:
            found[f"D·γ, {name} alone"] = correlation(points[points.data == name])
    return found
