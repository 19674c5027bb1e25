"""Specs: the runs of an experiment as a TOML file, and what each part of it may say."""

import dataclasses
import json
import re
import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from src.config.cli import checked_values
from src.config.dataset_settings import DatasetSettings, content_options
from src.config.names import COUNT_MODELS, OPTIONAL_COUNT_MODELS
from src.config.settings import Settings, names_in, read_settings, settings_class
from src.dataset.store.folder import dataset_folder
from src.io.errors import UserError
from src.io.json_schema import repr_short
from src.io.paths import ROOT
from src.runs.command import parse_command

PARTS = ("seeds", "defaults", "logs", "models", "compare", "transfer", "count_models", "search")
# What the runner decides for each run, so that a spec may not
DECIDED = ("data_dir", "runs_dir", "run_name", "resume", "overwrite", "seed")
NAME = r"[A-Za-z0-9_][A-Za-z0-9_.-]*"


@dataclass(frozen=True)
class Log:
    """A log of a spec and the dataset that is made of it."""

    name: str
    dataset: DatasetSettings
    raw: str  # its folder below --data; empty: what make_dataset.py takes by itself
    generate: list[str]  # a Python command that writes the raw log into the folder --out, instead
    training: dict[str, Any]  # settings of main.py on this log

    def folder(self, datasets: Path | None) -> Path:
        """The dataset folder, below `datasets` or where it is by default."""
        named = (self.dataset.data_name, self.dataset.strd_ym, self.dataset.variant)
        if datasets is None:
            return dataset_folder(ROOT, *named)
        return datasets / self.dataset.data_name / "-".join(filter(None, named[1:]))

    def made_with(self, options: dict[str, Any]) -> bool:
        """Whether these options, of a data card, are those of the log."""
        raw_format = self.dataset.format
        raw_format = str(options.get("format")) if raw_format == "auto" else raw_format
        wanted = _as_json(content_options(self.dataset, raw_format))
        before = _as_json({one.name: one.default for one in dataclasses.fields(self.dataset)})
        return all(options.get(name, before[name]) == value for name, value in wanted.items())


def _as_json(values: dict[str, Any]) -> dict[str, Any]:
    """Values as they come back from a JSON file: tuples are lists."""
    return json.loads(json.dumps(values))


@dataclass(frozen=True)
class Job:
    """One run of a spec. Where it starts from another run of the grid, `settings.init_from` is
    LOG:MODEL, of the same seed."""

    log: Log
    model: str
    seed: int
    settings: Settings
    flags: list[str]  # of main.py, without those that name the data, the run and the device

    def __str__(self) -> str:
        return f"{self.log.name} {self.model} seed {self.seed}"

    @property
    def label(self) -> str:
        """The name of the run in tables."""
        return f"{self.model}-seed{self.seed}"


@dataclass(frozen=True)
class Search:
    """A search for the settings of a model on a log, chosen on the validation targets."""

    name: str
    model: str
    log: str
    space: dict[str, Any]  # {setting: choices, or {"low", "high", "log"}}
    trials: int
    seed: int
    pruned: bool
    best: int  # how many of its trials become models of the grid
    seeds: list[int]  # of these

    @property
    def best_names(self) -> list[str]:
        """The names of its best trials as models of the grid, the best first."""
        return [f"{self.name}.{place}" for place in range(1, self.best + 1)]


