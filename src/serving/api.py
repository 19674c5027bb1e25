"""Calls for a program: open a finished run or a bundle, recommend from it, read a run's ranks.

    from src.serving.api import open_bundle, open_run, read_ranks, recommend

They work in the repository's root, or with it on PYTHONPATH. docs/serving.md has an example.
"""

from collections.abc import Sequence
from pathlib import Path

import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from src.dataset.store.exclusion import excludes_seen
from src.io.errors import UserError
from src.serving.bundle import Bundle, open_bundle
from src.serving.choices import chosen_domains, chosen_users
from src.serving.lists import ListOptions, Served, list_schema, make_lists
from src.serving.new_events import match_events
from src.serving.run import TrainedRun, open_run

__all__ = ["Bundle", "TrainedRun", "open_bundle", "open_run", "read_ranks", "recommend"]


def recommend(
    run: Served,
    events: pd.DataFrame | pa.Table | None = None,
    *,
    k: int = 10,
    users: Sequence[str] = (),
    domains: Sequence[str] = (),
    path: str = "auto",
    exclude_seen: bool | None = None,
    now: int | None = None,
) -> pa.Table:
    """The k best items of each user in each domain, best first; fewer where a domain has fewer.

    Parameters
    ----------
    run: of `open_run` or `open_bundle`; a bundle knows no user but those of `events`.
    events: new events, whose users the dataset may not have, with the columns user_id, item_id,
        domain (text, as in the log) and unix_time (whole seconds since 1970), in the order in which
        they were logged. Those of unknown items are skipped; those that the dataset has already
        count once.
    users: ids of the log or of the new events; default: those of the new events, or all.
    domains: names; default: all.
    path: `cross`, `single`, `blend` (of a run opened with it), or `auto`: in each domain the one
        that serves it. Users without an event that a path could read are served by another one
        (src/evaluation/stand_ins.py).
    exclude_seen: leave out every item of the user's events; by default unless at least a tenth of
        the test targets are items that the user had before.
    now: for the blend and models that read the time, seconds since 1970: only events before it
        count, those of the user too. Default: all events do.

    Returns the columns user_id, domain, rank (from 1), item_id, score, path (that made the list),
    context_events (how many events of the user it knew), ordered by user (those of the dataset
    first), domain and rank. UserError for an unknown user, domain or path.
    """
    if k < 1:
        raise UserError(f"k must be at least 1, not {k}")
    run.check_path(path)
    new = None
    if events is not None:
        table = events if isinstance(events, pa.Table) else pa.Table.from_pandas(events)
        new = match_events(run.dataset, table).events
    history = run.history(new)
    if exclude_seen is None:
        exclude_seen = excludes_seen(run.repeat_share)
    options = ListOptions(k, chosen_domains(run.dataset, domains), path, exclude_seen, now)
    numbers = chosen_users(history, users)
    tables = [block.table for block in make_lists(run, history, numbers, options)]
    return pa.concat_tables([list_schema(run, history).empty_table(), *tables])


def read_ranks(folder: Path | str, split: str = "test", protocol: str = "full") -> pd.DataFrame:
    """One row per target and path of a finished run's ranks.parquet: user_id, domain, item_id, and
    how many candidates scored `better` than the target or `tied` with it (itself included), of
    `candidates`. docs/runs.md describes all columns.

    UserError where the run has no ranks of the split and protocol.
    """
    path = Path(folder) / "ranks.parquet"
    filters = [("split", "==", split), ("protocol", "==", protocol)]
    try:
        ranks = pq.read_table(path, filters=filters)
    except (OSError, pa.ArrowException):
        raise UserError(f"{path} cannot be read; train the run to the end with main.py") from None
    if not len(ranks):
        raise UserError(f"{path} has no rows of split {split} and protocol {protocol}")
    return ranks.to_pandas()
