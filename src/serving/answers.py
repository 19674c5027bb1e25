"""Answers to questions about histories: lists from a bundle, of many questions at a time."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from src.interfaces import Requests
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
        for domain in sorted({domain for asked in questions for domain in asked.domains}):
            self._list_domain(questions, contexts, requests, domain, lists)
        return [
            {
                "lists": of_question,
                "context_events": int(events),
                "skipped_events": question.skipped,
            }
            for question, events, of_question in zip(questions, known, lists, strict=True)
        ]

    def _contexts(self, questions: list[Question]) -> Contexts:
        """The events of the questions, as those of users without a name."""
        lengths = [len(question.items) for question in questions]
        items = np.concatenate([question.items for question in questions])
        starts = self.bundle.dataset.item_starts
        everyone = np.arange(len(questions))
        new = NewEvents(
            user_ids=pa.array([""] * len(questions), pa.string()),
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
            listed = best_items(
                self.bundle, contexts, requests.rows(rows), domain, path, longest, seen
            )
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