@dataclass(frozen=True)
class Spec:
    """A checked spec."""

    name: str
    defaults: dict[str, Any]
    logs: dict[str, Log]
    models: dict[str, dict[str, Any]]  # settings of main.py
    runs: list[tuple[str, str, int]]  # (log, model, seed) of the grid
    pairs: list[tuple[str, str]] = field(default_factory=list)
    transfer: tuple[str, str] | None = None  # the pair whose difference is the measured transfer
    searches: dict[str, Search] = field(default_factory=dict)
    count_models: list[str] = field(default_factory=list)  # beside those of every run

    def jobs(self) -> list[Job]:
        """The runs of the grid: all models and logs of the first seed, then those of the next."""
        return [self.job(*one) for one in self.runs]

    def job(self, log: str, model: str, seed: int, **trial: Any) -> Job:
        """A run of the grid, or a trial of a search with other settings. UserError where they
        contradict each other."""
        where = f"spec {self.name}, model {model} on {log}"
        values = self.defaults | self.logs[log].training | self.models[model] | trial
        values |= {"protocol": ["full"], "seed": seed}
        former = values.pop("init_from", "")
        try:
            checked_values(settings_class(*names_in(values)), values, where)
            settings = parse_command(flags := setting_flags(values)).settings
        except KeyError as error:
            raise UserError(f"{where}: {error} is unknown") from None
        except UserError as error:
            line = str(error)
            raise UserError(line if line.startswith(where) else f"{where}: {line}") from None
        settings = dataclasses.replace(settings, init_from=former)
        return Job(self.logs[log], model, seed, settings, flags)

    def former(self, job: Job) -> Job | None:
        """The run that a run starts from."""
        log, _, model = job.settings.init_from.partition(":")
        return self.job(log, model, job.seed) if log else None


def read_spec(path: Path) -> Spec:
    """A spec, checked. UserError names the entry that is wrong."""
    try:
        content = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise UserError(f"the spec {path} does not exist") from None
    except (OSError, ValueError) as error:
        raise UserError(f"the spec {path} cannot be read: {error}") from None
    _check_names(content, PARTS, f"spec {path}")
    where = f"spec {path.stem}"
    seeds = _numbers(content.get("seeds", [42]), f"{where}: seeds")
    entries = {part: _tables(content, part, where) for part in ("logs", "models")}
    given = _tables(content, "search", where) if "search" in content else {}
    runs = _grid(entries, seeds, _searched(given, entries, where), where)
    logs = {name: _log(name, entry, where) for name, entry in entries["logs"].items()}
    models = {
        name: _training(entry, f"{where}, models.{name}")
        for name, entry in entries["models"].items()
    }
    searches = {
        name: _search(name, entry, f"{where}, search.{name}") for name, entry in given.items()
    }
    bests = [name for search in searches.values() for name in search.best_names]
    counted = _count_models(content.get("count_models", []), f"{where}: count_models")
    named = [*models, *bests, *COUNT_MODELS, *counted]
    measured = content.get("transfer")
    spec = Spec(
        name=path.stem,
        runs=runs,
        defaults=_training(content.get("defaults", {}), f"{where}, defaults"),
        logs=logs,
        models=models,
        pairs=_pairs(content.get("compare", []), named, f"{where}: compare"),
        transfer=None if measured is None else _pair(measured, named, f"{where}: transfer"),
        searches=searches,
        count_models=counted,
    )
    _check_folders(spec)
    _check_formers(spec)
    return spec


def _tables(content: dict[str, Any], part: str, where: str) -> dict[str, dict[str, Any]]:
    """The named tables of a part; UserError where there are none, or a name cannot name a file."""
    tables = content.get(part)
    if not isinstance(tables, dict) or not tables:
        raise UserError(f"{where} has no [{part}.NAME]")
    for name, entry in tables.items():
        if not re.fullmatch(NAME, name):
            raise UserError(f"{where}: {part}.{name!r}: use letters, digits, '.', '_' and '-'")
        if not isinstance(entry, dict):
            raise UserError(f"{where}: {part}.{name} must be a table")
    return {name: dict(entry) for name, entry in tables.items()}


def _check_names(given: Any, known: Any, where: str) -> None:
    if unknown := [name for name in given if name not in known]:
        raise UserError(f"{where}: unknown {repr_short(unknown[0])}; give {', '.join(known)}")


def _numbers(value: Any, where: str) -> list[int]:
    if not isinstance(value, list) or not value or any(type(one) is not int for one in value):
        raise UserError(f"{where} must be a list of whole numbers, not {repr_short(value)}")
    return list(dict.fromkeys(value))


