"""The data card as text: the Markdown file, and the summary on the console."""

from src.dataset.store.card_alarms import alarms
from src.dataset.store.exclusion import excludes_seen, exclusion_text
from src.io.errors import plain

DROP_REASONS = {
    "rejected": "rejected",
    "other_events": "of other types than --events",
    "min_rating": "rated below --min_rating, or not rated",
    "after_cutoff": "after the cut-off",
    "other_domains": "in other domains than --domains",
    "dedup": "duplicates (--dedup)",
    "max_user_events": "of users above --max_user_events",
    "lone_item": "of domains with only one item, which cannot be ranked",
    "min_user_events": "of users below --min_user_events",
    "min_item_events": "of items below --min_item_events",
    "min_domains": "of users below --min_domains",
    "max_len": "older than a user's newest --max_len",
}
SPLIT_TEXTS = {
    "leave_one_out": "each user's last event is a test target, the one before it a validation "
    "target; users with fewer than 3 events have only training events",
    "leave_one_out_per_domain": "each user's last event in each domain is a test target, the one "
    "before it a validation target; fewer than 3 events in a domain are only training events",
    "temporal": "events from {test_from} on are test targets, earlier ones from {valid_from} on "
    "validation targets, and the others training events",
}
# What the audit counts among the test targets. A card that is older than a count does not have it.
TARGET_AUDIT = {
    "future_leaks": "older than a training event of any user",
    "own_future_leaks": "with a training event of the same user at their time or later",
    "same_time_context": "after an event of the same user and time",
    "repeat_targets": "of an item the user had before",
}


def generated_notes(card: dict) -> list[str]:
    """Notes that a log is generated, and what was planted in it; empty for other logs."""
    notes = card["notes"]
    if "generated" not in notes:
        return []
    planted = [f"NOTE: {key}: {text}" for key, text in notes.items() if key.startswith("planted")]
    return [f"NOTE: generated log, {notes['generated']}", *planted]


def data_note(entry: dict) -> str:
    """A line for an entry of `data_notes`: what, how many, the first, what to do."""
    numbers = f"{entry['count']:,} of {entry['of']:,}, first: {entry['example']}"
    remedy = " ".join(filter(None, [entry["flag"], entry["advice"]]))
    return plain(f"note: {entry['what']} ({numbers}); {remedy}")


def card_notes(card: dict, rejected: str = "see the sample in rejected.csv") -> list[str]:
    """The lines to show first: a generated log, and unusual data. `rejected` says where more is
    known of rejected rows."""
    notes = generated_notes(card)
    if "origin" in card["notes"]:
        notes.append(f"NOTE: {card['notes']['origin']}")
    if card["dropped"].get("rejected"):
        reasons = ", ".join(f"{n:,} {reason}" for reason, n in card["rejected"].items())
        notes.append(f"NOTE: raw rows were rejected ({reasons}); {rejected}")
    if card["dropped"].get("lone_item"):
        notes.append(
            f"NOTE: {card['dropped']['lone_item']:,} events of domains with only one item were "
            "dropped: every model ranks that item first"
        )
    notes += [data_note(entry) for entry in card.get("data_notes", [])]
    return [plain(note) for note in notes]  # a log may contain any text


def suggestion_table(suggestions: list, min_users: int) -> str:
    """`--suggest`: the dataset that each choice of filters leaves, and the strongest choice with
    enough users."""
    header = ["--min_user_events", "--min_item_events", "--min_domains", "users", "items"]
    header += ["events", "fewest users", "of domain"]
    rows = [
        [row.core, row.core, row.min_domains, row.users, row.items, row.events, row.fewest,
         row.fewest_domain]
        for row in suggestions
    ]  # fmt: skip
    enough = [row for row in suggestions if row.fewest >= min_users]
    if not enough:
        return f"{_table(header, rows)}\n\nno choice keeps {min_users:,} users in every domain"
    best = min(reversed(enough), key=lambda row: row.events)  # ties: the last
    return (
        f"{_table(header, rows)}\n\nthe strongest choice that keeps {min_users:,} users in every "
        "domain: "
        f"--min_user_events {best.core} --min_item_events {best.core} "
        f"--min_domains {best.min_domains}"
    )


