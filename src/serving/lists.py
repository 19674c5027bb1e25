"""Lists of the best items: for users in blocks, or for any requests about their contexts.

Memory is that of a block: whoever takes the blocks one after the other may serve any number of
users.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pyarrow as pa
import torch
from tqdm import tqdm

from src.dataset.store.folder import Dataset
from src.evaluation.rank_counts import FEWEST, NonFiniteScore, check_finite, to_device
from src.evaluation.targets import user_events
from src.evaluation.top_items import top_items
from src.interfaces import Requests, Scores
from src.io.errors import UserError
from src.serving.contexts import Contexts, History, NewEvents

# The steps between the products of a block are many and small: on two cores, a list takes 1.2 times
# as long in blocks of 1,024, and as long in blocks of 4,096.
USERS_AT_ONCE = 2048


class Scored(Protocol):
    """What scores the items of a list."""

    @property
    def dataset(self) -> Dataset:
        """The catalogue, and the old events if there are any."""

    @property
    def device(self) -> torch.device:
        """Where the scores are."""

    @property
    def score_type(self) -> np.dtype:
        """The type of the scores in the lists."""

    def scores(self, contexts: Contexts, requests: Requests, domain: int, path: str) -> Scores:
        """Scores of a domain's items for n requests about users of `contexts`, by a path."""


class Served(Scored, Protocol):
    """What makes lists: a `TrainedRun` (src/serving/run.py), a `Bundle` (src/serving/bundle.py), or
    whatever has these members."""

    @property
    def users_at_once(self) -> int:
        """How many users make a block."""

    @property
    def paths(self) -> dict[str, str]:
        """{domain: the path that serves it}."""

    @property
    def repeat_share(self) -> float:
        """The share of the test targets whose user had the item before."""

    def history(self, new: NewEvents | None) -> History:
        """The users that can be served, those of new events among them."""

    def check_path(self, path: str) -> None:
        """UserError for a path that it does not have."""

    def reads_time(self, path: str) -> bool:
        """Whether lists by a path depend on the time of the question."""

    def rows_by_path(
        self, contexts: Contexts, users: np.ndarray, ends: np.ndarray, domain: int, path: str
    ) -> dict[str, np.ndarray]:
        """{path: which of the users' lists it makes} in a domain."""


class Search(Protocol):
    """An index of a domain's items (src/serving/index.py)."""

    def serves(self, path: str) -> bool:
        """Whether it has what a path scores by."""

    def search(
        self, contexts: Contexts, requests: Requests, path: str, k: int
    ) -> tuple[np.ndarray, np.ndarray]:
        """Scores and columns [n, k], best first; −1 where none is found."""


@dataclass(frozen=True)
class ListOptions:
    """What to list."""

    k: int = 10
    domains: tuple[int, ...] | None = None  # None: all
    path: str = "auto"  # a path of the run, blend, or auto: in each domain the one that serves it
    exclude_seen: bool = True
    now: int | None = None  # seconds since 1970; None: after every event
    candidates: np.ndarray | None = None  # dense items, ascending, of which to choose; None: all
    indexes: Mapping[int, Search] | None = None  # {domain: approximate search}; None: exact


@dataclass(frozen=True)
class Listed:
    """Items of the lists of n requests about one domain; an entry per item."""

    rows: np.ndarray  # [L] of the n, ascending
    ranks: np.ndarray  # [L] from 1, int32
    items: np.ndarray  # [L] dense ids
    scores: np.ndarray  # [L]


@dataclass(frozen=True)
class BlockLists:
    """The lists of a block of n users in D' domains."""

    table: pa.Table  # one row per listed item, by user, domain and rank
    items: np.ndarray  # [rows of the table] dense ids
    user_ids: pa.ChunkedArray  # [n]
    domains: tuple[int, ...]  # [D']
    lengths: np.ndarray  # [n, D'] items of each list
    paths: np.ndarray  # [n, D'] the path that made it
    context_events: np.ndarray  # [n] events of the user that the lists know
    repeated: int  # new events that the context has once already


def list_schema(run: Served, history: History) -> pa.Schema:
    """The columns of the lists."""
    return pa.schema(
        [
            ("user_id", history.user_ids.type),
            ("domain", pa.string()),
            ("rank", pa.int32()),
            ("item_id", run.dataset.item_ids.type),
            ("score", pa.from_numpy_dtype(run.score_type)),
            ("path", pa.string()),
            ("context_events", pa.int64()),
        ]
    )


