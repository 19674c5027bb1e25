"""The data card for a person: the Markdown file, and the compact card on the console."""

DROP_REASONS = {
    "after_cutoff": "after the cut-off",
    "other_domains": "in domains not asked for",
    "dedup": "repeated (--dedup)",
    "min_user_events": "of users below --min_user_events",
    "min_item_events": "of items below --min_item_events",
    "min_domains": "of users below --min_domains",
    "max_len": "older than a user's newest --max_len",
}


def generated_notes(card: dict) -> list[str]:
    """The lines that must be seen when the log says that it was generated, and what was planted."""
    notes = card["notes"]
    if "generated" not in notes:
        return []
    planted = [f"NOTE: {key}: {text}" for key, text in notes.items() if key.startswith("planted")]
    return [f"NOTE: generated log, {notes['generated']}", *planted]


def card_console(card: dict) -> str:
    """The card in a few lines."""
    audit, split = card["audit"], card["split"]
    width = max(len("domain"), *(len(name) for name in card["domains"]))
    lines = [
        f"{card['users']:,} users, {card['items']:,} items, {card['events']:,} events, "
        f"{len(card['domains'])} domains, {card['time_range']['first'][:10]} to "
        f"{card['time_range']['last'][:10]}",
        f"{'domain':<{width}} {'users':>10} {'items':>10} {'events':>12} {'mean length':>12}",
    ]
    for name, row in card["domains"].items():
        lines.append(
            f"{name:<{width}} {row['users']:>10,} {row['items']:>10,} {row['events']:>12,} "
            f"{row['mean_length']:>12.2f}"
        )
    lines.append(
        f"split {split['protocol']}: {split['valid_events']:,} validation and "
        f"{split['test_events']:,} test targets, {split['cold_test_items']:,} test items cold"
    )
    lines.append(
        f"ties in time: {audit['ties']['share']:.0%} of the events "
        f"({audit['ties_across_domains']['share']:.0%} across domains), ordered {card['tie_order']}"
    )
    lines.append(f"dropped of {card['rows']:,} rows: {_dropped(card)}")
    return "\n".join(lines)


def card_markdown(card: dict) -> str:
    """The same facts as `data_card.json`."""
    sections = [_title(card), _counts(card), _overlap(card), _order_and_split(card), _origin(card)]
    return "\n\n".join(sections) + "\n"


def _dropped(card: dict) -> str:
    parts = [f"{n:,} {DROP_REASONS[reason]}" for reason, n in card["dropped"].items() if n]
    return "; ".join(parts) or "none"


def _title(card: dict) -> str:
    notes = generated_notes(card)
    lines = [f"**{note}**  " for note in notes] + [""] * bool(notes)
    lines.append(f"# {card['data_name']}, events up to {card['cutoff']}")
    lines += ["", f"Source: {card['source']}", "", f"Content sha256: `{card['sha256']}`"]
    return "\n".join(lines)


def _counts(card: dict) -> str:
    rows = [
        [name, row["users"], row["items"], row["events"], f"{row['mean_length']:.2f}"]
        for name, row in card["domains"].items()
    ]
    length = card["sequence_length"]
    rows.append(["all", card["users"], card["items"], card["events"], f"{length['mean']:.2f}"])
    return "\n".join(
        [
            "## Counts",
            "",
            _table(["domain", "users", "items", "events", "mean length"], rows),
            "",
            f"Events of a user: median {length['p50']:g}, 95th percentile {length['p95']:g}, "
            f"longest {length['max']:,}. First event {card['time_range']['first']}, last "
            f"{card['time_range']['last']}. An event that repeats an item of its user: "
            f"{_events(card['repeats'])}.",
            "",
            f"Dropped of {card['rows']:,} rows: {_dropped(card)}.",
        ]
    )


def _overlap(card: dict) -> str:
    names = list(card["overlap"])
    rows = [[name, *card["overlap"][name].values()] for name in names]
    return "## Users active in both domains\n\n" + _table(["", *names], rows)


def _order_and_split(card: dict) -> str:
    audit, split = card["audit"], card["split"]
    order = {
        "hashed": "by SHA-256 of user, item and domain: stable and meaningless",
        "as_logged": "as the log has them: an artefact that a model can learn",
    }[card["tie_order"]]
    return "\n".join(
        [
            "## Order, split and audit",
            "",
            f"- Events of equal time are ordered {order}.",
            f"- Split `{split['protocol']}`: {split['valid_events']:,} validation targets, "
            f"{split['test_events']:,} test targets; users with fewer than 3 events are training "
            f"data entirely. {split['cold_test_items']:,} distinct test items never occur in "
            "training.",
            f"- Events that share user and time with another: {_events(audit['ties'])}; in groups "
            f"that span domains: {_events(audit['ties_across_domains'])}.",
            "- Test targets that somebody's training event is later than: "
            f"{_events(audit['future_leaks'])} of the targets.",
            "- Events with the user, item and time of another, the first not counted: "
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
            _table(["note of the log", ""], [list(pair) for pair in card["notes"].items()]),
        ]
    return "\n".join([*parts, "", _table(["option", "value"], options)])


def _flag_value(value: object) -> str:
    return f"`{' '.join(value)}`" if isinstance(value, list) else f"`{value}`"


def _events(count: dict) -> str:
    return f"{count['events']:,} ({count['share']:.1%})"


def _table(header: list[str], rows: list[list]) -> str:
    def line(cells: list) -> str:
        texts = [f"{cell:,}" if isinstance(cell, int) else str(cell) for cell in cells]
        return "| " + " | ".join(text.replace("|", "\\|") for text in texts) + " |"

    return "\n".join([line(header), "|" + "---|" * len(header), *(line(row) for row in rows)])
