"""What each user may want next: run folder -> top-K items per user and domain.

    python recommend.py --run runs/amazon/syncrec-ce-seed42 --k 10

The context is everything that the log knows of a user, validation and test events included.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from models import SyNCRec
from src.arguments import build_parser, config_defaults, from_namespace, setting
from src.checkpoint import read_checkpoint
from src.dataset.folder import TEST, Dataset
from src.errors import UserError, run_command
from src.evaluation.ranks import NonFiniteScore, check_finite
from src.ranking import Targets, encode_targets
from src.settings import Settings, check_settings
from utils import model_parts, open_data, start_process, write_atomically

WRITERS = {".parquet": pq.write_table, ".csv": pyarrow.csv.write_csv}


@dataclass(frozen=True)
class RecommendSettings:
    """What `recommend.py` can be told."""

    run: str = setting("", "run folder of main.py (needed)")
    k: int = setting(10, "items a user and domain")
    out: str = setting("", ".parquet or .csv; else recommendations.parquet in the run folder")
    users: tuple[str, ...] = setting((), "ids of the log; none named: all")
    domains: tuple[str, ...] = setting((), "names of the log; none named: all")
    serve_path: str | None = setting(
        None,
        "view to rank by; else the one that picked the checkpoint",
        choices=("cross", "single"),
    )
    exclude_seen: bool = setting(True, "leave out what the user has in the log")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")


@dataclass(frozen=True)
class TrainedRun:
    """A finished run, ready to rank: one model, or one a domain (`mode sdsr_separate`)."""

    settings: Settings
    dataset: Dataset
    models: list[SyNCRec]
    device: torch.device


def open_trained(folder: Path, device: torch.device) -> TrainedRun:
    """The dataset and the best checkpoints of a run folder.

    Raises UserError when the folder holds no trained run, or its dataset is not the one it was
    trained on.
    """
    settings = Settings(**config_defaults(Settings, folder / "config.json"))
    check_settings(settings)
    dataset = open_data(settings)
    models = []
    for part, part_folder in model_parts(settings, dataset, folder):
        model = SyNCRec(settings, part.item_starts.tolist()).to(device).eval()
        model.load_state_dict(
            read_checkpoint(part_folder / "best.pt", settings, part, device)["model"]
        )
        models.append(model)
    return TrainedRun(settings, dataset, models, device)


def recommend(
    run: TrainedRun,
    *,
    k: int = 10,
    users: np.ndarray | None = None,
    domains: list[int] | None = None,
    path: str | None = None,
    exclude_seen: bool = True,
) -> pa.Table:
    """The k best items of each user in each domain, best first; fewer where a domain has fewer.

    Parameters
    ----------
    users: dense ids, default all. domains: dense ids, default all.
    path: `cross` or `single`, default the one that picked the checkpoint.
    exclude_seen: leave out every item of the user's own events.

    Returns the columns user_id, domain, rank (from 1), item_id, score, by user, domain and rank.
    """
    dataset, path = run.dataset, path or run.settings.paths[0]
    users = np.arange(dataset.users) if users is None else np.asarray(users)
    domains = list(range(len(dataset.domain_names))) if domains is None else domains
    tables = []
    with tqdm(total=len(users), desc="recommending", unit="user", disable=None, leave=False) as bar:
        for start in range(0, len(users), run.settings.eval_users):
            some = users[start : start + run.settings.eval_users]
            tables.extend(_chunk_tables(run, some, domains, path, k, exclude_seen))
            bar.update(len(some))
    columns = pa.concat_tables(tables)
    order = [("user", "ascending"), ("domain", "ascending"), ("rank", "ascending")]
    return _named(dataset, columns.sort_by(order))


def _chunk_tables(
    run: TrainedRun, users: np.ndarray, domains: list[int], path: str, k: int, exclude_seen: bool
) -> Iterator[pa.Table]:
    """Dense (user, domain, rank, item, score) of some users, a table a domain."""
    for domain in domains:
        data, model, own = with_next_event(run.dataset, users, domain), run.models[0], domain
        if len(run.models) > 1:
            data, model, own = data.only_domain(domain), run.models[domain], 0
        scores = _next_scores(run, model, data, own, path)  # [users, V_d]
        if exclude_seen:
            rows, columns = _seen(data, own)
            scores[rows, columns] = -torch.inf
        best, places = scores.topk(min(k, scores.shape[1]), dim=1)  # [users, k], best first
        best, places = best.cpu().numpy(), places.cpu().numpy()
        row, rank = np.nonzero(np.isfinite(best))  # what is excluded stands at the end
        yield pa.table(
            {
                "user": users[row],
                "domain": np.full(len(row), domain),
                "rank": rank.astype(np.int32) + np.int32(1),
                "item": run.dataset.item_starts[domain] + places[row, rank],
                "score": best[row, rank],
            }
        )


def with_next_event(dataset: Dataset, users: np.ndarray, domain: int) -> Dataset:
    """The users' events, and after them one of `domain` that has yet to come.

    Its item stands for any: a target is never an input.
    """
    starts, ends = dataset.offsets[users], dataset.offsets[users + 1]
    lengths = ends - starts
    offsets = np.concatenate([[0], np.cumsum(lengths + 1)])
    known = np.ones(offsets[-1], dtype=bool)
    known[offsets[1:] - 1] = False
    rows = np.repeat(np.arange(len(users)), lengths)
    events = starts[rows] + np.flatnonzero(known) - offsets[rows]

    def extended(values: np.ndarray, following: int | np.ndarray) -> np.ndarray:
        filled = np.empty(offsets[-1], dtype=values.dtype)
        filled[known], filled[~known] = values[events], following
        return filled

    return dataclasses.replace(
        dataset,
        offsets=offsets,
        items=extended(dataset.items, dataset.item_starts[domain]),
        domains=extended(dataset.domains, domain),
        times=extended(dataset.times, dataset.times[ends - 1]),
        split=extended(dataset.split, TEST),
        folder_users=users if dataset.folder_users is None else dataset.folder_users[users],
    )


@torch.no_grad()
def _next_scores(
    run: TrainedRun, model: SyNCRec, data: Dataset, domain: int, path: str
) -> torch.Tensor:
    """[users, V_d] scores of the domain's items for each user's last event."""
    events, users = data.offsets[1:] - 1, np.arange(data.users)
    items, domains = data.items[events].astype(np.int64), np.full(data.users, domain)
    hidden = encode_targets(
        model, data, Targets("next", events, users, items, domains), path, users,
        max_len=run.settings.max_len, context=run.settings.sdsr_context,
        users_at_once=run.settings.eval_users, device=run.device,
    )  # fmt: skip
    scores = model.item_scores(hidden, domain)
    try:
        check_finite(scores)
    except NonFiniteScore as fault:
        raise UserError(
            f"a score of user {data.user_ids[fault.row]} in {data.domain_names[domain]} is not "
            "finite: the model has diverged; train again with a lower --lr or with --clip_norm"
        ) from None
    return scores


def _seen(data: Dataset, domain: int) -> tuple[np.ndarray, np.ndarray]:
    """User and place among the domain's items of every event but each user's last one."""
    real = np.ones(len(data.items), dtype=bool)
    real[data.offsets[1:] - 1] = False
    events = np.flatnonzero(real & (data.domains == domain))
    rows = np.searchsorted(data.offsets, events, side="right") - 1
    return rows, data.items[events] - data.item_starts[domain]


def _named(dataset: Dataset, columns: pa.Table) -> pa.Table:
    """Dense ids as the log's own."""
    names = pa.array(dataset.domain_names)
    return pa.table(
        {
            "user_id": dataset.user_ids.take(columns["user"]),
            "domain": names.take(columns["domain"].combine_chunks()),
            "rank": columns["rank"],
            "item_id": dataset.item_ids.take(pc.subtract(columns["item"], 1)),
            "score": columns["score"],
        }
    )