def make_lists(
    run: Served, history: History, users: np.ndarray, options: ListOptions
) -> Iterator[BlockLists]:
    """The lists of the users of these numbers, block by block. UserError for a score that is not
    finite."""
    schema, size = list_schema(run, history), run.users_at_once
    domains = options.domains or tuple(range(len(run.dataset.domain_names)))
    now = history.end if options.now is None else options.now
    with tqdm(total=len(users), desc="recommending", unit="user", disable=None, leave=False) as bar:
        for start in range(0, len(users), size):
            block = users[start : start + size]
            contexts = history.contexts(block)
            yield _block_lists(run, history, contexts, domains, now, options, schema)
            bar.update(len(block))


def _block_lists(
    run: Served,
    history: History,
    contexts: Contexts,
    domains: tuple[int, ...],
    now: int,
    options: ListOptions,
    schema: pa.Schema,
) -> BlockLists:
    users, every = np.arange(contexts.users), contexts.offsets[1:]
    ends = every
    if run.reads_time(options.path):
        ends = known_ends(contexts, now, history.tick)
    requests = Requests(users, ends, np.full(len(users), now))
    lengths = np.zeros((len(users), len(domains)), dtype=np.int64)
    paths = np.empty(lengths.shape, dtype=object)
    parts: list[dict[str, np.ndarray]] = []
    for column, domain in enumerate(domains):
        by_path = run.rows_by_path(contexts, users, ends, domain, options.path)
        for path, rows in by_path.items():
            paths[rows, column] = path
            listed = best_items(
                run, contexts, requests.rows(rows), domain, path, options.k,
                every[rows] if options.exclude_seen else None, options.candidates,
                (options.indexes or {}).get(domain),
            )  # fmt: skip
            row = rows[listed.rows]
            lengths[:, column] += np.bincount(row, minlength=len(users))
            column_of = np.full(len(row), column)
            parts.append({"row": row, "column": column_of, **_named_columns(listed)})
    flat = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    order = np.lexsort((flat["rank"], flat["column"], flat["row"]))
    flat = {name: values[order] for name, values in flat.items()}
    known = ends - contexts.offsets[:-1]
    table = _as_table(contexts, flat, np.array(domains), paths, known, schema)
    items, ids = flat["item"], contexts.ids
    return BlockLists(table, items, ids, domains, lengths, paths, known, contexts.repeated)


def _named_columns(listed: Listed) -> dict[str, np.ndarray]:
    return {"rank": listed.ranks, "item": listed.items, "score": listed.scores}


def _as_table(
    contexts: Contexts,
    flat: dict[str, np.ndarray],
    domains: np.ndarray,
    paths: np.ndarray,
    known: np.ndarray,
    schema: pa.Schema,
) -> pa.Table:
    """Listed items {column: [L]} with the ids of the log in place of numbers."""
    row, column = flat["row"], flat["column"]
    names: Any = pa.array(contexts.domain_names, pa.string())
    columns = {
        "user_id": contexts.ids.take(pa.array(row)),
        "domain": names.take(pa.array(domains[column])),
        "rank": flat["rank"],
        "item_id": contexts.item_ids.take(pa.array(flat["item"] - 1)),
        "score": flat["score"].astype(schema.field("score").type.to_pandas_dtype()),
        "path": pa.array(paths[row, column], pa.string()),
        "context_events": known[row],
    }
    return pa.table(columns, schema=schema)


def known_ends(contexts: Dataset, now: int | np.ndarray, tick: int) -> np.ndarray:
    """[users] where each user's events of ticks before the time `now`, or that of each [users],
    end."""
    users = np.arange(contexts.users)
    events, row = user_events(contexts, users, contexts.offsets[1:])
    earlier = contexts.times[events] // tick < np.broadcast_to(now, len(users))[row] // tick
    return contexts.offsets[:-1] + np.bincount(row[earlier], minlength=len(users))


