"""The import graph and the sizes of files and functions are those of the architecture."""

import ast
import re
from functools import cache
from pathlib import Path

import pytest

from src.config.modes import BLEND, MODES, PATHS, SERVED
from src.config.names import COUNT_MODELS, MODELS, WEIGHTINGS

ROOT = Path(__file__).resolve().parents[1]
ROOT_MODULES = {path.stem for path in ROOT.glob("*.py")}
FOLDERS = ("src", "tests", "experiments", "benchmarks")
FILES = sorted(
    [*ROOT.glob("*.py"), *(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))]
)
PRODUCT = [path for path in FILES if path.parent == ROOT or (ROOT / "src") in path.parents]
NEEDED = (
    "README.md", "LICENSE", "CITATION.cff", "CHANGELOG.md", "requirements.txt", "train.sh",
    "test.sh", "make_dataset.py", "main.py", "models.py", "trainers.py", "utils.py", "recommend.py",
    "report.py", ".ci/run", "configs/quick.json", "configs/paper.json", "src/dataset/raw",
)  # fmt: skip
# Everything but the data step: what runs on a machine without a data engine.
DATA_STEP = (
    "make_dataset", "src.dataset.make", "src.dataset.ingest", "src.dataset.build",
    "src.dataset.engine",
)  # fmt: skip
DATA_ENGINES = {"duckdb", "ibis"}


def name_of(path: Path) -> str:
    """The dotted module name of a file."""
    parts = path.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {name_of(path): path for path in PRODUCT}


@cache
def imports(path: Path) -> frozenset[str]:
    """Every module that a file imports, wherever in it; project modules by their own name."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import; write the whole name"
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return frozenset(found)


def project_imports(module: str) -> set[str]:
    return {name for name in imports(MODULES[module]) if name in MODULES}


def reached(module: str) -> set[str]:
    """All project modules that importing one loads, itself included, packages above them too."""
    found, waiting = set(), [module]
    while waiting:
        name = waiting.pop()
        if name in MODULES and name not in found:
            found.add(name)
            waiting += [*imports(MODULES[name]), name.rpartition(".")[0]]
    return found


def below(package: str) -> list[str]:
    return [name for name in MODULES if name == package or name.startswith(package + ".")]


def test_the_graph_is_read_as_it_is():
    """Else every test below could pass on an empty graph."""
    assert {"src.nn.experts", "src.objective.sc_mim"} <= project_imports("models")
    assert "src.dataset.batching.batch" in project_imports("trainers")
    assert "src.evaluation.metrics" in reached("main")
    assert any(DATA_ENGINES & {name.split(".")[0] for name in imports(path)} for path in PRODUCT)


def test_the_model_stands_on_layers_and_losses_alone():
    packages = {name.rpartition(".")[0] for name in project_imports("models")}
    assert packages <= {"src", "src.nn", "src.objective"}


@pytest.mark.parametrize("module", below("src"))
def test_nothing_in_src_imports_a_root_module(module):
    assert not {name.split(".")[0] for name in imports(MODULES[module])} & ROOT_MODULES


def test_src_holds_packages_and_no_loose_modules():
    loose = {path.name for path in (ROOT / "src").iterdir() if path.is_file()}
    assert loose <= {"__init__.py", "interfaces.py", "environment.sh"}


@pytest.mark.parametrize(
    ("package", "other"),
    [
        ("src.dataset.ingest", "src.evaluation"), ("src.dataset.build", "src.evaluation"),
        ("src.evaluation", "src.dataset.ingest"), ("src.evaluation", "src.dataset.build"),
    ],
)  # fmt: skip
def test_making_data_and_evaluation_do_not_import_each_other(package, other):
    for module in below(package):
        assert not reached(module) & set(below(other)), module


def test_no_module_imports_itself_through_others():
    for module in MODULES:
        for name in project_imports(module):
            assert module not in reached(name) or name == module.rpartition(".")[0], (
                f"{module} -> {name} -> … -> {module}"
            )


def test_no_test_imports_a_benchmark():
    """What both need lies in tests/support."""
    for path in FILES:
        if ROOT / "tests" in path.parents:
            assert not [name for name in imports(path) if name.split(".")[0] == "benchmarks"], path


def test_no_command_loads_scipy_stats_at_its_start():
    """It takes half a second; what computes intervals or correlations imports it within."""
    loads = re.compile(r"^(from scipy import .*\bstats\b|(from|import) scipy\.stats)", re.MULTILINE)
    assert [path for path in PRODUCT if loads.search(path.read_text())] == []


def test_the_oracle_is_independent_of_the_product():
    assert not imports(ROOT / "tests" / "oracle.py") & MODULES.keys()


def test_everything_but_the_data_step_needs_no_data_engine():
    data_step = {module for package in DATA_STEP for module in below(package)}
    for module in MODULES.keys() - data_step:
        for name in reached(module):
            engines = DATA_ENGINES & {used.split(".")[0] for used in imports(MODULES[name])}
            assert not engines, f"{module} reaches {engines} through {name}"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_says_its_job_and_stays_readable(path):
    text = path.read_text()
    tree = ast.parse(text)
    assert len(text.splitlines()) <= 500
    assert ast.get_docstring(tree) or not text.strip(), "no docstring that says the file's job"
    for node in ast.walk(tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            length = node.end_lineno - node.lineno + 1
            assert length <= 60, f"{node.name}, line {node.lineno}, has {length} lines"


@pytest.mark.parametrize("path", NEEDED)
def test_what_the_architecture_names_is_there(path):
    assert (ROOT / path).exists()


def names_compared(tree: ast.AST) -> set[str]:
    """Names of models, modes, paths and weightings that code compares with or tests a text for.

    `own` is also a value of --sdsr_context.
    """
    names = {*MODELS, *MODES, *PATHS, SERVED, BLEND, *WEIGHTINGS, *COUNT_MODELS} - {"own"}
    found = set()
    for node in ast.walk(tree):
        asked = []
        if isinstance(node, ast.Compare):
            asked = [node.left, *node.comparators]
        elif isinstance(node, ast.MatchValue):
            asked = [node.value]
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            asked = node.args if node.func.attr in ("startswith", "endswith") else []
        constants = (part for one in asked for part in ast.walk(one))
        found |= {part.value for part in constants if isinstance(part, ast.Constant)} & names
    return found


@pytest.mark.parametrize("module", sorted(MODULES))
def test_models_modes_paths_and_weightings_are_known_by_their_interfaces(module):
    """A new one touches its own file and a table of names, not a comparison somewhere."""
    own_files = ("models", "src.config", "src.baselines", "src.objective")
    if module.startswith((*own_files, "src.dataset.ingest")):  # where syncrec is a file format
        return
    assert not names_compared(ast.parse(MODULES[module].read_text()))


def test_comparisons_with_names_are_seen():
    code = "if mode == 'syncrec': pass\nif path in ('cross', x): pass\nrun.startswith('sdsr')"
    assert names_compared(ast.parse(code)) == {"syncrec", "cross", "sdsr"}
