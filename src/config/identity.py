"""Which settings identify a run, which may grow when it is resumed, and which only re-score it.

The run folder, checkpoints, warm start and the report use these functions; no other code compares
the settings of runs.
"""

import dataclasses
import hashlib
import json
from collections.abc import Container
from enum import Enum
from typing import Any

from src.config.names import BLENDED_BY
from src.config.settings import DataSettings, RunSettings


class Role(Enum):
    """What a changed setting means for an existing run."""

    IDENTITY = "another run"
    GROWS = "the same run, longer, where it is larger"
    SCORING = "the same training, scored differently"
    RUN = "the same run: where and how it runs, or more results"
    LOCATION = "the same run: the dataset is identified by its hash"


# {setting: role}. Every other setting, also a model's or a weighting's own, is IDENTITY.
ROLES = {
    **{field.name: Role.LOCATION for field in dataclasses.fields(DataSettings)},
    **{field.name: Role.RUN for field in dataclasses.fields(RunSettings)},
    **dict.fromkeys(("eval_users", "protocol", "strict_context"), Role.RUN),
    **dict.fromkeys(("max_epochs", "min_steps", "patience_steps", "patience_epochs"), Role.GROWS),
    **dict.fromkeys(
        ("sampled_negatives", "candidate_seed", "ties", "min_domain_targets", *BLENDED_BY),
        Role.SCORING,
    ),
}
# What must agree for one run to start from the weights of another.
ARCHITECTURE = (
    "model", "mode", "hidden", "layers", "heads", "max_len", "positions", "time_embedding",
    "experts_cross", "experts_single", "share_experts", "gate", "towers", "target_domain_query",
    "cross_per_domain",
)  # fmt: skip


def values_of(settings: Any, roles: Container[Role]) -> dict[str, Any]:
    """{name: value} of the settings with these roles."""
    return {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if ROLES.get(field.name, Role.IDENTITY) in roles
    }


def identity(settings: Any) -> dict[str, Any]:
    """The settings that identify a run."""
    return values_of(settings, {Role.IDENTITY})


def identity_hash(settings: Any) -> str:
    """SHA-256 of `identity`, which a checkpoint stores."""
    return hash_values(identity(settings))


def hash_values(values: dict[str, Any]) -> str:
    """SHA-256 of settings."""
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def deciding(settings: Any) -> dict[str, Any]:
    """The settings that determine a result, given data and seed: equal in the seeds of a model."""
    values = values_of(settings, {Role.IDENTITY, Role.GROWS, Role.SCORING})
    return {name: value for name, value in values.items() if name != "seed"}


def architecture(settings: Any) -> dict[str, Any]:
    """The settings of `ARCHITECTURE`."""
    return {name: getattr(settings, name) for name in ARCHITECTURE}


def difference(before: Any, now: Any, *, resume: bool) -> str | None:
    """The first setting that makes `now` another run than `before`; None for the same run.

    With `resume` a run may grow, but not the number of epochs of a linear schedule, and a patience
    in steps does not become one in epochs.
    """
    former, latter = identity(before), identity(now)
    for name, value in latter.items():
        if name not in former or former[name] != value:
            return name
    former = values_of(before, {Role.GROWS})
    for name, value in values_of(now, {Role.GROWS}).items():
        fixed = name == "max_epochs" and now.lr_schedule == "linear"
        fixed = fixed or (name == "patience_epochs" and not former[name])
        grows = resume and not fixed and value > former[name]
        if value != former[name] and not grows:
            return name
    return None


def in_words(name: str, before: Any, now: Any) -> str:
    """How a setting of the run `before` differs from that of a command, after "holds a run"."""
    former, latter = getattr(before, name, None), getattr(now, name)
    if latter in ("", None, ()):
        return f"with --{name} {former}, and this command has none"
    return f"with --{name} {former}, not {latter}"


def longer(before: Any, now: Any) -> bool:
    """Whether `now` asks the run `before` to train longer."""
    return values_of(before, {Role.GROWS}) != values_of(now, {Role.GROWS})


def scored_otherwise(before: Any, now: Any) -> list[str]:
    """The settings with which `now` scores the run `before` differently."""
    former = values_of(before, {Role.SCORING})
    return [name for name, value in values_of(now, {Role.SCORING}).items() if former[name] != value]
