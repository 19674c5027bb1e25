"""Recommend: run folder -> top-K items per user and domain.

    python recommend.py --run runs/amazon/syncrec-ce-seed42 --k 10

The context is all of a user's events in the log, including validation and test events.
"""

import src.io.starting  # noqa: F401  # isort: skip

import dataclasses
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.csv
import pyarrow.parquet as pq
import torch
from tqdm import tqdm

from src.baselines.decayed_counts import tick_of
from src.config.cli import build_parser, from_namespace, setting
from src.config.modes import BLEND, PATHS
from src.config.settings import Settings, run_settings
from src.config.validation import check_settings
from src.dataset.store.folder import Dataset, open_named
from src.evaluation.beyond_accuracy import top_items
from src.evaluation.blend import Blend, BlendScorer, FeatureSource, blended, feature_names
from src.evaluation.path_scores import fit_count_models, path_scorers
from src.evaluation.queries import Ensemble, Queries, domain_scores, encode_queries
from src.evaluation.rank_counts import NonFiniteScore, check_finite, to_device
from src.evaluation.ranking import Plan
from src.evaluation.targets import Targets, user_events
from src.interfaces import CountModel, Scores
from src.io.errors import UserError, run_command
from src.io.files import check_output, write_atomically
from src.runs.models import best_models
from src.runs.records import read_blend, read_serving
from utils import start_process

WRITERS = {".parquet": pq.write_table, ".csv": pyarrow.csv.write_csv}


@dataclass(frozen=True)
class RecommendSettings:
    """The flags of `recommend.py`."""

    run: str = setting("", "run folder of main.py (required)")
    data_dir: str = setting("", "dataset folder, if it has moved since training")
    k: int = setting(10, "items per user and domain")
    out: str = setting("", ".parquet or .csv file; default: recommendations.parquet of the run")
    users: tuple[str, ...] = setting((), "user ids of the log; default: all")
    users_file: str = setting("", "file with more user ids, one per line")
    domains: tuple[str, ...] = setting((), "domains of the log; default: all")
    serve_path: str = setting(
        "auto",
        "view to rank by; auto: cross, or single in domains where it was better on validation; "
        "blend: both views, recent counts and habit, as weighed on validation",
        choices=("auto", *PATHS, BLEND),
    )
    now: str = setting(
        "",
        "time of the recommendations for --serve_path blend and runs with --time_embedding, "
        "YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, UTC: what came before it counts; default: after the "
        "newest event of the log",
    )
    exclude_seen: bool = setting(True, "exclude the items that the user has in the log")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")


@dataclass(frozen=True)
class TrainedRun:
    """A finished run with its models loaded."""

    settings: Settings
    dataset: Dataset
    ensemble: Ensemble
    paths: dict[str, str]  # {domain: the path that serves it}
    device: torch.device
    chosen: bool = True  # whether serving.json chose them, or there is a single path
    blend: Blend | None = None  # if it was asked for
    count_models: dict[str, CountModel] = field(default_factory=dict)  # of the blend, to date


def open_trained(folder: Path, device: torch.device, data_dir: str = "") -> TrainedRun:
    """The dataset, the best checkpoints and the serving paths of a run folder; `data_dir` is the
    dataset folder, if it has moved.

    Raises UserError when the folder holds no trained run, or the dataset is not its training data.
    """
    settings = run_settings(folder)
    check_settings(settings)
    try:
        dataset = open_named(dataclasses.replace(settings, data_dir=data_dir or settings.data_dir))
    except UserError as error:
        if data_dir:
            raise
        raise UserError(
            f"{error}; if the dataset has moved, give its folder as --data_dir"
        ) from None
    ensemble = best_models(settings, dataset, folder, device)
    paths = dict.fromkeys(dataset.domain_names, settings.paths[0])
    both = len(settings.paths) == 2
    chosen = not both or (folder / "serving.json").is_file()
    if both and chosen:
        serving = read_serving(folder, dataset.domain_names)
        paths = {name: serving[name]["path"] for name in dataset.domain_names}
    return TrainedRun(settings, dataset, ensemble, paths, device, chosen)


