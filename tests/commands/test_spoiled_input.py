"""Spoiled input is accepted or refused in one line; tests/nightly/test_fuzz.py is the long form."""

import json

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from src.config.cli import config_defaults
from src.config.settings import Settings
from src.config.validation import check_settings
from src.dataset.store.card_schema import (
    CONSOLE_SCHEMA,
    OPEN_SCHEMA,
    REPORT_SCHEMA,
    REUSE_SCHEMA,
    card_error,
)
from src.io.errors import UserError
from src.io.json_schema import name_error, read_json, schema_error
from src.runs.records import ENVIRONMENT, RESULTS, SERVING
from tests.support import fuzzing
from tests.support.spoiling import json_values

SCHEMAS = (OPEN_SCHEMA, REPORT_SCHEMA, CONSOLE_SCHEMA, REUSE_SCHEMA, ENVIRONMENT, RESULTS, SERVING)
quick = settings(
    max_examples=40, deadline=None, derandomize=True,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip


@pytest.mark.parametrize("target", fuzzing.TARGETS, ids=lambda target: target.__name__)
def test_spoiled_input_is_accepted_or_refused_in_one_line(world, target):
    slow = target in (fuzzing.raw_log, fuzzing.candidates)
    fuzzing.feed_target(world, target, examples=4 if slow else 16)


def test_a_traceback_and_a_hang_are_findings():
    assert "ZeroDivisionError" in fuzzing.answer(lambda: 1 / 0)
    assert fuzzing.answer(lambda: [None for _ in iter(int, 1)], limit=0.05).startswith("hang")
    assert fuzzing.answer(lambda: exit(3)) == "exit status 3"
    assert fuzzing.answer(lambda: exit(2)) == fuzzing.REFUSED
    with pytest.raises(AssertionError, match="exit status 3"):
        fuzzing.feed("broken", lambda draw: fuzzing.answer(lambda: exit(3)), examples=1)


@quick
@given(json_values)
def test_any_json_fits_a_schema_or_is_told_where_not(value):
    for schema in SCHEMAS:
        assert isinstance(schema_error(value, schema), str)
        assert isinstance(card_error(value, OPEN_SCHEMA), str)


@quick
@given(json_values, st.sampled_from(sorted(vars(Settings()))))
def test_any_value_of_a_setting_is_taken_or_refused(tmp_path, value, name):
    path = tmp_path / "c.json"
    path.write_bytes(json.dumps({name: value}).encode("utf-8", "surrogatepass"))
    try:
        check_settings(Settings(**config_defaults(Settings, path)))
    except UserError as error:
        assert str(error)


@quick
@given(st.binary(max_size=60))
def test_any_bytes_are_json_or_refused(tmp_path, content):
    path = tmp_path / "c.json"
    path.write_bytes(content)
    try:
        read_json(path, "file", dict)
    except UserError as error:
        assert str(path) in str(error)


@quick
@given(st.text())
def test_a_name_that_passes_stays_on_its_line(name):
    if not name_error(name):
        assert len(name.splitlines()) == 1
        name.encode()
