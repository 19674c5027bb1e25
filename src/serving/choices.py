"""The users and domains that are asked for, by the ids of the log."""

from collections.abc import Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from src.dataset.store.folder import Dataset
from src.io.errors import UserError
from src.serving.contexts import History
from src.serving.item_files import read_lines


def chosen_users(
    history: History, ids: Sequence[str], users_file: str = "", events: str = ""
) -> np.ndarray:
    """Numbers of the users named by ids and in a file; without any, of those that the new events
    name, or of all. UserError for a user who is neither in the dataset nor in the new events."""
    named = [("--users", list(ids))]
    if users_file:
        what = f"--users_file {users_file}"
        named.append((what, read_lines(users_file, what)))
    if not ids and not users_file:
        return history.new.named if history.new else np.arange(history.users)
    known, chosen = pc.cast(history.user_ids, pa.large_string()), []
    where = f"{history.dataset.folder}" + f" and {events}" * bool(events)
    for source, names in named:
        users = pc.index_in(pa.array(names, pa.large_string()), value_set=known)
        if users.null_count:
            unknown = pc.index(users.is_null(), True).as_py()
            more = f" (and {users.null_count - 1} more)" if users.null_count > 1 else ""
            raise UserError(f"{source}: {names[unknown]}{more} is not among the users of {where}")
        chosen.append(users.to_numpy())
    return np.unique(np.concatenate(chosen)).astype(np.int64)


def chosen_domains(dataset: Dataset, names: Sequence[str]) -> tuple[int, ...] | None:
    """Dense ids of the domains named; None for all. UserError for an unknown one."""
    for name in names:
        if name not in dataset.domain_names:
            known = ", ".join(dataset.domain_names)
            raise UserError(f"--domains: {name} is unknown; {dataset.folder} has {known}")
    return tuple(sorted({dataset.domain_names.index(name) for name in names})) or None