def with_blend(run: TrainedRun, folder: Path) -> TrainedRun:
    """The run with the blend of its folder; its count models count every event of the log."""
    fitted = blended(fit_count_models(run.dataset, run.settings), run.settings)
    features = feature_names(run.settings.paths, fitted)
    blend = read_blend(folder, run.dataset.domain_names, features)
    to_date = {name: model.to_date() for name, model in fitted.items()}
    return dataclasses.replace(run, blend=blend, count_models=to_date)


def recommend(
    run: TrainedRun,
    *,
    k: int = 10,
    users: np.ndarray | None = None,
    domains: list[int] | None = None,
    path: str = "auto",
    exclude_seen: bool = True,
    now: int | None = None,
) -> pa.Table:
    """The k best items of each user in each domain, best first; fewer where a domain has fewer.

    Parameters
    ----------
    users: dense ids, default all. domains: dense ids, default all.
    path: `cross`, `single`, `blend` (of a run `with_blend`), or `auto`: in each domain the one that
        serves it.
    exclude_seen: leave out every item of the user's events.
    now: for the blend and models that read the time, seconds since 1970: only events before it
        count, those of the user too. Default: all events do.

    Returns the columns user_id, domain, rank (from 1), item_id, score, ordered by user, domain and
    rank.
    """
    dataset = run.dataset
    users = np.arange(dataset.users) if users is None else np.asarray(users)
    domains = list(range(len(dataset.domain_names))) if domains is None else domains
    reads_time = path == BLEND or run.settings.reads_time
    if now is None:
        now = int(dataset.times.max()) + tick_of(dataset) if reads_time else 0
    tables = []
    with tqdm(total=len(users), desc="recommending", unit="user", disable=None, leave=False) as bar:
        for start in range(0, len(users), run.settings.eval_users):
            batch = users[start : start + run.settings.eval_users]
            ends = _ends(dataset, batch, now) if reads_time else dataset.offsets[batch + 1]
            for domain in domains:
                serving = run.paths[dataset.domain_names[domain]] if path == "auto" else path
                if serving == BLEND:
                    scored = _blend_scores(run, batch, ends, domain, now)
                else:
                    scored = _path_scores(run, batch, ends, domain, serving, now)
                tables.append(_next_items(run, batch, domain, scored, k, exclude_seen))
            bar.update(len(batch))
    columns = pa.concat_tables(tables)
    order = [("user", "ascending"), ("domain", "ascending"), ("rank", "ascending")]
    return _named(dataset, columns.sort_by(order))


def _path_scores(
    run: TrainedRun, users: np.ndarray, ends: np.ndarray, domain: int, path: str, now: int
) -> Scores:
    """Scores of a domain's items for the users, by a path of the model, from their events before
    `ends`; at the time `now`, where it reads the time."""
    ensemble = run.ensemble
    times = np.full(len(users), now) if run.settings.reads_time else None
    queries = Queries(users, ends, np.full(len(users), domain), times)
    hidden = encode_queries(
        ensemble, run.dataset, queries, path,
        max_len=run.settings.max_len,
        context=run.settings.context,
        users_at_once=run.settings.eval_users, device=run.device,
    )  # fmt: skip
    model, number = ensemble.of(domain)
    return lambda columns: domain_scores(model, hidden, number, columns)


def _blend_scores(
    run: TrainedRun, users: np.ndarray, ends: np.ndarray, domain: int, now: int
) -> Scores:
    """Scores of a domain's items for the users at the time `now`, by the blend, from their events
    before `ends`."""
    rows = np.arange(len(users))
    same = np.ones_like(rows)
    requests = Targets("now", ends, users, 0 * same, domain * same, ends, now * same)
    plan = Plan(run.dataset, requests, ("full",), {}, run.device)
    paths = path_scorers(run.ensemble, run.settings, plan, rows)
    source = FeatureSource(plan, paths, run.count_models)
    assert run.blend is not None
    return BlendScorer(run.blend, source).of(rows).scores(rows, domain)


def _ends(data: Dataset, users: np.ndarray, now: int) -> np.ndarray:
    """[n] where each user's events of ticks before the time `now` end."""
    events, row = user_events(data, users, data.offsets[users + 1])
    tick = tick_of(data)
    earlier = data.times[events] // tick < now // tick
    return data.offsets[users] + np.bincount(row[earlier], minlength=len(users))


