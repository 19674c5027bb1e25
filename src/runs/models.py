"""The models of a run: newly initialised, or loaded from its best checkpoints."""

from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

from src.config.names import MODELS, load
from src.config.settings import Settings
from src.dataset.store.folder import Dataset
from src.evaluation.queries import Ensemble
from src.runs.checkpoints import BEST, load_weights, read_checkpoint


def new_model(settings: Settings, dataset: Dataset, device: torch.device) -> Any:
    """A newly initialised recommender, with weights of the dtype of `--precision`.

    Weights are drawn on the CPU, so that they are the same on every device; on `meta` not at all.
    """
    recommender = load(MODELS[settings.model].path)
    with torch.device("meta" if device.type == "meta" else "cpu"):
        model = recommender(settings, dataset.item_starts.tolist())
    return model.to(device, torch.float64 if settings.precision == "float64" else torch.float32)


def count_parameters(settings: Settings, dataset: Dataset) -> int:
    """The number of the model's parameters, without allocating them."""
    with _Undrawn():
        model = new_model(settings, dataset, torch.device("meta"))
    return sum(parameter.numel() for parameter in model.parameters())


class _Undrawn(TorchFunctionMode):
    """Allocates tensors and computes nothing. On `meta` there is nothing to compute, but most
    functions would load torch's compiler there, which takes as long as torch itself."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        kwargs = kwargs or {}
        match function.__name__:
            case "randn":
                return torch.empty(*args, **kwargs)
            case "eye":
                return torch.empty(*args, *args, **kwargs)
            case "uniform_" | "normal_" | "mul" | "mul_" | "__mul__" | "div" | "__truediv__":
                return args[0] if args else kwargs["tensor"]  # of torch.nn.init by name
            case "repeat":
                tensor, *times = args
                sizes = (1,) * (len(times) - tensor.dim()) + tensor.shape
                sizes = [count * size for count, size in zip(times, sizes, strict=True)]
                return torch.empty(sizes, device=tensor.device)
        return function(*args, **kwargs)


def model_parts(settings: Settings, dataset: Dataset, folder: Path) -> list[tuple[Dataset, Path]]:
    """(dataset, checkpoint folder) of each model of a run."""
    if not settings.per_domain:
        return [(dataset, folder)]
    return [
        (dataset.only_domain(domain), folder / "domains" / str(domain))
        for domain in range(len(dataset.domain_names))
    ]


def best_models(
    settings: Settings, dataset: Dataset, folder: Path, device: torch.device
) -> Ensemble:
    """The models of a run folder's best checkpoints, in evaluation mode.

    UserError where one is missing, damaged, or of another dataset or run.
    """
    models = []
    for part, part_folder in model_parts(settings, dataset, folder):
        model = new_model(settings, dataset=part, device=device).eval()
        path = part_folder / BEST
        state = read_checkpoint(path, settings, part, mapped=True)  # only the weights are read
        load_weights(model, state, path)
        models.append(model)
    return Ensemble(models, separate=settings.per_domain)