def card_console(card: dict) -> str:
    """The card in a few lines, for the console."""
    audit = card["audit"]
    return "\n".join(
        [
            f"{card['users']:,} users, {card['items']:,} items, {card['events']:,} events, "
            f"{len(card['domains'])} domains, {card['time_range']['first'][:10]} to "
            f"{card['time_range']['last'][:10]}",
            *_domain_lines(card),
            *_split_lines(card),
            f"ties in time: {audit['ties']['share']:.0%} of the events "
            f"({audit['ties_across_domains']['share']:.0%} across domains), order "
            f"{card['tie_order']}",
            f"times: {card['times']}" if "times" in card else "",
            f"dropped from {card['rows']:,} rows: {_dropped(card)}",
        ]
    )


def _domain_lines(card: dict) -> list[str]:
    """One row per domain, with its targets if the card has them by domain."""
    columns = {"users": 10, "items": 10, "events": 12, "mean length": 12}
    targets = card["split"].get("targets")
    if targets:
        columns |= {"validation": 11, "test": 9}
    width = max(len("domain"), *(len(name) for name in card["domains"]))
    lines = [" ".join([f"{'domain':<{width}}", *(f"{key:>{n}}" for key, n in columns.items())])]
    for name, row in card["domains"].items():
        cells = [f"{row[key]:,}" for key in ("users", "items", "events")]
        cells += [f"{row['mean_length']:.2f}"]
        cells += [f"{count:,}" for count in targets[name].values()] if targets else []
        padded = (f"{cell:>{n}}" for cell, n in zip(cells, columns.values(), strict=True))
        lines.append(" ".join([f"{name:<{width}}", *padded]))
    return lines


def _split_lines(card: dict) -> list[str]:
    """The split, and the audit of its test targets."""
    audit, split = card["audit"], card["split"]
    cuts = ""
    if "test_from" in split:
        cuts = f" (validation from {split['valid_from']}, test from {split['test_from']})"
    lines = [
        f"split {split['protocol']}{cuts}: {split['valid_events']:,} validation and "
        f"{split['test_events']:,} test targets"
    ]
    lines.append(_cold_line(split))
    lines += [
        f"test targets {text}: {_events(audit[key])}"
        for key, text in TARGET_AUDIT.items()
        if key in audit
    ]
    if "repeat_targets" in audit:
        lines.append(_exclusion(card))
    return lines


def _exclusion(card: dict) -> str:
    """The default of `--exclude_seen`."""
    share = card["audit"]["repeat_targets"]["events"] / max(1, card["split"]["test_events"])
    return exclusion_text(share, excludes_seen(share))


def _cold_line(split: dict) -> str:
    """The test targets that nothing was learned about; an old card counts only their items."""
    items = f"{split['cold_test_items']:,} item{'s' * (split['cold_test_items'] != 1)}"
    if "cold_test_targets" not in split:
        return f"cold test targets: those of {items} without a training event"
    return (
        f"cold test targets: {split['cold_test_targets']:,} whose item has no training event "
        f"({items}), {split['cold_test_users']:,} whose user has none"
    )


def card_markdown(card: dict, commands: dict[str, str] | None = None) -> str:
    """The facts of `data_card.json` as Markdown, and commands {what for: command} to paste."""
    sections = [_title(card), _warnings(card), _commands(commands or {}), _counts(card)]
    sections += [_overlap(card), _order_and_split(card), _origin(card)]
    return "\n\n".join(filter(None, sections)) + "\n"


def _dropped(card: dict) -> str:
    parts = [
        f"{n:,} {DROP_REASONS.get(reason, reason)}" for reason, n in card["dropped"].items() if n
    ]
    return "; ".join(parts) or "none"


def _title(card: dict) -> str:
    notes = generated_notes(card)
    lines = [f"**{note}**  " for note in notes] + [""] * bool(notes)
    lines.append(f"# {card['data_name']}, events up to {card['cutoff']}")
    lines += ["", f"Source: {card['source']}", "", f"Content sha256: `{card['sha256']}`"]
    return "\n".join(lines)


