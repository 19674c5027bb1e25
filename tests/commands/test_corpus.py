"""What once ended in a traceback, each in a file of its own, is refused in one line since."""

import json
import shutil

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from src.dataset.store.folder import open_dataset
from src.dataset.store.verify import verify_dataset
from src.evaluation.targets import drawn_candidates, split_targets
from src.io.errors import UserError
from src.runs import lifecycle, training_state
from src.runs.command import parse_command
from src.runs.tables import METRICS_COLUMNS, Table
from src.serving.choices import chosen_users
from tests.support import readers as use
from tests.support.command_runs import data_step
from tests.support.spoiling import remove
from tests.support.tiny_world import data_flags


@pytest.fixture
def spoil(world):
    """Replace files of the world for one test: spoil(path, what it holds then, or an edit)."""
    kept = {}

    def replace(path, content):
        kept.setdefault(path, path.read_bytes())
        remove(path)  # another file: the good one may be mapped into memory
        path.write_bytes(kept[path])
        if callable(content):
            content(path)
        else:
            path.write_bytes(content)

    yield replace
    for path, content in kept.items():
        remove(path)
        path.write_bytes(content)


def refusal(run) -> str:
    """The one line that `run` ends with."""
    with pytest.raises(UserError) as error:
        run()
    return str(error.value)


def put(*place):
    """The edit of a JSON file that changes, adds or (None) takes away what stands at a place."""
    *above, last, value = place

    def edit(path):
        content = json.loads(path.read_text())
        holder = content
        for key in above:
            holder = holder[key]
        if value is None:
            del holder[last]
        else:
            holder[last] = value
        path.write_text(json.dumps(content))

    return edit


# ---------------------------------------------------------------- JSON of any kind


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"[" * 100_000, "is nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "cannot be read"),
        (b'{"lr": ' + b"9" * 400 + b"}", "'lr' must be float, not a number of many digits"),
        (b'{"hidden": [' + b"1," * 5000 + b"1]}", "'hidden' must be int, not list of 5001"),
        (b'{"protocol": 1}', "'protocol' must be a list of str, not 1"),
        (b'{"data_dir": "a\\u0000b"}', "--data_dir 'a\\x00b' has control characters"),
        (b'{"init_from": "\\ud800"}', "--init_from '\\ud800' cannot be encoded as a file name"),
        (b'{"runs_dir": "' + b"x" * 300 + b'"}', "is too long for a file"),
        (b'{"hidden": 1000000000}', "--hidden must be at most 65536"),
        (b'{"clip_norm": Infinity}', "--clip_norm must be finite"),
        (b'{"seed": 18446744073709551616}', "--seed must be at most"),
        (b'{"data_name": "../../up"}', "--data_name '../../up' names a folder"),
        (b"\xef\xbb\xbf{}", "BOM"),
        (b'{"lr": 1}'.decode().encode("utf-16"), "cannot be read"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else value,
)
def test_a_config_file(world, content, said):
    path = world.root / "made.json"
    path.write_bytes(content)
    assert said in refusal(lambda: parse_command([f"--config={path}"]))


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (put("domains", 1), "'domains' must be an object, not 1"),
        (put("domains", "Books", "items", "x"), "'Books' → 'items' must be a whole number"),
        (put("domains", "Books", "items", 10**400), "not a number of many digits"),
        (put("domains", "Books", "items", 1e308), "must be a whole number from 1"),
        (put("domains", "two\nlines", {"items": 1}), "the name 'two\\nlines' has the control"),
        (put("domains", "\u202egnp", {"items": 1}), "changes the text direction"),
        (put("domains", "macro", {"items": 1}), "'macro' is reserved for a mean in the results"),
        (put("domains", {}), "'domains' must have at least 1 entry"),
        (put("data_name", "../../up"), "'data_name' must be letters, digits"),
        (put("data_name", "x" * 201), "'data_name' must be at most 200 letters"),
        (put("sha256", "../../up"), "'sha256' must be 64 hexadecimal digits"),
        (put("users", None), "'users' is missing"),
        (put("notes", [1]), "'notes' must be an object"),
        (put("split", "x"), "'split' must be an object"),
        (put("format", "1"), "'format' must be a whole number"),
    ],
)
def test_a_data_card(world, spoil, edit, said):
    spoil(world.data / "data_card.json", edit)
    line = refusal(lambda: open_dataset(world.data))
    assert "data_card.json" in line and said in line