def _next_items(
    run: TrainedRun, users: np.ndarray, domain: int, scored: Scores, k: int, exclude_seen: bool
) -> pa.Table:
    """Dense (user, domain, rank, item, score) of the k best items of each of `users`."""
    data = run.dataset
    first, end = data.item_starts[domain : domain + 2].tolist()

    def scores(columns: slice | torch.Tensor) -> torch.Tensor:
        return _finite(scored(columns), data, users, domain)

    excluded = _seen(data, users, domain, run.device) if exclude_seen else None
    best, columns = (
        part.cpu().numpy() for part in top_items(scores, end - first, k, run.device, excluded)
    )
    row, rank = np.nonzero(np.isfinite(best))  # excluded items come last, with −inf
    return pa.table(
        {
            "user": users[row],
            "domain": np.full(len(row), domain),
            "rank": rank.astype(np.int32) + np.int32(1),
            "item": first + columns[row, rank],
            "score": best[row, rank],
        }
    )


def _finite(scores: torch.Tensor, data: Dataset, users: np.ndarray, domain: int) -> torch.Tensor:
    """The scores [users, columns] unchanged; UserError where one is not finite."""
    try:
        check_finite(scores)
    except NonFiniteScore as fault:
        raise UserError(
            f"a score of user {data.user_ids[int(users[fault.row])]} in "
            f"{data.domain_names[domain]} is not finite: the model has diverged; train again with "
            "a lower --lr or with --clip_norm"
        ) from None
    return scores


def _seen(
    data: Dataset, users: np.ndarray, domain: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor]:
    """(row, column) of every item of the domain that the users have in the log."""
    events, rows = user_events(data, users, data.offsets[users + 1])
    inside = data.domains[events] == domain
    columns = data.items[events[inside]].astype(np.int64) - data.item_starts[domain]
    return to_device(rows[inside], device), to_device(columns, device)


def _named(dataset: Dataset, columns: pa.Table) -> pa.Table:
    """The table with the ids of the log in place of dense ids."""
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


def chosen_users(dataset: Dataset, ids: tuple[str, ...], users_file: str = "") -> np.ndarray | None:
    """Dense ids of the users named on the command line and in a file; None for all. UserError for
    users not in the dataset."""
    known, chosen = pc.cast(dataset.user_ids, pa.string()), []
    named = [("--users", list(ids)), (f"--users_file {users_file}", _ids_in(users_file))]
    for source, names in named:
        users = pc.index_in(pa.array(names, pa.string()), value_set=known)
        if users.null_count:
            unknown = pc.index(users.is_null(), True).as_py()
            more = f" (and {users.null_count - 1} more)" if users.null_count > 1 else ""
            raise UserError(
                f"{source}: {names[unknown]}{more} is not among the users of {dataset.folder}"
            )
        chosen.append(users.to_numpy())
    return np.unique(np.concatenate(chosen)) if ids or users_file else None


def _ids_in(path: str) -> list[str]:
    """The ids in a text file, one per line, without empty lines; [] without a file."""
    if not path:
        return []
    try:
        # not `splitlines`, which also splits at characters that an id may have, such as U+2028
        ids = [line for line in Path(path).read_text("utf-8-sig").split("\n") if line]
    except OSError as error:
        raise UserError(f"--users_file {path} cannot be read ({error.strerror})") from None
    except UnicodeDecodeError:
        raise UserError(f"--users_file {path} is not UTF-8 text; save it as UTF-8") from None
    if not ids:
        raise UserError(f"--users_file {path} holds no id; write one per line, or drop it")
    return ids


def chosen_domains(dataset: Dataset, names: tuple[str, ...]) -> list[int] | None:
    """Dense ids of the domains named; None for all. UserError for an unknown one."""
    for name in names:
        if name not in dataset.domain_names:
            known = ", ".join(dataset.domain_names)
            raise UserError(f"--domains: {name} is unknown; {dataset.folder} has {known}")
    return sorted({dataset.domain_names.index(name) for name in names}) or None