def _searched(given: dict[str, Any], entries: dict[str, Any], where: str) -> set[str]:
    """The names of the models and logs of the searches. UserError for an unknown one."""
    names = set()
    for search, entry in given.items():
        for key, part in (("model", "models"), ("log", "logs")):
            _check_names([entry.get(key)], list(entries[part]), f"{where}, search.{search}: {key}")
            names.add(entry[key])
    return names


def _grid(
    entries: dict[str, dict[str, dict[str, Any]]], seeds: list[int], searched: set, where: str
) -> list[tuple[str, str, int]]:
    """(log, model, seed) of each run: all of the first seed, then those of the next. Takes what
    restricts an entry (`logs`, `models`, `seeds`) out of it. UserError for an entry without a run
    that is not `searched`."""
    partners: dict[str, list[str]] = {}
    own_seeds: dict[str, list[int]] = {}
    for part, other in (("logs", "models"), ("models", "logs")):
        for name, entry in entries[part].items():
            place = f"{where}, {part}.{name}"
            partners[f"{part}.{name}"] = entry.pop(other, list(entries[other]))
            _check_names(partners[f"{part}.{name}"], entries[other], f"{place}: {other}")
            if "seeds" in entry:
                given = entry.pop("seeds")  # []: no runs, for a model that is only searched
                own_seeds[f"{part}.{name}"] = given and _numbers(given, f"{place}: seeds")
    runs = []
    for log in entries["logs"]:
        for model in entries["models"]:
            if model in partners[f"logs.{log}"] and log in partners[f"models.{model}"]:
                of_log = own_seeds.get(f"logs.{log}")
                of_model = own_seeds.get(f"models.{model}", of_log or seeds)
                runs += [(log, model, seed) for seed in of_model if seed in (of_log or of_model)]
    for part, position in (("logs", 0), ("models", 1)):
        used = {run[position] for run in runs} | searched
        if idle := [name for name in entries[part] if name not in used]:
            raise UserError(
                f"{where}, {part}.{idle[0]} has no run: `logs`, `models` and `seeds` exclude them"
            )
    order = list(dict.fromkeys([*seeds, *(seed for *_, seed in runs)]))
    return sorted(runs, key=lambda run: order.index(run[2]))


def _log(name: str, entry: dict[str, Any], where: str) -> Log:
    place = f"{where}, logs.{name}"
    raw, training, generate = (
        entry.pop(key, empty) for key, empty in (("raw", ""), ("training", {}), ("generate", []))
    )
    if not isinstance(raw, str):
        raise UserError(f"{place}: raw must name a folder, not {repr_short(raw)}")
    if not isinstance(generate, list) or any(type(word) is not str for word in generate):
        raise UserError(f"{place}: generate must be a list of words, not {repr_short(generate)}")
    if raw and generate:
        raise UserError(f"{place}: raw and generate contradict each other; give one of them")
    for key in ("raw_dir", "out_dir", "describe", "suggest"):
        if key in entry:
            raise UserError(f"{place}: {key} is no part of a spec; raw names its folder")
    values = checked_values(DatasetSettings, entry, place)
    try:
        dataset = DatasetSettings(**values)
    except UserError as error:
        raise UserError(f"{place}: {error}") from None
    return Log(name, dataset, raw, generate, _training(training, f"{place}.training"))


def _training(entry: dict[str, Any], place: str) -> dict[str, Any]:
    """Settings of main.py, those of `config` included. Their values are checked with the job's."""
    values = dict(entry)
    if config := values.pop("config", ""):
        given = read_settings(ROOT / str(config), f"{place}: config")
        values = {key: list(v) if isinstance(v, tuple) else v for key, v in given.items()} | values
    for name in ("data_name", "strd_ym", "variant"):
        values.pop(name, None)  # the log's are those that count
    for name in values:
        if name in DECIDED:
            raise UserError(f"{place}: {name} is not a setting of a spec: the runner decides it")
    return values


def _count_models(value: Any, where: str) -> list[str]:
    """Names of optional count models, in the order of tables."""
    if not isinstance(value, list):
        raise UserError(f"{where} must be a list of names, not {repr_short(value)}")
    _check_names(value, list(OPTIONAL_COUNT_MODELS), where)
    return [name for name in OPTIONAL_COUNT_MODELS if name in value]