@pytest.mark.parametrize(
    "edit",
    [
        put("notes", None), put("time_range", "last", None), put("audit", "ties", None),
        put("audit", "future_leaks", "x"), put("dropped", "dedup", "many"), put("rows", [1]),
        put("domains", "Toys", "mean_length", "3"), put("split", "targets", "Toys", None),
        put("split", "cold_test_users", None), put("split", "test_from", "2014"),
        put("options", 3), put("raw_files", {}), put("raw_files", [{}]), put("cutoff", None),
        put("overlap", "Toys", None),
    ],
)  # fmt: skip
def test_the_card_of_a_folder_to_be_used_again(world, spoil, edit):
    spoil(world.data / "data_card.json", edit)
    flags = [*data_flags(world.logs["csv"]), f"--out_dir={world.data}"]
    assert str(world.data) in refusal(lambda: data_step(*flags))


@pytest.mark.parametrize(
    ("name", "edit", "reader", "said"),
    [
        ("config.json", put("mode", ["x"]), use.as_table, "'mode' must be str, not list of 1"),
        ("config.json", put("seed", "1"), use.as_analysis, "'seed' must be int"),
        ("config.json", lambda path: path.write_text('"x"'), use.as_table, "one JSON object"),
        ("environment.json", put("data_sha256", None), use.as_table, "'data_sha256' is missing"),
        ("environment.json", put("commit", [1]), use.as_analysis, "'commit' must be text"),
        ("results.json", put("test", "x"), use.as_table, "'test' must be an object"),
        ("results.json", put("test", "full", "cross", []), use.as_main, "must be an object"),
        ("results.json", put("test", "full", "cross", "Toys", None), use.as_main, "other domains"),
        ("results.json", put("test", "full", None), use.as_main, "no test results under full"),
        ("results.json", put("test", "full", "cross", "Toys", "n", 10**400), use.as_table, "'n'"),
        (
            "results.json", put("test", "full", "cross", "Toys", {"n": 3}), use.as_main,
            "Toys lacks hr@10",
        ),
        ("serving.json", put("Toys", None), use.as_recommend, "no path for domain Toys"),
        ("serving.json", put("Toys", "path", ["x"]), use.as_recommend, "must be cross or single"),
        ("serving.json", put("Toys", "x"), use.as_recommend, "'Toys' must be an object"),
        ("data_card.json", put("overlap", 1), use.as_analysis, "'overlap' must be an object"),
        ("data_card.json", put("notes", None), use.as_analysis, "'notes' is missing"),
    ],
)  # fmt: skip
def test_a_json_file_of_a_run(world, spoil, name, edit, reader, said):
    for run in world.runs.values() if name == "data_card.json" else [world.run]:
        spoil(run / name, edit)
    line = refusal(lambda: reader(world))
    assert name in line and said in line


# ---------------------------------------------------------------- arrays and tables


def test_the_header_of_an_array_that_no_tokenizer_reads(world, spoil):
    def tear(path):
        content = path.read_bytes()
        path.write_bytes(content[:10] + content[10:].replace(b"'fortran", b"\n(fortran", 1))

    spoil(world.data / "sequences" / "items.npy", tear)
    assert "items.npy cannot be read" in refusal(lambda: open_dataset(world.data))


