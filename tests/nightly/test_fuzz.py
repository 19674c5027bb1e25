"""A short run of the fuzzer, and random JSON through every shape: an answer, never a traceback."""

import json
import random

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from benchmarks.robustness import fuzz
from benchmarks.robustness.fuzz_targets import TARGETS
from src.config.cli import config_defaults
from src.config.settings import Settings, check_settings
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

SHAPES = (OPEN_SCHEMA, REPORT_SCHEMA, CONSOLE_SCHEMA, REUSE_SCHEMA, ENVIRONMENT, RESULTS, SERVING)
INPUTS = 120
SLOW = {"raw_log", "ranks", "report_files"}  # DuckDB, statistics: a few each are enough here
json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=9), inner, max_size=4)
    ),
    max_leaves=12,
)
quick = settings(
    max_examples=60, deadline=None, derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)  # fmt: skip


@pytest.mark.parametrize("target", TARGETS, ids=lambda target: target.__name__)
def test_spoiled_input_is_accepted_or_told_in_one_line(world, target):
    count = 4 if target.__name__ in SLOW else INPUTS // len(TARGETS)
    for number in range(count):
        rng = random.Random(f"short {target.__name__} {number}")
        told = fuzz.answer(lambda rng=rng: target(world, rng))
        assert not fuzz.is_finding(told), f"input {number}: {told}"


def test_the_fuzzer_tells_a_traceback_and_a_hang():
    assert "ZeroDivisionError" in fuzz.answer(lambda: 1 / 0)
    assert fuzz.answer(lambda: [None for _ in iter(int, 1)], limit=0.05).startswith("hang")
    assert fuzz.answer(lambda: exit(3)) == "exit status 3"
    assert fuzz.answer(lambda: exit(2)) == "refused"


@quick
@given(json_values)
def test_any_json_fits_a_shape_or_is_told_where_not(value):
    for shape in SHAPES:
        assert isinstance(schema_error(value, shape), str)
        assert isinstance(card_error(value, OPEN_SCHEMA), str)


@quick
@given(json_values, st.sampled_from(sorted(vars(Settings()))))
def test_any_value_of_a_setting_is_taken_or_refused(tmp_path, value, name):
    path = tmp_path / "c.json"
    path.write_text(json.dumps({name: value}))
    try:
        found = Settings(**config_defaults(Settings, path))
        check_settings(found)
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
