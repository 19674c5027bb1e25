"""Which figures of a data card are alarming: what they may do to a result, and what to do."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Alarm:
    """A share that is alarming from `least` on."""

    what: str
    share: Callable[[dict], float]  # of a card; KeyError where the card lacks it
    least: float
    meaning: str


def _targets(name: str) -> Callable[[dict], float]:
    """The share of test targets that `split` counts under a name."""
    return lambda card: card["split"][name] / max(1, card["split"]["test_events"])


def _audited(name: str) -> Callable[[dict], float]:
    return lambda card: card["audit"][name]["share"]


def _dropped(reason: str) -> Callable[[dict], float]:
    return lambda card: card["dropped"].get(reason, 0) / max(1, card["rows"])


# The bounds are far from what logs in order have, and from what does no harm: a share below them
# moves a mean by less than the differences that are reported.
ALARMS = (
    Alarm(
        "rows rejected", _dropped("rejected"), 0.001,
        "`rejected.csv` has the first of them, with the reason and the line",
    ),
    Alarm(
        "rows after the cut-off", _dropped("after_cutoff"), 0.5,
        "most of the log is left out: is `--strd_ym` the month that was meant?",
    ),
    Alarm(
        "events that share user and time with another", _audited("ties"), 0.2,
        "their order is unknown, as of times that are days; `main.py --strict_context` also ranks "
        "without the events of a target's own time",
    ),
    Alarm(
        "test targets after an event of the same user and time", _audited("same_time_context"), 0.1,
        "they may belong to one basket or session; compare with the protocols `-strict`",
    ),
    Alarm(
        "test targets with a training event of the same user at their time or later",
        _audited("own_future_leaks"), 0.01,
        "the model learns from what the user did after the target; `--split leave_one_out` or "
        "`temporal` has none of them",
    ),
    Alarm(
        "test targets older than a training event of any user", _audited("future_leaks"), 0.5,
        "usual for a split by user, and flattering: trends are learnt from the future; `--split "
        "temporal` has none of them",
    ),
    Alarm(
        "test targets of an item the user had before", _audited("repeat_targets"), 0.2,
        "a list of the user's own items ranks them well; see the protocols `-unseen`, or use "
        "`--dedup repeats`",
    ),
    Alarm(
        "test targets whose item has no training event", _targets("cold_test_targets"), 0.2,
        "no model can learn these items; `--min_item_events 5` drops most of them",
    ),
    Alarm(
        "test targets whose user has no training event", _targets("cold_test_users"), 0.2,
        "their context is all that a model has; `--min_user_events 3` or another `--split`",
    ),
)  # fmt: skip


def alarms(card: dict) -> Iterator[str]:
    """A sentence for each alarming figure."""
    for alarm in ALARMS:
        share = alarm.share(card)
        if share >= alarm.least:
            yield f"{share:.1%} {alarm.what}: {alarm.meaning}."