def chosen_users(dataset: Dataset, ids: tuple[str, ...]) -> np.ndarray | None:
    """Dense ids of the users named; None for all. UserError for a user not in the dataset."""
    if not ids:
        return None
    found = pc.index_in(pa.array(ids), value_set=pc.cast(dataset.user_ids, pa.string()))
    for name, place in zip(ids, found, strict=True):
        if not place.is_valid:
            raise UserError(f"--users: {name} is not among the users of {dataset.folder}")
    return np.unique(found.to_numpy())


def chosen_domains(dataset: Dataset, names: tuple[str, ...]) -> list[int] | None:
    """Dense ids of the domains named; None for all. UserError for an unknown one."""
    for name in names:
        if name not in dataset.domain_names:
            known = ", ".join(dataset.domain_names)
            raise UserError(f"--domains: {name} is unknown; {dataset.folder} has {known}")
    return sorted({dataset.domain_names.index(name) for name in names}) or None


def output_path(settings: RecommendSettings) -> Path:
    """Where the table goes; refused before the work where it cannot be written."""
    path = Path(settings.out) if settings.out else Path(settings.run) / "recommendations.parquet"
    if path.suffix not in WRITERS:
        raise UserError(f"--out {path}: the name must end in {' or '.join(WRITERS)}")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: the folder {path.parent} does not exist")
    return path


def main(arguments: list[str] | None = None) -> None:
    """Rank, and write the table. Raises UserError for every mistake of the user."""
    parser = build_parser(RecommendSettings, __doc__.splitlines()[0])
    settings = from_namespace(RecommendSettings, parser.parse_args(arguments))
    if not settings.run:
        raise UserError("--run is needed, as in --run runs/amazon/syncrec-ce-seed42")
    if settings.k < 1:
        raise UserError(f"--k must be at least 1, not {settings.k}")
    folder = Path(settings.run)
    if not (folder / "config.json").is_file():
        raise UserError(f"--run {folder} holds no run (no config.json); train it with main.py")
    out = output_path(settings)
    run = open_trained(folder, start_process(settings.device).device)
    if settings.serve_path and settings.serve_path not in run.settings.paths:
        raise UserError(
            f"--serve_path {settings.serve_path}: a run of --mode {run.settings.mode} has the path "
            f"{' and '.join(run.settings.paths)} alone"
        )
    table = recommend(
        run,
        k=settings.k,
        users=chosen_users(run.dataset, settings.users),
        domains=chosen_domains(run.dataset, settings.domains),
        path=settings.serve_path,
        exclude_seen=settings.exclude_seen,
    )
    write_atomically(out, lambda temporary: WRITERS[out.suffix](table, temporary))
    print(f"{table.num_rows} recommendations: {out}")


if __name__ == "__main__":
    run_command(main)