@pytest.mark.parametrize(
    ("name", "edit"),
    [
        ("items.parquet", lambda table: table.slice(0, 3)),
        ("items.parquet", lambda table: table.drop_columns(["item_id"])),
        ("users.parquet", lambda table: table.set_column(1, "user_id", pa.array([7] * len(table)))),
        ("users.parquet", lambda table: table.set_column(1, "user_id", pa.nulls(len(table)))),
        ("users.parquet", None),
    ],
)
def test_an_id_table(world, spoil, name, edit):
    def change(path):
        table = pq.read_table(path)
        if edit is None:
            path.write_bytes(path.read_bytes()[:-20])
        else:
            pq.write_table(edit(table), path)

    spoil(world.data / name, change)
    dataset = open_dataset(world.data)
    assert name in refusal(lambda: (dataset.user_ids, dataset.item_ids))
    with pytest.raises(UserError):
        verify_dataset(dataset)


@pytest.mark.parametrize(
    ("name", "edit", "said"),
    [
        ("ranks.parquet", {"domain": [{"a": 1}]}, "cannot be read"),
        ("ranks.parquet", {"split": [True]}, "cannot be read"),
        ("ranks.parquet", {"split": [[1]]}, "cannot be read"),
        ("ranks.parquet", {"better": [None]}, "cannot be read"),
        ("ranks.parquet", {"better": [-1]}, "has impossible ranks"),
        ("ranks.parquet", {"domain": ["Elsewhere"]}, "has domains that results.json lacks"),
        ("targets.parquet", {"item_count": ["x"]}, "cannot be read"),
        ("targets.parquet", {"domain_history": None}, "was written by an earlier version"),
        ("targets.parquet", {"target": "later"}, "lacks targets of ranks.parquet"),
    ],
)
def test_a_table_of_targets(world, spoil, name, edit, said):
    def change(path):
        table = pq.read_table(path)
        for column, values in edit.items():
            place = table.column_names.index(column)
            table = table.remove_column(place)
            if values == "later":
                values = range(100, 100 + len(table))
                table = table.add_column(place, column, pa.array(values))
            elif values is not None:
                table = table.add_column(place, column, pa.array(values * len(table)))
        pq.write_table(table, path)

    for run in world.runs.values():
        spoil(run / name, change)
    line = refusal(lambda: use.as_analysis(world))
    assert name in line and said in line


@pytest.mark.parametrize(
    ("name", "old", "new", "said"),
    [
        ("metrics.csv", b"epoch", b"\xff", "cannot read"),
        ("metrics.csv", b"split", b"part", "cannot read"),
        ("metrics.csv", b"\n1,", b"\nsingle,", "cannot read"),
        (
            "metrics.csv",
            b",Toys,",
            b",Elsewhere,",
            "'Elsewhere', which results.json lacks",
        ),
        ("metrics.csv", b",0.", b",1e9", "has non-finite values"),
        ("metrics.csv", b"1,", b"9,", "lacks epoch 9"),
        ("transfer.csv", b",Toys,", b",Books,", "expected one row per (epoch, domain)"),
        ("transfer.csv", b"gamma", b"share", "cannot read"),
    ],
)
def test_a_csv_file_of_a_run(world, spoil, name, old, new, said):
    spoil(world.run / name, lambda path: path.write_bytes(path.read_bytes().replace(old, new)))
    assert said in refusal(lambda: use.as_analysis(world))


@pytest.mark.parametrize("row", ["single,1", "x,2,train,cross,Toys,loss,1", "٣,2,a,b,c,d,1", "\0"])
def test_a_table_that_a_run_goes_on_with(tmp_path, row):
    path = tmp_path / "metrics.csv"
    path.write_text(f"{','.join(METRICS_COLUMNS)}\n{row}\n")
    assert str(path) in refusal(lambda: Table(path, METRICS_COLUMNS, 3))