def best_items(
    run: Scored,
    contexts: Contexts,
    requests: Requests,
    domain: int,
    path: str,
    k: int,
    seen_ends: np.ndarray | None = None,
    candidates: np.ndarray | None = None,
    search: Search | None = None,
) -> Listed:
    """The k best items of a domain by a path for n requests; fewer where fewer are left.

    Parameters
    ----------
    requests: users of `contexts` (their position in the block), where the events that are known
        end, and the times of the questions.
    seen_ends: [n] no list names an item of the user's events before these; None: it may.
    candidates: dense items, ascending, of any domain, of which to choose; None: all.
    search: an index of the domain's items, for lists that may lack some; None: exact.
    """
    if search is not None and search.serves(path):
        return _searched(run, search, contexts, requests, domain, path, k, seen_ends)
    count = len(requests.users)
    first, end = run.dataset.item_starts[domain : domain + 2].tolist()
    chosen = None
    if candidates is not None:
        chosen = candidates[(candidates >= first) & (candidates < end)] - first
        if not len(chosen):
            nothing = np.zeros(0, dtype=np.int64)
            return Listed(
                nothing, nothing.astype(np.int32), nothing, nothing.astype(run.score_type)
            )
    padded = np.resize(np.arange(count), max(count, FEWEST))  # so that equal items tie
    scored = run.scores(contexts, requests.rows(padded), domain, path)
    scores = _checked(scored, contexts, requests.users[padded], domain)
    if chosen is not None:
        scores = _among(scores, to_device(chosen, run.device))
    excluded = None
    if seen_ends is not None:
        excluded = _seen(contexts, requests.users, seen_ends, domain, chosen, run.device)
    items = end - first if chosen is None else len(chosen)
    best, columns = (
        part.cpu().numpy()[:count] for part in top_items(scores, items, k, run.device, excluded)
    )
    columns = columns if chosen is None else chosen[columns]
    row, rank = np.nonzero(np.isfinite(best))  # excluded items come last, with −inf
    return Listed(
        row, rank.astype(np.int32) + np.int32(1), first + columns[row, rank], best[row, rank]
    )


def _among(scores: Scores, columns: torch.Tensor) -> Scores:
    """The scores of these columns alone, as if there were no others."""
    return lambda part: scores(columns[part])


def _checked(scores: Scores, contexts: Contexts, users: np.ndarray, domain: int) -> Scores:
    """The same scores; UserError where one is not finite."""

    def checked(columns: slice | torch.Tensor) -> torch.Tensor:
        values = scores(columns)
        try:
            check_finite(values)
        except NonFiniteScore as fault:
            raise not_finite(contexts, int(users[fault.row]), domain) from None
        return values

    return checked


def not_finite(contexts: Contexts, user: int, domain: int) -> UserError:
    """The error about a user who has such a score."""
    return UserError(
        f"a score of user {contexts.ids[user]} in {contexts.domain_names[domain]} is not finite: "
        "the model has diverged; train again with a lower --lr or with --clip_norm"
    )


# Seen items that an index is asked for in excess, at most, as a multiple of the list: a user whose
# list then is short gets an exact one.
EXCESS = 3


def _searched(
    run: Scored,
    search: Search,
    contexts: Contexts,
    requests: Requests,
    domain: int,
    path: str,
    k: int,
    seen_ends: np.ndarray | None,
) -> Listed:
    """`best_items`, as an index finds them."""
    first, end = run.dataset.item_starts[domain : domain + 2].tolist()
    items, count = end - first, len(requests.users)
    barred = np.zeros(0, dtype=np.int64)  # row and column as one number
    if seen_ends is not None:
        device = torch.device("cpu")
        pairs = _seen(contexts, requests.users, seen_ends, domain, None, device)
        barred = np.unique(pairs[0].numpy() * items + pairs[1].numpy())
    seen = np.bincount(barred // items, minlength=count)
    asked = min(items, k + min(int(seen.max(initial=0)), EXCESS * k))
    scores, columns = search.search(contexts, requests, path, asked)
    listed = (columns >= 0) & ~np.isin(np.arange(count)[:, None] * items + columns, barred)
    ranks = listed.cumsum(1)
    short = ranks[:, -1] < np.minimum(k, items - seen)
    row, place = np.nonzero(listed & (ranks <= k) & ~short[:, None])
    parts = [(row, ranks[row, place], first + columns[row, place], scores[row, place])]
    if short.any():
        rows = np.flatnonzero(short)
        ends = None if seen_ends is None else seen_ends[rows]
        exact = best_items(run, contexts, requests.rows(rows), domain, path, k, ends)
        parts.append((rows[exact.rows], exact.ranks, exact.items, exact.scores))
    rows, ranks, found, values = map(np.concatenate, zip(*parts, strict=True))
    order = np.argsort(rows, kind="stable")
    return Listed(rows[order], ranks[order].astype(np.int32), found[order], values[order])


def _seen(
    contexts: Contexts,
    users: np.ndarray,
    ends: np.ndarray,
    domain: int,
    chosen: np.ndarray | None,
    device: torch.device,
) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) of every item of the domain that the users have before `ends`; the columns are
    those of the domain, or their places among the `chosen`."""
    events, rows = user_events(contexts, users, ends)
    inside = contexts.domains[events] == domain
    rows = rows[inside]
    columns = contexts.items[events[inside]].astype(np.int64) - contexts.item_starts[domain]
    if chosen is not None:
        place = np.searchsorted(chosen, columns).clip(max=len(chosen) - 1)
        among = chosen[place] == columns
        rows, columns = rows[among], place[among]
    return to_device(rows, device), to_device(columns, device)