def time_of(settings: RecommendSettings, reads_time: bool) -> int | None:
    """--now in seconds since 1970; None where it is not given. UserError for another form, and
    where nothing reads it: `reads_time` says whether the model does."""
    if not settings.now:
        return None
    if settings.serve_path != BLEND and not reads_time:
        raise UserError(
            f"--now needs --serve_path {BLEND}, or a run with --time_embedding: the other paths "
            "don't read the time"
        )
    try:
        moment = datetime.fromisoformat(settings.now)
        moment = moment.astimezone(UTC) if moment.tzinfo else moment.replace(tzinfo=UTC)
        return int(moment.timestamp())
    except ValueError:
        raise UserError(
            f"--now {settings.now!r} is no time; write YYYY-MM-DD or YYYY-MM-DDTHH:MM:SS, UTC"
        ) from None


def output_path(settings: RecommendSettings) -> Path:
    """The output file; UserError, before any work, where it cannot be written."""
    path = Path(settings.out) if settings.out else Path(settings.run) / "recommendations.parquet"
    if path.suffix not in WRITERS:
        raise UserError(f"--out {path}: the name must end in {' or '.join(WRITERS)}")
    if not path.parent.is_dir():
        raise UserError(f"--out {path}: the folder {path.parent} does not exist")
    check_output(path, "--out")
    return path


def missing_lists(
    run: TrainedRun, table: pa.Table, users: np.ndarray | None, domains: list[int] | None
) -> str:
    """A line about the lists that `recommend` left empty; empty where there are none.

    A list is empty where the user has every item of the domain in the log.
    """
    names = run.dataset.domain_names
    asked = names if domains is None else [names[domain] for domain in domains]
    ids = pc.cast(run.dataset.user_ids, pa.string())
    ids = ids if users is None else ids.take(pa.array(users))
    listed = table.group_by(["user_id", "domain"]).aggregate([])
    count = len(ids) * len(asked) - len(listed)
    if not count:
        return ""
    listed_users = pc.cast(listed["user_id"], pa.string())
    without = len(ids) - pc.count_distinct(listed_users).as_py()
    for name in asked:
        have = listed_users.filter(pc.equal(listed["domain"], name))
        lacking = ids.filter(pc.invert(pc.is_in(ids, value_set=have)))
        if len(lacking):
            break
    return (
        f"no candidate is left for {count:,} of {len(ids) * len(asked):,} lists, because the user "
        f"has every item of the domain (first: user {lacking[0]}, {name}); {without:,} of "
        f"{len(ids):,} users have no list at all; --no-exclude_seen ranks those items too"
    )


def main(arguments: list[str] | None = None) -> None:
    """Rank, and write the table. Raises UserError for mistakes."""
    parser = build_parser(RecommendSettings, __doc__.splitlines()[0])
    settings = from_namespace(RecommendSettings, parser.parse_args(arguments))
    if not settings.run:
        raise UserError("--run is required, as in --run runs/amazon/syncrec-ce-seed42")
    if settings.k < 1:
        raise UserError(f"--k must be at least 1, not {settings.k}")
    folder = Path(settings.run)
    if not (folder / "config.json").is_file():
        raise UserError(f"--run {folder} holds no run (no config.json); train it with main.py")
    out, now = output_path(settings), time_of(settings, run_settings(folder).reads_time)
    run = open_trained(folder, start_process(settings.device).device, settings.data_dir)
    if settings.serve_path not in ("auto", BLEND, *run.settings.paths):
        raise UserError(
            f"--serve_path {settings.serve_path}: a run of --mode {run.settings.mode} has only the "
            f"path {' and '.join(run.settings.paths)}"
        )
    users = chosen_users(run.dataset, settings.users, settings.users_file)
    domains = chosen_domains(run.dataset, settings.domains)
    if settings.serve_path == "auto" and not run.chosen:
        print(
            f"{folder} has no serving.json: {run.settings.paths[0]} serves every domain; main.py "
            f"--evaluate {folder} chooses the path of each on validation"
        )
    if settings.serve_path == BLEND:
        run = with_blend(run, folder)
    table = recommend(
        run,
        k=settings.k,
        users=users,
        domains=domains,
        path=settings.serve_path,
        exclude_seen=settings.exclude_seen,
        now=now,
    )
    write_atomically(out, lambda temporary: WRITERS[out.suffix](table, temporary))
    if line := missing_lists(run, table, users, domains):
        print(line)
    print(f"{table.num_rows} recommendations: {out}")


if __name__ == "__main__":
    run_command(main)
