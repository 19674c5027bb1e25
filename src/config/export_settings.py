"""The flags of `export.py`."""

from dataclasses import dataclass

from src.config.cli import setting


@dataclass(frozen=True)
class ExportSettings:
    """The flags of `export.py`, beside the run folder."""

    out: str = setting("", "folder to write (required)")
    format: tuple[str, ...] = setting(
        (), "graphs to write, of pt2 and onnx; default: pt2, and onnx where it is installed"
    )
    embeddings: bool = setting(
        False,
        "instead of a bundle, write the vectors of the items and of the log's users, by path",
    )
    data_dir: str = setting("", "dataset folder, if it has moved since training")
    overwrite: bool = setting(False, "replace what an earlier call wrote to --out")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N")
