"""Answers to questions about histories: lists from a bundle, of many questions at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from torch import Tensor

from src.dataset.store.folder import Dataset
from src.interfaces import Requests, Scores
from src.serving.bundle import Bundle
from src.serving.contexts import Contexts, NewEvents
from src.serving.lists import best_items, known_ends
from src.serving.questions import Question


@dataclass(frozen=True)
class Answerer:
    """Answers by one path of a bundle, or by that which serves each domain (auto)."""

    bundle: Bundle
    path: str = "auto"

    def answers(self, questions: list[Question]) -> list[dict[str, Any]]:
        """The answer to each question, which does not depend on the others but for the rounding of
        scores: `lists` (of each domain its `items` with scores, best first, and the `path` that
        made it), `context_events` (how many events the lists know) and `skipped_events` (of items
        that the bundle lacks)."""
        contexts = self._contexts(questions)
        requests = self._requests(questions, contexts)
        known = requests.ends - contexts.offsets[:-1]
        lists: list[list[dict[str, Any]]] = [[] for _ in questions]
        encoded = Encoded.of(self.bundle, questions, contexts, requests)
        for domain in sorted({domain for asked in questions for domain in asked.domains}):
            self._list_domain(questions, encoded, contexts, requests, domain, lists)
        return [
            {
                "lists": of_question,
                "context_events": int(events),
                "skipped_events": question.skipped,
            }
            for question, events, of_question in zip(questions, known, lists, strict=True)
        ]

    def _contexts(self, questions: list[Question]) -> Contexts:
        """The events of the questions, each of a user of its own."""
        lengths = [len(question.items) for question in questions]
        items = np.concatenate([question.items for question in questions])
        starts = self.bundle.dataset.item_starts
        everyone = np.arange(len(questions))
        new = NewEvents(
            user_ids=pa.array([question.user_id for question in questions], pa.string()),
            named=everyone,
            users=np.repeat(everyone, lengths),
            items=items,
            domains=np.searchsorted(starts, items, side="right") - 1,
            times=np.concatenate([question.times for question in questions]),
        )
        return self.bundle.history(new).contexts(everyone)

    def _requests(self, questions: list[Question], contexts: Contexts) -> Requests:
        tick = self.bundle.facts["counts"]["tick"]
        after = [
            max(self.bundle.end, int(question.times.max(initial=0)) + tick)
            if question.now is None
            else question.now
            for question in questions
        ]
        now, ends = np.array(after, dtype=np.int64), contexts.offsets[1:]
        if self.bundle.reads_time(self.path):
            ends = known_ends(contexts, now, tick)
        return Requests(np.arange(len(questions)), ends, now)

    def _list_domain(
        self,
        questions: list[Question],
        encoded: "Encoded",
        contexts: Contexts,
        requests: Requests,
        domain: int,
        lists: list[list[dict[str, Any]]],
    ) -> None:
        """Add the lists of a domain to those of the questions that ask for it."""
        dataset = self.bundle.dataset
        users = np.flatnonzero([domain in question.domains for question in questions])
        excludes = np.array([question.exclude_seen for question in questions])
        lengths = np.array([question.k for question in questions])
        ends = requests.ends[users]
        by_path = self.bundle.rows_by_path(contexts, users, ends, domain, self.path)
        for path, places in by_path.items():
            rows = users[places]
            seen = np.where(excludes, contexts.offsets[1:], contexts.offsets[:-1])[rows]
            longest = int(lengths[rows].max())
            listed = best_items(encoded, contexts, requests.rows(rows), domain, path, longest, seen)
            inside = listed.ranks <= lengths[rows][listed.rows]
            row = listed.rows[inside]
            ids = dataset.item_ids.take(pa.array(listed.items[inside] - 1)).to_pylist()
            scores = [float(f"{score:.7g}") for score in listed.scores[inside].tolist()]
            edges = np.searchsorted(row, np.arange(len(rows) + 1))
            for number, start, end in zip(rows.tolist(), edges, edges[1:], strict=False):
                pairs = zip(ids[start:end], scores[start:end], strict=True)
                lists[number].append(
                    {
                        "domain": dataset.domain_names[domain],
                        "path": path,
                        "items": [{"item_id": item_id, "score": score} for item_id, score in pairs],
                    }
                )


@dataclass(frozen=True)
class Encoded:
    """The queries of a batch in all domains that are asked for, from one call of the graph; scores
    as the bundle (src/serving/lists.py, `Scored`)."""

    bundle: Bundle
    rows: np.ndarray  # [n, D] the row of each question and domain; −1 where it is not asked for
    queries: dict[str, Tensor]  # {path: [rows, H]}

    @classmethod
    def of(
        cls, bundle: Bundle, questions: list[Question], contexts: Contexts, requests: Requests
    ) -> "Encoded":
        """Encode each question for each of its domains, or once where that makes no difference."""
        asks = np.zeros((len(questions), len(bundle.dataset.domain_names)), dtype=bool)
        for number, question in enumerate(questions):
            asks[number, list(question.domains)] = True
        if bundle.reads_domain:
            users, domains = np.nonzero(asks)
            rows = np.where(asks, asks.cumsum().reshape(asks.shape) - 1, -1)
        else:
            users, domains = np.arange(len(questions)), np.zeros(len(questions), dtype=np.int64)
            rows = np.where(asks, users[:, None], -1)
        return cls(bundle, rows, bundle.queries(contexts, requests.rows(users), domains))

    @property
    def dataset(self) -> Dataset:
        """The catalogue."""
        return self.bundle.dataset

    @property
    def device(self) -> torch.device:
        """Where the scores are."""
        return self.bundle.device

    @property
    def score_type(self) -> np.dtype:
        """The type of the scores in the lists."""
        return self.bundle.score_type

    def scores(self, contexts: Contexts, requests: Requests, domain: int, path: str) -> Scores:
        """Scores of a domain's items for some of the questions, by a path."""
        rows = torch.from_numpy(self.rows[requests.users, domain])
        queries = {name: hidden[rows] for name, hidden in self.queries.items()}
        return self.bundle.scores_of(queries, contexts, requests, domain, path)
