"""No data that is opened can run code: no source has a way to, hostile pickles are refused."""

import ast
import os
import pickle
import zipfile

import numpy as np
import pytest
import torch
from test_architecture import FILES, ROOT

from src.dataset.store.folder import open_dataset
from src.evaluation.candidates import stored_candidates
from src.io.errors import UserError
from src.runs import training_state
from tests.support import readers as use
from tests.support.spoiling import remove

MODULES = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "marshal", "shelve", "yaml"}
NAMES = {"eval", "exec", "compile", "__import__"}
READERS = {"read_pickle", "to_pickle", "unsafe_load", "full_load", "loads_pickle"}


def dangers(tree):
    """Lines that could run what a file says."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            found = {alias.name.split(".")[0] for alias in node.names} & MODULES
        elif isinstance(node, ast.ImportFrom):
            found = {(node.module or "").split(".")[0]} & MODULES
        elif isinstance(node, ast.Call):
            found = _dangers_of_call(node)
        else:
            continue
        yield from (f"line {node.lineno}: {name}" for name in found)


def _dangers_of_call(node):
    called = ast.unparse(node.func)
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in node.keywords}
    found = {called} & NAMES | {called.rpartition(".")[2]} & READERS
    if called == "torch.load" and given.get("weights_only") != "True":
        found.add("torch.load without weights_only")
    if given.get("allow_pickle", "False") != "False" or given.get("shell", "False") != "False":
        found.add(f"{called} with allow_pickle or shell")
    if called in ("os.system", "os.popen"):
        found.add(called)
    return found


@pytest.mark.parametrize(
    "line",
    [
        "import pickle", "from joblib import load", "torch.load(path)", "eval(text)",
        "torch.load(path, weights_only=False)", "np.load(path, allow_pickle=True)",
        "pd.read_pickle(path)", "subprocess.run(line, shell=True)", "os.system(line)",
        "yaml.unsafe_load(text)",
    ],
)  # fmt: skip
def test_the_scan_sees_what_it_looks_for(line):
    assert list(dangers(ast.parse(line)))


@pytest.mark.parametrize(
    "path",
    [path for path in FILES if ROOT / "tests" not in path.parents],
    ids=lambda path: str(path.relative_to(ROOT)),
)
def test_no_source_can_run_what_a_file_says(path):
    assert list(dangers(ast.parse(path.read_text()))) == []


# ---------------------------------------------------------------- hostile pickles


class Hostile:
    """A pickle of it makes a folder when it is loaded."""

    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


@pytest.fixture
def mark(tmp_path):
    """What a hostile pickle would make; it must not be there at the end."""
    mark = tmp_path / "mark"
    yield mark
    assert not mark.exists()


def test_the_hostile_pickle_works(tmp_path):
    """Else nothing below would say anything."""
    pickle.loads(pickle.dumps(Hostile(tmp_path / "made")))
    assert (tmp_path / "made").is_dir()


def plain_pickle(path, mark):
    path.write_bytes(pickle.dumps(Hostile(mark)))


def checkpoint_with_pickle(path, mark):
    torch.save({"format": 1, "model": Hostile(mark)}, path)


def archive_of_pickle(path, mark):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(Hostile(mark)))
        archive.writestr("archive/version", "3\n")


def array_of_objects(path, mark):
    with path.open("wb") as file:
        np.save(file, np.array([Hostile(mark)], dtype=object), allow_pickle=True)


def archive_of_objects(path, mark):
    with path.open("wb") as file:
        np.savez(file, key=np.array([Hostile(mark)], dtype=object), candidates=np.zeros(1))


@pytest.mark.parametrize("write", [plain_pickle, checkpoint_with_pickle, archive_of_pickle])
@pytest.mark.parametrize("name", ["last.pt", "best.pt"])
def test_a_checkpoint_that_is_a_hostile_pickle(world, mark, name, write):
    path = world.run / name
    good = path.read_bytes()
    write(path, mark)
    try:
        with pytest.raises(UserError, match="is damaged"):
            training_state.load(use.new_trainer(world), path)
        if name == "best.pt":
            with pytest.raises(UserError, match="is damaged"):
                use.as_recommend(world)
    finally:
        path.write_bytes(good)


@pytest.mark.parametrize("write", [plain_pickle, array_of_objects])
@pytest.mark.parametrize("name", ["items", "domains", "times", "split", "offsets"])
def test_an_array_that_is_a_hostile_pickle(world, mark, name, write):
    path = world.data / "sequences" / f"{name}.npy"
    good = path.read_bytes()
    remove(path)
    write(path, mark)
    try:
        with pytest.raises(UserError, match=rf"{name}\.npy"):
            open_dataset(world.data)
    finally:
        remove(path)
        path.write_bytes(good)


@pytest.mark.parametrize("write", [plain_pickle, array_of_objects, archive_of_objects])
def test_candidates_that_are_a_hostile_pickle(tmp_path, mark, write):
    path = tmp_path / "sampled.npz"
    write(path, mark)
    with pytest.raises(UserError, match=r"sampled\.npz cannot be read"):
        stored_candidates(path, {}, lambda: pytest.fail("drawn anew"))
