"""Which settings identify a run, which may grow when it is resumed, and which only re-score it.

Every setting has a role (`setting(…, role=…)` in src/config/cli.py). The run folder, checkpoints
and the report ask here; nothing else compares settings of runs.
"""

import dataclasses
import hashlib
import json
from collections.abc import Container
from enum import Enum
from typing import Any


class Role(Enum):
    """What a change of a setting means for a run that exists."""

    IDENTITY = "another run"
    GROWS = "the same run, longer, where it is larger"
    SCORING = "the same training, scored otherwise"
    RUN = "the same run: it says where and how, or asks for more results"
    LOCATION = "the same run: the dataset is known by its hash"


def role(field: dataclasses.Field) -> Role:
    """The role of a setting; IDENTITY unless it says otherwise."""
    return field.metadata.get("role") or Role.IDENTITY


def values_of(settings: Any, roles: Container[Role]) -> dict[str, Any]:
    """{name: value} of the settings with these roles."""
    return {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if role(field) in roles
    }


def identity(settings: Any) -> dict[str, Any]:
    """The settings that tell one run from another."""
    return values_of(settings, {Role.IDENTITY})


def identity_hash(settings: Any) -> str:
    """SHA-256 of `identity`: what a checkpoint keeps of the run that it belongs to."""
    text = json.dumps(identity(settings), sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def deciding(settings: Any) -> dict[str, Any]:
    """The settings that decide a result, given data and seed: equal in the seeds of one model."""
    values = values_of(settings, {Role.IDENTITY, Role.GROWS, Role.SCORING})
    return {name: value for name, value in values.items() if name != "seed"}


def architecture(settings: Any) -> dict[str, Any]:
    """The settings that must agree for one run to start from the weights of another."""
    return {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.metadata.get("architecture")
    }


def difference(before: Any, now: Any, *, resume: bool) -> str | None:
    """The first setting by which `now` is another run than `before`; None where there is none.

    With `resume` a run may grow. A linear schedule is laid out for its own number of epochs.
    """
    former, latter = identity(before), identity(now)
    for name, value in latter.items():
        if name not in former or former[name] != value:
            return name
    former = values_of(before, {Role.GROWS})
    for name, value in values_of(now, {Role.GROWS}).items():
        fixed = name == "max_epochs" and now.lr_schedule == "linear"
        grows = resume and not fixed and value > former[name]
        if value != former[name] and not grows:
            return name
    return None


def longer(before: Any, now: Any) -> bool:
    """Whether `now` asks the run `before` to train longer."""
    return values_of(before, {Role.GROWS}) != values_of(now, {Role.GROWS})


def scored_otherwise(before: Any, now: Any) -> list[str]:
    """The settings by which `now` scores the run `before` otherwise."""
    former = values_of(before, {Role.SCORING})
    return [name for name, value in values_of(now, {Role.SCORING}).items() if former[name] != value]
