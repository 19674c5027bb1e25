"""What happened, for the console: which paths made the lists, and which lists stayed empty."""

from dataclasses import dataclass, field

import numpy as np

from src.config.modes import CROSS
from src.config.names import NEWCOMER_MODEL
from src.serving.lists import BlockLists


@dataclass
class Summary:
    """Counts over the blocks that it has seen."""

    users: int = 0
    lists: int = 0
    items: int = 0
    empty: dict[int, int] = field(default_factory=dict)  # {domain: lists without an item}
    without: int = 0  # users without any list
    repeated: int = 0  # new events that were known already
    by_path: dict[str, int] = field(default_factory=dict)
    newcomers: int = 0  # users without an event
    first_empty: dict[int, str] = field(default_factory=dict)  # {domain: user id}

    def add(self, block: BlockLists) -> None:
        """Count a block."""
        empty = block.lengths == 0
        self.users += len(empty)
        self.lists += empty.size
        self.items += int(block.lengths.sum())
        self.without += int(empty.all(axis=1).sum())
        self.repeated += block.repeated
        self.newcomers += int((block.context_events == 0).sum())
        for path, count in zip(
            *np.unique(block.paths.astype(str), return_counts=True), strict=True
        ):
            self.by_path[path] = self.by_path.get(path, 0) + int(count)
        for column, domain in enumerate(block.domains):
            if not empty[:, column].any():
                continue
            self.empty[domain] = self.empty.get(domain, 0) + int(empty[:, column].sum())
            user = str(block.user_ids[int(np.argmax(empty[:, column]))])
            self.first_empty.setdefault(domain, user)

    def lines(
        self, domain_names: list[str], serving: set[str], listable: set[int] | None
    ) -> list[str]:
        """What to say; `serving` are the paths that serve a domain, `listable` the domains that
        have a candidate, where only some items may be listed."""
        lines = []
        crossed = 0 if CROSS in serving else self.by_path.get(CROSS, 0)
        if crossed or self.newcomers:
            lines.append(
                f"{crossed:,} of {self.lists:,} lists are by the cross path, because the user has "
                f"no event to read in the domain; {self.newcomers:,} of {self.users:,} users have "
                f"no event and get what is popular of late (path {NEWCOMER_MODEL})"
            )
        if self.repeated:
            lines.append(f"{self.repeated:,} of the new events are known already and count once")
        barren = [domain for domain in self.empty if not (listable is None or domain in listable)]
        if barren:
            lines.append(
                f"{sum(self.empty[domain] for domain in barren):,} of {self.lists:,} lists are "
                "empty, because no candidate is of their domain: "
                + ", ".join(domain_names[domain] for domain in sorted(barren))
            )
        if exhausted := self.empty.keys() - set(barren):
            domain = min(exhausted)
            what = "item" if listable is None else "candidate"
            count = sum(self.empty[domain] for domain in exhausted)
            lines.append(
                f"no candidate is left for {count:,} of {self.lists:,} lists, because the "
                f"user has every {what} of the domain (first: user {self.first_empty[domain]}, "
                f"{domain_names[domain]}); {self.without:,} of {self.users:,} users have no list "
                "at all; --no-exclude_seen ranks those items too"
            )
        return lines