def _warnings(card: dict) -> str:
    """The notes, and the alarming figures."""
    notes = [data_note(entry) for entry in card["data_notes"]]
    block = ["```text", *notes, "```"] if notes else ["- nothing"]  # as printed, not as markup
    figures = [f"- {sentence}" for sentence in alarms(card)] or ["- none"]
    return "\n".join(
        [
            "## What to look at first",
            "",
            "Data that is probably not what it seems:",
            "",
            *block,
            "",
            "Alarming figures of this card:",
            "",
            *figures,
        ]
    )


def _commands(commands: dict[str, str]) -> str:
    blocks = [f"{purpose}:\n\n```bash\n{command}\n```" for purpose, command in commands.items()]
    return "\n\n".join(["## Commands", *blocks]) if blocks else ""


def _counts(card: dict) -> str:
    split, length = card["split"], card["sequence_length"]
    header = ["domain", "users", "items", "events", "mean length", "validation", "test targets"]
    rows = [
        [
            *(name, row["users"], row["items"], row["events"], f"{row['mean_length']:.2f}"),
            *split["targets"][name].values(),
        ]
        for name, row in card["domains"].items()
    ]
    whole = [card["users"], card["items"], card["events"], f"{length['mean']:.2f}"]
    rows.append(["all", *whole, split["valid_events"], split["test_events"]])
    return "\n".join(
        [
            "## Counts",
            "",
            _table(header, rows),
            "",
            f"Events per user: median {length['p50']:g}, 95th percentile {length['p95']:g}, "
            f"maximum {length['max']:,}. First event {card['time_range']['first']}, last "
            f"{card['time_range']['last']}. Events of an item that the user had before: "
            f"{_events(card['repeats'])}.",
            "",
            f"Dropped from {card['rows']:,} rows: {_dropped(card)}.",
        ]
    )


def _overlap(card: dict) -> str:
    names = list(card["overlap"])
    rows = [[name, *card["overlap"][name].values()] for name in names]
    return "## Users active in both domains\n\n" + _table(["", *names], rows)


def _order_and_split(card: dict) -> str:
    audit, split = card["audit"], card["split"]
    order = {
        "hashed": "by SHA-256 of user, item and domain: reproducible and meaningless",
        "as_logged": "as in the log: an artefact that a model can learn",
    }[card["tie_order"]]
    return "\n".join(
        [
            "## Order, split and audit",
            "",
            f"- A user's events of equal time are ordered {order}.",
            f"- Split `{split['protocol']}`: {SPLIT_TEXTS[split['protocol']].format(**split)}. "
            f"{split['valid_events']:,} validation targets, {split['test_events']:,} test targets.",
            f"- C{_cold_line(split)[1:]}.",
            f"- Events that share user and time with another: {_events(audit['ties'])}; in groups "
            f"that span domains: {_events(audit['ties_across_domains'])}.",
            *(
                f"- Test targets {text}: {_events(audit[key])}."
                for key, text in TARGET_AUDIT.items()
            ),
            f"- By default {_exclusion(card)}.",
            "- `main.py --strict_context` removes events of a target's own time from its context.",
            "- Events that repeat the user, item and time of an earlier one: "
            f"{_events(audit['duplicates'])}.",
        ]
    )


def _origin(card: dict) -> str:
    files = [[file["name"], file["bytes"], f"`{file['sha256']}`"] for file in card["raw_files"]]
    options = [[f"--{name}", _flag_value(value)] for name, value in card["options"].items()]
    parts = ["## Origin", "", _table(["raw file", "bytes", "sha256"], files)]
    if card["notes"]:
        parts += [
            "",
            _table(["note in the log", ""], [list(pair) for pair in card["notes"].items()]),
        ]
    return "\n".join([*parts, "", _table(["option", "value"], options)])


def _flag_value(value: object) -> str:
    return f"`{' '.join(value)}`" if isinstance(value, list) else f"`{value}`"


def _events(count: dict) -> str:
    return f"{count['events']:,} ({count['share']:.1%})"


def _table(header: list[str], rows: list[list]) -> str:
    def line(cells: list) -> str:
        texts = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]
        return "| " + " | ".join(plain(text).replace("|", "\\|") for text in texts) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *(line(row) for row in rows)])
