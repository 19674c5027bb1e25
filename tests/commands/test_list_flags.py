"""Flags of several values: given twice they add up, and a value may begin with a dash."""

import argparse
import dataclasses

import pytest

from recommend import RecommendSettings
from src.config.cli import OneLineParser, build_parser, from_namespace
from src.config.dataset_settings import DatasetSettings
from src.config.report_flags import COMMANDS
from src.config.settings import Settings
from src.runs.command import parse_command


def parsed(config_class, *words: str):
    parser = build_parser(config_class, "")
    if config_class is DatasetSettings:
        words = ("--data_name=t", "--strd_ym=202312", *words)
    return from_namespace(config_class, parser.parse_args(words))


@pytest.mark.parametrize("config_class", [RecommendSettings, DatasetSettings])
@pytest.mark.parametrize(
    "words",
    [
        ("--domains", "A", "B", "C"),
        ("--domains", "A", "--domains", "B", "C"),
        ("--domains=A", "--domains=B", "--domains=C"),
        ("--domains", "--domains", "A", "B", "--domains=C"),
    ],
)
def test_a_list_is_the_values_of_all_its_flags(config_class, words):
    assert parsed(config_class, *words).domains == ("A", "B", "C")


LISTS = [
    (config_class, field.name)
    for config_class in (RecommendSettings, DatasetSettings, Settings)
    for field in dataclasses.fields(config_class)
    if isinstance(field.default, tuple)
]


@pytest.mark.parametrize(
    ("config_class", "name"), LISTS, ids=lambda part: getattr(part, "__name__", part)
)
def test_every_list_of_a_command_adds_up_and_takes_a_dash(config_class, name):
    words = (f"--{name}", "a", f"--{name}=-b", f"--{name}", "-c", "d")
    assert getattr(parsed(config_class, *words), name) == ("a", "-b", "-c", "d")


def test_two_parses_do_not_share_their_lists():
    parser = build_parser(RecommendSettings, "")
    assert parser.parse_args(["--users=a", "--users=b"]).users == ["a", "b"]
    assert parser.parse_args(["--users=c"]).users == ["c"]


def test_the_flags_replace_the_list_of_a_config_file_together(tmp_path):
    config = tmp_path / "c.json"
    config.write_text('{"protocol": ["popular"]}')
    given = [f"--config={config}", "--protocol=sampled", "--protocol", "full"]
    assert parse_command(given).settings.protocol == ("sampled", "full")
    assert parse_command(given[:1]).settings.protocol == ("popular",)


@pytest.mark.parametrize(
    ("command", "flag"), [("compare", "metric"), ("table", "metrics"), ("protocols", "metrics")]
)
def test_the_lists_of_the_report_add_up_too(command, flag):
    parser = OneLineParser()
    COMMANDS[command].add_flags(parser)
    words = [f"--{flag}", "mrr", f"--{flag}", "hr@5", "hr@1", "--out=x"]
    assert getattr(parser.parse_args(["run", *words]), flag) == ["mrr", "hr@5", "hr@1"]
    arguments = parser.parse_args(["run", "other"])
    assert (len(arguments.runs), getattr(arguments, flag)[0]) == (2, "ndcg@10")


def test_a_single_value_that_is_given_twice_is_the_last_one():
    assert parsed(RecommendSettings, "--k=3", "--k=5").k == 5


@pytest.mark.parametrize(
    ("words", "users"),
    [
        (("--users=-x",), ("-x",)),
        (("--users", "-x", "a", "-y"), ("-x", "a", "-y")),
        (("--users", "-7", "-1.5", "-"), ("-7", "-1.5", "-")),
        (("--users", "-k=3", "--k", "4"), ("-k=3",)),
        (("--users=--k", "--users", "-hx"), ("--k", "-hx")),
    ],
)
def test_an_id_may_begin_with_a_dash(words, users):
    assert parsed(RecommendSettings, *words).users == users


@pytest.mark.parametrize("words", [["--user=a"], ["-x"], ["--users", "a", "--nothing"]])
def test_an_unknown_flag_is_refused(words, capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(RecommendSettings, *words)
    assert ended.value.code == 2
    assert words[-1] in capsys.readouterr().err


def test_help_is_no_value(capsys):
    with pytest.raises(SystemExit) as ended:
        parsed(RecommendSettings, "--users", "a", "-h")
    assert ended.value.code == 0
    assert "--users_file" in capsys.readouterr().out


def test_subcommands_have_the_same_parser():
    parser = OneLineParser()
    commands = parser.add_subparsers()
    commands.add_parser("one").add_argument("--many", nargs="*", default=argparse.SUPPRESS)
    assert parser.parse_args(["one", "--many=-a", "--many", "b"]).many == ["-a", "b"]
