"""Write the plain forward as graphs that need no code of this project: torch.export and ONNX."""

import importlib.util
import io
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.export import Dim, ExportedProgram

from src.io.errors import UserError
from src.serving.plain_forward import PlainForward

PT2, ONNX = "pt2", "onnx"
NEEDED = {PT2: (), ONNX: ("onnx", "onnxscript")}  # packages beside torch
INPUTS = {"items": 2, "times": 2, "domain": 1, "now": 1}  # and their dimensions
# An example with one row or one event would make that size a constant of the graph.
EXAMPLE = (2, 3)
ONE_FILE = 2**31 - 2**26  # bytes of weights that an ONNX file holds beside its graph


def missing_packages(format: str) -> list[str]:
    """The packages that a format needs and that are not installed."""
    return [name for name in NEEDED[format] if importlib.util.find_spec(name) is None]


def check_exportable(models: list, name: str) -> None:
    """UserError for a model whose forward pass cannot be exported; `name` is its --model."""
    if not all(model.queries_read for model in models):
        raise UserError(
            f"--model {name} cannot be exported: docs/serving.md lists the models that can; "
            "recommend.py ranks by every model, from the run folder"
        )


@torch.no_grad()
def export_program(forward: PlainForward) -> ExportedProgram:
    """The graph of the plain forward, for any number of histories of any length from 1 on."""
    device = forward.item_starts.device
    example = tuple(
        torch.ones(EXAMPLE[:dimensions], dtype=torch.long, device=device)
        for dimensions in INPUTS.values()
    )
    example[2].zero_()  # domain 0 exists in every run
    program = torch.export.export(forward, example, dynamic_shapes=dynamic_shapes())
    for node in program.graph.nodes:  # both formats would keep the paths of this machine
        node.meta.pop("stack_trace", None)
    return program


def write_program(program: ExportedProgram, path: Path) -> None:
    """Write the graph for `torch.export.load`."""
    content = io.BytesIO()
    with quiet():
        torch.export.save(program, content)
    path.write_bytes(content.getbuffer())


def write_onnx(program: ExportedProgram, path: Path, outputs: tuple[str, ...]) -> None:
    """Write the graph for ONNX Runtime, in one file unless the weights are too large for one; then
    they lie in a second one beside it, `.data`."""
    size = sum(value.nbytes for value in program.state_dict.values())
    with quiet():
        graph = torch.onnx.export(
            program, dynamo=True, dynamic_shapes=dynamic_shapes(), input_names=list(INPUTS),
            output_names=list(outputs), verbose=False,
        )  # fmt: skip
    assert graph is not None
    graph.save(path, external_data=size > ONE_FILE)


def dynamic_shapes() -> dict[str, dict[int, Dim]]:
    """The sizes that may vary, of each input."""
    batch, length = Dim("batch", min=1), Dim("length", min=1)
    return {
        name: {0: batch, 1: length} if dimensions == 2 else {0: batch}
        for name, dimensions in INPUTS.items()
    }


@contextmanager
def quiet() -> Iterator[None]:
    """Without the lines of the libraries about themselves: operators of packages that are not
    installed, constants that are left as they are, axis names that two inputs share."""
    loggers = [logging.getLogger(name) for name in ("torch.onnx", "onnx_ir", "onnxscript")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