def test_a_domain_that_is_called_as_nothing_is(tmp_path, world, spoil):
    """pandas takes NA for a gap, and it is a name."""
    for run in world.runs.values():
        for name in ("metrics.csv", "transfer.csv"):
            if (run / name).is_file():
                text = (run / name).read_bytes().replace(b",Toys,", b",NA,")
                spoil(run / name, text)
        for name in ("results.json", "data_card.json", "serving.json"):
            if (run / name).is_file():
                spoil(run / name, (run / name).read_bytes().replace(b'"Toys"', b'"NA"'))
        for name in ("ranks.parquet", "targets.parquet"):
            spoil(run / name, _renamed)
    use.as_analysis(world)


def _renamed(path):
    frame = pd.read_parquet(path)
    frame["domain"] = frame.domain.astype(str).replace("Toys", "NA")
    frame.to_parquet(path, index=False)


@pytest.mark.parametrize(
    "edit",
    [
        lambda items: np.zeros(3, np.int64), lambda items: items.astype(float),
        lambda items: items + 10**6, lambda items: items[:5], lambda items: np.array("x"),
        lambda items: items - 2,
    ],
)  # fmt: skip
def test_stored_candidates(world, spoil, edit):
    def change(path):
        with np.load(path) as stored:
            parts = dict(stored)
        np.savez_compressed(path, key=parts["key"], candidates=edit(parts["candidates"]))

    for path in (world.run.parent / "candidates").glob("sampled-*.npz"):
        spoil(path, change)
    settings = use.tiny_settings(world)
    dataset, folder = use.good_dataset(world), world.run.parent / "candidates"
    targets = split_targets(dataset, "test")
    count, seed = settings.sampled_negatives, settings.candidate_seed
    line = refusal(lambda: drawn_candidates(dataset, targets, ("sampled",), count, seed, folder))
    assert "does not fit these targets; delete it" in line


# ---------------------------------------------------------------- checkpoints


def at(*place):
    """The edit of a checkpoint's dict that changes, or (`GONE`) takes away what is at a place."""
    *above, last, value = place

    def edit(path):
        state = torch.load(path, weights_only=True)
        holder = state
        for key in above:
            holder = holder[key]
        if value is GONE:
            del holder[last]
        else:
            holder[last] = value
        torch.save(state, path)

    return edit


GONE, TENSOR = object(), torch.zeros(3)
NO_STATE = torch.full((1, 5056), 255, dtype=torch.uint8)
NOT_ONE = "is not a checkpoint of this version"


@pytest.fixture
def within(world):
    """A checkpoint within an epoch."""
    path = world.run / "within.pt"
    if not path.is_file():
        use.save_within(use.new_trainer(world), path)
    return path


@pytest.mark.parametrize(
    ("edit", "said"),
    [
        (at("model", "item_table", GONE), 'Missing key(s) in state_dict: "item_table"'),
        (at("model", "item_table", torch.zeros(16, 5)), "size mismatch for item_table"),
        (at("model", "item_table", [1]), NOT_ONE),
        (at("model", "item_table", torch.zeros(1).expand(10**12)), "size mismatch for item_table"),
        (at("model", "item_table", torch.zeros(16, 4).to_sparse()), '"item_table"'),
        (at("model", "stranger", TENSOR), 'Unexpected key(s) in state_dict: "stranger"'),
        (at("optimizer", "x"), "does not fit this run"),
        (at("optimizer", "state", 0, "exp_avg", TENSOR), "moments [3] of [16, 4]"),
        (at("optimizer", "state", 0, "exp_avg", GONE), "KeyError: 'exp_avg'"),
        (at("optimizer", "state", 0, "step", [1]), "does not fit this run"),
        (at("optimizer", "state", 10**400, {}), "does not fit this run"),
        (at("optimizer", "param_groups", []), "different number of parameter groups"),
        (at("optimizer", "param_groups", 0, "params", 0, 5), "does not fit this run"),
        (at("scheduler", "lr_lambdas", GONE), "KeyError: 'lr_lambdas'"),
        (at("scheduler", GONE), "KeyError: 'scheduler'"),
        (at("epoch", GONE), "KeyError: 'epoch'"),
        (at("step", "x"), "does not fit this run"),
        (at("lc_ntg", torch.zeros(9)), "does not fit this run"),
        (at("lc_ntg", GONE), "KeyError: 'lc_ntg'"),
        (at("weighting", {"stranger": TENSOR}), "weighting has no stranger"),
        (at("sums", None), "does not fit this run"),
        (at("sums", "losses", GONE), "KeyError: 'losses'"),
        (at("sums", "losses", torch.zeros(0, 2, 3)), "does not fit this run"),
        (at("sums", "counts", torch.zeros(1, 9)), "does not fit this run"),
        (at("random", {}), "KeyError: 'cpu'"),
        (at("random", "cpu", TENSOR), "invalid random state"),
        (at("random", "cpu", NO_STATE), "invalid random state"),
        (at("settings", GONE), NOT_ONE),
        (at("identity", "0"), "is of another run"),
        (at("data_sha256", "0"), "was trained on another dataset"),
        (at("format", TENSOR), NOT_ONE),
        (at("format", 3), NOT_ONE),
    ],
    ids=lambda value: "" if callable(value) else value,
)
def test_a_checkpoint_that_is_whole_and_of_something_else(world, spoil, within, edit, said):
    spoil(within, edit)
    trainer = use.new_trainer(world)
    line = refusal(lambda: training_state.load(trainer, within))
    assert "within.pt" in line and said in line


