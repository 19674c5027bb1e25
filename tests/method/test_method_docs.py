"""Every dotted name in the documents exists: a reader who follows one finds the code."""

import importlib
import re
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
ROOT_MODULES = sorted(path.stem for path in ROOT.glob("*.py"))
DOTTED = re.compile(rf"`((?:src|{'|'.join(ROOT_MODULES)})(?:\.\w+)+)`")
FILE_SUFFIXES = {"py", "sh", "md", "json"}  # `models.py` names a file
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]


def dotted_names(text: str) -> set[str]:
    """The names in backticks that begin with a module of the project."""
    names = set(DOTTED.findall(text))
    return {name for name in names if name.rpartition(".")[2] not in FILE_SUFFIXES}


def resolve(name: str) -> Any:
    """The module, class or function of a dotted name; ImportError or AttributeError."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        module = ".".join(parts[:length])
        try:
            value = importlib.import_module(module)
        except ModuleNotFoundError as error:
            if not module.startswith(error.name or " "):  # a module that it imports is missing
                raise
            continue
        for attribute in parts[length:]:
            value = getattr(value, attribute)
        return value
    raise ImportError(name)


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_every_dotted_name_exists(document):
    for name in sorted(dotted_names(document.read_text(encoding="utf-8"))):
        resolve(name)


def test_the_method_names_the_core_of_the_code():
    """Else the test above could pass on a page without names."""
    names = dotted_names((ROOT / "docs" / "method.md").read_text(encoding="utf-8"))
    assert {
        "models.SyNCRec.acmoe",
        "src.objective.lc_ntg.lc_ntg_update",
        "src.objective.sc_mim.info_nce",
        "trainers.Trainer.train_step",
    } <= names


@pytest.mark.parametrize("name", ["models.SyNCRec.gone", "src.objective.gone", "src.gone.f"])
def test_a_name_that_is_gone_is_noticed(name):
    with pytest.raises((ImportError, AttributeError)):
        resolve(name)


def test_links_between_documents_lead_to_files_and_headings():
    for document in DOCUMENTS:
        for link in re.findall(r"\]\(([^)\s]+)\)", document.read_text(encoding="utf-8")):
            if link.startswith(("http://", "https://", "mailto:")):
                continue
            path, _, heading = link.partition("#")
            target = (document.parent / path).resolve() if path else document
            assert target.exists(), f"{document.name} links to {link}"
            if heading and target.suffix == ".md":
                assert heading in headings(target), f"{document.name} links to {link}"


def headings(document: Path) -> set[str]:
    """The anchors of a Markdown file, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+)$", document.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
