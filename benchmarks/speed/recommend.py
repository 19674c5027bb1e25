"""Exact top-K lists: share of the matrix-multiplication peak, and other libraries beside.

    python -m venv ENV && ENV/bin/pip install -r benchmarks/speed/requirements-recommend.txt
    ENV/bin/python benchmarks/speed/recommend.py
    python benchmarks/speed/recommend.py --users 10000 --items 20000 --json

Measured is `best_items` (src/serving/lists.py), which makes the lists of recommend.py: the product
of queries and item vectors, the check that every score is finite, the lists, ties in the order of
items. Not measured are encoding contexts into queries and writing tables; seen items stay in the
lists, as the other libraries have no cheap way to leave them out. Vectors are random.

The bare product of one chunk, [rows, H] x [H, width], is timed in the same rounds: the peak of the
lists' own shape. FLOP are the 2 · users · items · H of the scores alone. Beside it, with as many
threads, where they are installed: faiss-cpu's IndexFlatIP, RecTools' TorchRanker and ImplicitRanker
with their defaults, and implicit's topk. `vs_NAME` is their time over ours. Each must give the same
scores. They run in processes of their own, with the C library's allocator as it comes: ours keeps
freed memory, which TorchRanker's results would break into pieces, at 50 MB for every 128 users.

`peak_mib` is the most memory of a separate process that makes the lists of all users, block by
block, and `peak_mib_tenth` of one that makes those of a tenth of them.
"""

import argparse
import importlib
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from benchmarks.speed.common import (
    MatmulPeak,
    alone,
    interleaved,
    machine,
    make_parser,
    peak_mib,
    print_result,
    say,
    seconds,
    spread,
    start,
)
from src.evaluation.queries import domain_scores
from src.evaluation.rank_counts import item_chunks
from src.interfaces import Requests, Scores
from src.io.errors import UserError, run_command
from src.serving.lists import USERS_AT_ONCE, best_items
from tests.support.step_benches import generated_dataset

Lists = tuple[np.ndarray, np.ndarray]  # items from 0 and scores, [users, k]


class RandomRun:
    """What `best_items` serves: random item vectors of one domain, and a query for each user."""

    score_type = np.dtype("float32")
    users_at_once = USERS_AT_ONCE

    def __init__(self, items: int, hidden: int, users: int, device: torch.device):
        self.device = device
        self.item_starts = [1, items + 1]
        self.item_table = torch.empty(items + 1, hidden, device=device).normal_(std=0.1)
        self.dataset = generated_dataset(np.ones(users, dtype=np.int64), [1], [items])
        self.queries: Tensor | None = None  # [users, H]; None: made when they are asked for

    def scores(self, contexts: Any, requests: Requests, domain: int, path: str) -> Scores:
        """⟨query, item⟩, as of a trained run."""
        if self.queries is None:
            queries = torch.randn(len(requests.users), self.item_table.shape[1], device=self.device)
        else:
            queries = self.queries[requests.users]
        return lambda columns: domain_scores(self, queries, domain, columns)

    def blocks(self, k: int) -> Iterator[Any]:
        """The lists of all users."""
        users = np.arange(len(self.dataset.offsets) - 1)
        for first in range(0, len(users), self.users_at_once):
            block = users[first : first + self.users_at_once]
            requests = Requests(block, self.dataset.offsets[1:][block], np.zeros_like(block))
            yield best_items(self, self.dataset, requests, 0, "cross", k)


def ours(run: RandomRun, k: int) -> Lists:
    """This project's lists."""
    blocks = list(run.blocks(k))
    items = np.concatenate([block.items for block in blocks]).reshape(-1, k) - 1
    return items, np.concatenate([block.scores for block in blocks]).reshape(-1, k)


def faiss_lists(queries: np.ndarray, items: np.ndarray, k: int, threads: int) -> Lists:
    """Those of faiss's exhaustive search."""
    faiss = importlib.import_module("faiss")
    faiss.omp_set_num_threads(threads)
    index = faiss.IndexFlatIP(items.shape[1])
    index.add(items)
    scores, columns = index.search(queries, k)
    return columns, scores


def implicit_lists(queries: np.ndarray, items: np.ndarray, k: int, threads: int) -> Lists:
    """Those of implicit's matrix factorisations."""
    topk = importlib.import_module("implicit.cpu.topk").topk
    return topk(items, queries, k, num_threads=threads)


def rectools_torch_lists(queries: np.ndarray, items: np.ndarray, k: int, threads: int) -> Lists:
    """Those of RecTools' transformers."""
    rank = importlib.import_module("rectools.models.rank")
    ranker = rank.TorchRanker(rank.Distance.DOT, "cpu", queries, items)
    _, columns, scores = ranker.rank(np.arange(len(queries)), k)
    return columns.reshape(-1, k), scores.reshape(-1, k)


def rectools_implicit_lists(queries: np.ndarray, items: np.ndarray, k: int, threads: int) -> Lists:
    """Those of RecTools' other models."""
    rank = importlib.import_module("rectools.models.rank")
    ranker = rank.ImplicitRanker(rank.Distance.DOT, queries, items, num_threads=threads)
    _, columns, scores = ranker.rank(np.arange(len(queries)), k)
    return columns.reshape(-1, k), scores.reshape(-1, k)