def test_a_checkpoint_of_a_version_of_torch_that_kept_less_is_taken_up(world, spoil, within):
    spoil(within, at("optimizer", "param_groups", 0, "foreach", GONE))
    trainer = use.new_trainer(world)
    training_state.load(trainer, within)
    trainer.train_epoch()
    assert trainer.progress.epoch == 1


@pytest.mark.parametrize("reader", [use.as_recommend, use.start_from])
@pytest.mark.parametrize(
    "edit",
    [
        at("model", "item_table", GONE), at("model", "item_table", torch.zeros(())),
        at("model", "item_table", torch.zeros(16, 5)), at("model", "stranger", TENSOR),
        at("model", "critics", torch.zeros(9, 9)), at("model", "critics", torch.zeros(0)),
    ],
)  # fmt: skip
def test_the_best_checkpoint(world, spoil, reader, edit):
    spoil(world.run / "best.pt", edit)
    assert refusal(lambda: reader(world))


@pytest.mark.parametrize(
    "edit",
    [
        at("lc_ntg", torch.zeros(9, 9)), at("lc_ntg", torch.zeros(0)),
        at("model", "item_table", torch.zeros(16, 4, dtype=torch.complex64)),
    ],
)  # fmt: skip
def test_the_best_checkpoint_of_a_run_to_start_from(world, spoil, edit):
    spoil(world.run / "best.pt", edit)
    assert refusal(lambda: use.start_from(world))


# ---------------------------------------------------------------- raw logs and folders


def test_a_review_that_is_nested_too_deeply(world, spoil, capsys):
    path = next(world.logs["reviews"].glob("*.json"))
    spoil(path, lambda path: path.write_bytes(b"[" * 100_000 + b"\n" + path.read_bytes()))
    flags = [*data_flags(world.logs["reviews"]), "--describe"]
    assert refusal(lambda: data_step(*flags))


def test_a_run_folder_whose_folder_is_a_link_is_emptied(world, tmp_path):
    run = shutil.copytree(world.run, tmp_path / "run")
    kept = tmp_path / "kept"
    kept.mkdir()
    (kept / "file").touch()
    (run / "domains").symlink_to(kept)
    lifecycle._empty(run)
    assert not list(run.iterdir())
    assert (kept / "file").is_file()


def test_users_that_are_asked_for_in_a_torn_table(world, spoil):
    spoil(world.data / "users.parquet", b"PAR1")
    dataset = open_dataset(world.data)
    line = refusal(lambda: chosen_users(dataset, ("u01",)))
    assert "users.parquet cannot be read" in line