def _pairs(value: Any, models: list[str], where: str) -> list[tuple[str, str]]:
    if not isinstance(value, list):
        raise UserError(f"{where} must be a list of pairs, not {repr_short(value)}")
    return [_pair(one, models, where) for one in value]


def _pair(value: Any, models: list[str], where: str) -> tuple[str, str]:
    """Two of MODEL[:PATH] or a count model."""
    if not isinstance(value, list) or len(value) != 2 or not all(type(x) is str for x in value):
        raise UserError(f'{where} needs pairs such as ["a:cross", "b"], not {repr_short(value)}')
    _check_names([word.partition(":")[0] for word in value], models, where)
    return value[0], value[1]


def _search(name: str, entry: dict[str, Any], place: str) -> Search:
    """A search: model, log, space, and defaults for the rest."""
    known = ("model", "log", "space", "trials", "seed", "prune", "best", "seeds")
    _check_names(entry, known, place)
    space = entry.get("space")
    if not isinstance(space, dict) or not space:
        raise UserError(f"{place} has no [search.{name}.space]")
    for setting, choices in space.items():
        is_range = isinstance(choices, dict) and choices.keys() >= {"low", "high"}
        if not is_range and not (isinstance(choices, list) and choices):
            raise UserError(
                f"{place}: {setting} must be a list of choices, or {{low, high, log}}, not "
                + repr_short(choices)
            )
        ends = [choices["low"], choices["high"]] if isinstance(choices, dict) else []
        if any(type(end) not in (int, float) for end in ends) or ends != sorted(ends):
            raise UserError(f"{place}: {setting}: low and high must be numbers, low the smaller")
    for key, least in (("trials", 1), ("seed", 0), ("best", 0)):
        if type(entry.get(key, least)) is not int or entry.get(key, least) < least:
            raise UserError(f"{place}: {key} must be a whole number from {least}")
    seed = entry.get("seed", 42)
    seeds = _numbers(entry.get("seeds", [seed]), f"{place}: seeds")
    return Search(
        name, entry["model"], entry["log"], space, entry.get("trials", 24), seed,
        entry.get("prune", True), entry.get("best", 0), seeds,
    )  # fmt: skip


def _check_folders(spec: Spec) -> None:
    """UserError where two logs would be made into one folder."""
    folders: dict[Path, str] = {}
    for log in spec.logs.values():
        other = folders.setdefault(log.folder(None), log.name)
        if other != log.name:
            raise UserError(
                f"spec {spec.name}: logs {other} and {log.name} are made into the same folder; "
                "give one of them a variant"
            )


def _check_formers(spec: Spec) -> None:
    """UserError where a run starts from one that is not in the grid, or in the end from itself."""
    for run in spec.runs:
        chain = [run]
        while len(chain) <= len(spec.runs):
            log, model, seed = chain[-1]
            values = spec.defaults | spec.logs[log].training | spec.models[model]
            if not (former := values.get("init_from")):
                break
            where = f"spec {spec.name}, model {model} on {log}: init_from {former!r}"
            other, _, name = str(former).partition(":")
            chain.append((other, name, seed))
            if chain[-1] not in spec.runs:
                raise UserError(f"{where} must be LOG:MODEL of a run with seed {seed}")
        else:
            raise UserError(f"{where} leads back to the run itself")


def setting_flags(values: dict[str, Any]) -> list[str]:
    """Settings as flags of a command."""
    flags = []
    for name, value in values.items():
        if isinstance(value, bool):
            flags.append(f"--{name}" if value else f"--no-{name}")
        elif isinstance(value, list | tuple):
            flags += [f"--{name}", *map(str, value)]
        elif value is not None:
            flags.append(f"--{name}={value}")
    return flags


def dataset_flags(settings: DatasetSettings) -> list[str]:
    """The settings that differ from their defaults, as flags of make_dataset.py."""
    return setting_flags(
        {
            option.name: getattr(settings, option.name)
            for option in dataclasses.fields(settings)
            if getattr(settings, option.name) != option.default
        }
    )
