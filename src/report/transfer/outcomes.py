"""What the tables of differences show: which domains gained, which were hurt, what is unsure."""

import pandas as pd

from src.report.finished_runs import MEANS
from src.report.wording import ALPHA


def of_pair(differences: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """The rows of a comparison."""
    return differences[(differences["first"] == first) & (differences["second"] == second)]


def own_domains(rows: pd.DataFrame) -> pd.DataFrame:
    """The rows of domains, without macro and users."""
    return rows[~rows.domain.isin(MEANS)]


def significant(rows: pd.DataFrame) -> pd.Series:
    return rows.p_holm < ALPHA


def gained_and_hurt(rows: pd.DataFrame) -> dict[str, list]:
    """The rows of one comparison by what they show: `gained`, `hurt`, `cannot tell`."""
    rows, found = own_domains(rows), {"gained": [], "hurt": [], "cannot tell": []}
    for row, sure in zip(rows.itertuples(), significant(rows), strict=True):
        kind = ("gained" if row.difference > 0 else "hurt") if sure else "cannot tell"
        found[kind].append(row)
    return found


def last_epochs(trajectories: pd.DataFrame) -> pd.DataFrame:
    """The rows of each seed's last epoch."""
    last = trajectories.groupby("seed").epoch.transform("max")
    return trajectories[trajectories.epoch == last]
