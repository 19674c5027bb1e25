"""Embeddings of a run as Parquet: the items' vectors, and the users' queries by path."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from src.baselines.decayed_counts import tick_of
from src.config.modes import PATHS
from src.config.settings import Settings
from src.dataset.store.folder import Dataset
from src.evaluation.queries import Ensemble, Queries, encode_queries
from src.serving.bundle_files import Exported, item_vectors

ITEMS, USERS = "item_embeddings.parquet", "user_embeddings.parquet"
GROUP = 2**16  # rows of a row group


def fill_embeddings(folder: Path, exported: Exported) -> None:
    """Write both files into an empty folder. That of the users has their ids."""
    dataset = exported.dataset
    vectors = item_vectors(exported.ensemble, dataset)[1:]
    names = pa.array(dataset.domain_names)
    items = {
        "item_id": pc.cast(dataset.item_ids, pa.string()),
        "domain": names.take(pa.array(dataset.item_domains[1:])),
        "vector": as_lists(vectors),
    }
    pq.write_table(pa.table(items), folder / ITEMS, row_group_size=GROUP)
    schema = pa.schema(
        {"user_id": pa.string(), "path": pa.string(), "domain": pa.string(),
         "vector": pa.list_(pa.float32(), exported.ensemble.hidden)}
    )  # fmt: skip
    with pq.ParquetWriter(folder / USERS, schema) as writer:
        for table in user_tables(exported.ensemble, exported.settings, dataset):
            writer.write_table(table.cast(schema))


def user_tables(ensemble: Ensemble, settings: Settings, dataset: Dataset) -> Iterator[pa.Table]:
    """(user_id, path, domain, vector): the query of every user after all of their events, some
    users at a time. A query that is the same for all domains has no domain."""
    now = int(dataset.times.max()) + tick_of(dataset)
    for path in settings.paths:
        every = PATHS[path].single_domain or ensemble.models[0].reads_domain(path)
        domains = range(len(dataset.domain_names)) if every else range(1)
        for domain in domains:
            name = dataset.domain_names[domain] if every else None
            for start in range(0, dataset.users, GROUP):
                users = np.arange(start, min(start + GROUP, dataset.users))
                yield pa.table(
                    {
                        "user_id": pc.cast(dataset.user_ids.take(pa.array(users)), pa.string()),
                        "path": pa.array([path] * len(users)),
                        "domain": pa.array([name] * len(users), pa.string()),
                        "vector": as_lists(
                            user_queries(ensemble, settings, dataset, users, domain, path, now)
                        ),
                    }
                )


def user_queries(
    ensemble: Ensemble, settings: Settings, dataset: Dataset, users: np.ndarray, domain: int,
    path: str, now: int,
) -> np.ndarray:  # fmt: skip
    """[n, H] float32 the queries of users after all of their events, at the time `now`."""
    times = np.full(len(users), now) if settings.reads_time else None
    asked = np.full(len(users), domain)
    hidden = encode_queries(
        ensemble, dataset, Queries(users, dataset.offsets[users + 1], asked, times), path,
        max_len=settings.max_len, context=settings.context, users_at_once=settings.eval_users,
        device=ensemble.models[0].item_table.device,
    )  # fmt: skip
    return hidden.float().cpu().numpy()


def as_lists(vectors: np.ndarray) -> pa.Array:
    """Rows [n, H] as lists of one length."""
    flat = pa.array(np.ascontiguousarray(vectors, dtype=np.float32).ravel())
    return pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1])