OTHERS: dict[str, tuple[str, Callable[..., Lists]]] = {  # name: module, lists
    "faiss": ("faiss", faiss_lists),
    "rectools_torch": ("rectools.models.rank", rectools_torch_lists),
    "rectools_implicit": ("rectools.models.rank", rectools_implicit_lists),
    "implicit": ("implicit.cpu.topk", implicit_lists),
}


def installed(module: str) -> bool:
    """Whether a library can be imported."""
    try:
        importlib.import_module(module)
    except ImportError:
        return False
    return True


def compared(name: str, lists: Lists, expected: Lists) -> None:
    """UserError unless the scores are the same but for rounding."""
    if lists[1].shape != expected[1].shape or not np.allclose(lists[1], expected[1], atol=1e-4):
        raise UserError(f"the lists of {name} have other scores than ours")


def random_run(asked: argparse.Namespace, device: torch.device) -> RandomRun:
    """Item vectors and all queries, in every process the same."""
    torch.manual_seed(0)
    run = RandomRun(asked.items, asked.hidden, asked.users, device)
    run.queries = torch.randn(asked.users, asked.hidden, device=device)
    return run


def measure_other(asked: argparse.Namespace) -> float:
    """Seconds that another library takes, in this process, after it has made some right lists."""
    run, lists = random_run(asked, torch.device("cpu")), OTHERS[asked.other][1]
    assert run.queries is not None
    queries, items = run.queries.numpy(), run.item_table[1:].numpy()
    threads, few = torch.get_num_threads(), min(asked.users, 1000)
    sample = RandomRun(asked.items, asked.hidden, few, run.device)
    sample.item_table, sample.queries = run.item_table, run.queries
    compared(asked.other, lists(queries[:few], items, asked.k, threads), ours(sample, asked.k))
    return seconds(lambda: lists(queries, items, asked.k, threads))


def measure(asked: argparse.Namespace, device: torch.device) -> dict[str, Any]:
    """The rounds of all that are installed: {name: seconds, or GFLOP/s of the `product`}."""
    run = random_run(asked, device)
    rows = min(asked.users, run.users_at_once)
    width = item_chunks(asked.items, device)[0].width
    rounds: dict[str, Callable[[], float]] = {
        "product": MatmulPeak(rows, asked.hidden, width, device=device, least=0.3),
        "ours": lambda: seconds(lambda: [None for _ in run.blocks(asked.k)], device),
    }
    for name, (module, _) in OTHERS.items():
        if installed(module):
            rounds[name] = lambda name=name: in_process(asked, asked.users, f"--other={name}")
        else:
            say(f"{name}: missing; benchmarks/speed/requirements-recommend.txt has it")
    return interleaved(rounds, asked.rounds, warm_up=0)


def in_process(asked: argparse.Namespace, users: int, what: str) -> float:
    """The figure that this script gives for so many users in a process of its own."""
    flags = (f"--{name}={getattr(asked, name)}" for name in ("items", "hidden", "k", "threads"))
    return alone(__file__, what, f"--users={users}", f"--device={asked.device}", *flags)["figure"]


def main(arguments: list[str] | None = None) -> None:
    """Measure and print."""
    parser = make_parser(__doc__, rounds=3)
    parser.add_argument("--users", type=int, default=100_000, help="lists to make (100000)")
    parser.add_argument("--items", type=int, default=100_000, help="catalogue size (100000)")
    parser.add_argument("--hidden", type=int, default=64, help="hidden size (64)")
    parser.add_argument("--k", type=int, default=20, help="items per list (20)")
    parser.add_argument("--alone", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("--other", choices=OTHERS, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    if asked.other:
        if asked.threads:
            torch.set_num_threads(asked.threads)
        print(json.dumps({"figure": measure_other(asked)}))
        return
    process = start(asked)
    if asked.alone:
        run = RandomRun(asked.items, asked.hidden, asked.users, process.device)
        for _ in run.blocks(asked.k):
            pass
        print(json.dumps({"figure": peak_mib(process.device)}))
        return
    few, every = (in_process(asked, users, "--alone") for users in (asked.users // 10, asked.users))
    rounds = measure(asked, process.device)
    gflop = 2e-9 * asked.users * asked.items * asked.hidden
    peaks, times = rounds.pop("product"), rounds["ours"]
    shares = [gflop / time / peak for time, peak in zip(times, peaks, strict=True)]
    ratios = {
        f"vs_{name}": [other / time for other, time in zip(rounds[name], times, strict=True)]
        if name in rounds
        else None
        for name in OTHERS
    }
    result = {
        "users": asked.users, "items": asked.items, "hidden": asked.hidden, "k": asked.k,
        "seconds": median(times), "share_of_peak": median(shares), "peak_gflops": median(peaks),
        **{name: values and median(values) for name, values in ratios.items()},
        "peak_mib": every, "peak_mib_tenth": few,
        "rounds": {"peak_gflops": peaks, "seconds": rounds}, **machine(process),
    }  # fmt: skip
    lines = [
        [f"{asked.users} users, {asked.items} items, H {asked.hidden}", "median (range)"],
        ["lists, s", spread(times)],
        ["product, GFLOP/s", spread(peaks)],
        ["share of the product's", spread(shares)],
        *([f"{name}, s", spread(rounds[name])] for name in OTHERS if name in rounds),
        *([name, spread(values) if values else "missing"] for name, values in ratios.items()),
        ["peak memory, MiB", f"{every:.0f}"],
        ["with a tenth of the users, MiB", f"{few:.0f}"],
    ]
    print_result(result, lines, asked.json)


if __name__ == "__main__":
    run_command(main)
