"""One dataclass is the command line, its help and the record of a run.

A field becomes the flag of its name: its type gives the parser, `setting(...)` the help, the group
and the choices. What the flags leave at its default is written down as fully as what they set.
"""

import argparse
import dataclasses
import shlex
import typing
from collections.abc import Collection
from pathlib import Path
from typing import Any

from src.io.errors import EXIT_USER_ERROR, UserError
from src.io.json_schema import read_json, repr_short


class _HelpWithDefaults(argparse.ArgumentDefaultsHelpFormatter):
    """argparse's help with defaults, but silent about those that say nothing."""

    def _get_help_string(self, action: argparse.Action) -> str | None:
        if action.default in ("", None, ()):
            return action.help
        return super()._get_help_string(action)


class _AddUp(argparse.Action):
    """Stores a value; of a flag of several values that is given more than once, those of all."""

    def __call__(self, parser, namespace, values, option_string=None) -> None:
        given = getattr(namespace, self.dest, None)
        if option_string and isinstance(values, list) and isinstance(given, list):
            values = given + values if given is not self.default else values
        setattr(namespace, self.dest, values)


class OneLineParser(argparse.ArgumentParser):
    """argparse, but a wrong flag is one line instead of the whole usage, lists that are given twice
    add up, and a value may begin with one dash: `--users -x`."""

    def __init__(self, *arguments, **named):
        super().__init__(*arguments, **named)
        self.register("action", None, _AddUp)  # what add_argument takes by default

    def _parse_optional(self, arg_string: str):
        """What a word of the command line is; None: no flag, but a value."""
        dashes = len(arg_string) - len(arg_string.lstrip("-"))
        if dashes == 1 and arg_string not in self._option_string_actions:
            return None
        return super()._parse_optional(arg_string)

    def error(self, message: str) -> typing.NoReturn:
        self.exit(EXIT_USER_ERROR, f"error: {message} (see {self.prog} --help)\n")


def setting(
    default: Any, help: str, *, group: str = "options", choices: Collection[str] | None = None
) -> Any:
    """A dataclass field that is also a flag. A tuple default makes a flag of several values."""
    metadata = {"help": help, "group": group, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


def build_parser(config_class: type, description: str) -> argparse.ArgumentParser:
    """A parser with one flag per field of `config_class`, grouped as the fields say."""
    parser = OneLineParser(
        description=description,
        allow_abbrev=False,
        formatter_class=_HelpWithDefaults,
    )
    groups: dict[str, Any] = {}
    types = typing.get_type_hints(config_class)
    for field in dataclasses.fields(config_class):
        title = field.metadata["group"]
        group = groups.setdefault(title, None) or parser.add_argument_group(title)
        groups[title] = group
        group.add_argument(f"--{field.name}", **_argument(field, types[field.name]))
    return parser


def _argument(field: dataclasses.Field, field_type: Any) -> dict[str, Any]:
    """The keyword arguments of `add_argument` for one field."""
    argument: dict[str, Any] = {"help": field.metadata["help"], "default": field.default}
    members = [member for member in typing.get_args(field_type) if member is not type(None)]
    if field_type is bool or members == [bool]:  # bool | None: neither of its two flags is given
        return argument | {"action": argparse.BooleanOptionalAction}
    if typing.get_origin(field_type) is tuple:
        return argument | {"nargs": "*", "type": members[0], "metavar": "VALUE"}
    argument["type"] = members[0] if members else field_type
    if field.metadata["choices"]:
        argument["choices"] = field.metadata["choices"]
    else:
        argument["metavar"] = "VALUE"
    return argument


def from_namespace(config_class: type, namespace: argparse.Namespace) -> Any:
    """The parsed values as a dataclass."""
    values = {}
    for field in dataclasses.fields(config_class):
        value = getattr(namespace, field.name)
        values[field.name] = tuple(value) if isinstance(value, list) else value
    return config_class(**values)


def as_json(config: Any) -> dict[str, Any]:
    """The settings as a JSON object: every field, defaults included."""
    return {
        name: str(value) if isinstance(value, Path) else value
        for name, value in dataclasses.asdict(config).items()
    }


def as_command(script: str, config: Any, leave_out: Collection[str] = ()) -> str:
    """The command, quoted for a shell, that gives these settings; defaults are left out."""
    words = ["python", script]
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if value == field.default or field.name in leave_out:
            continue
        if isinstance(value, bool):
            words.append(f"--{field.name}" if value else f"--no-{field.name}")
        elif isinstance(value, tuple):
            words += [f"--{field.name}", *map(str, value)]
        else:
            words.append(f"--{field.name}={value}")
    return shlex.join(words)


def config_defaults(config_class: type, path: Path, what: str = "--config") -> dict[str, Any]:
    """The settings in a JSON file; UserError for wrong names, types or choices."""
    content = read_json(path, what)
    if not isinstance(content, dict):
        raise UserError(f"{what} {path} must hold one JSON object of settings")
    return checked_values(config_class, content, f"{what} {path}")


def checked_values(
    config_class: type, content: dict[str, Any], where: str, ignore_unknown: bool = False
) -> dict[str, Any]:
    """The values of `content`, read from JSON at `where`, with the types of `config_class`.

    UserError for a value of the wrong type or not among the choices and, unless `ignore_unknown`,
    for an unknown name.
    """
    types = typing.get_type_hints(config_class)
    choices = {f.name: f.metadata["choices"] for f in dataclasses.fields(config_class)}
    values = {}
    for name, value in content.items():
        if name not in choices:
            if ignore_unknown:
                continue
            raise UserError(f"{where}: unknown setting {repr_short(name)} (see --help)")
        try:
            values[name] = _of_type(value, types[name])
        except (TypeError, OverflowError):
            raise UserError(
                f"{where}: '{name}' must be {_type_name(types[name])}, not {repr_short(value)}"
            ) from None
        if choices[name] and value not in choices[name]:
            raise UserError(
                f"{where}: '{name}' is {repr_short(value)}; give one of {', '.join(choices[name])}"
            )
    return values


def _of_type(value: Any, expected: Any) -> Any:
    """A JSON value as a value of the expected type. TypeError where it has another type, and
    OverflowError for a whole number beyond every float."""
    if typing.get_origin(expected) is tuple:
        member_type = typing.get_args(expected)[0]
        if isinstance(value, list) and all(type(member) is member_type for member in value):
            return tuple(value)
    elif type(value) is expected:
        return value
    elif expected is float and type(value) is int:
        return float(value)
    elif members := typing.get_args(expected):  # X | None
        return None if value is None else _of_type(value, members[0])
    raise TypeError


def _type_name(expected: Any) -> str:
    if typing.get_origin(expected) is tuple:
        return f"a list of {typing.get_args(expected)[0].__name__}"
    if members := typing.get_args(expected):
        return f"{members[0].__name__} or null"
    return expected.__name__
