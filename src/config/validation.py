"""Refuse settings that are out of bounds or contradict each other."""

import math
import os
import unicodedata

from src.config.modes import DEFAULT_MODEL
from src.config.names import MODELS, WEIGHTINGS, load
from src.config.settings import SAMPLED_LOSSES, Settings, own_settings
from src.io.errors import UserError
from src.io.json_schema import repr_short
from src.io.names import folder_name_error

MOST = 2**31 - 1  # of a whole number that has no other limit
MOST_SEED = 2**53  # every JSON reader holds these exactly
MOST_THREADS = 1024  # torch starts as many as requested
# {setting: (least, most)}. The largest values are far beyond any use: they catch typing errors
# before anything of that size is allocated.
WHOLE = {
    **dict.fromkeys(("batch_size", "grad_accum", "max_epochs", "eval_users"), (1, MOST)),
    **dict.fromkeys(("warmup_steps", "min_steps", "patience_steps", "save_every_steps"), (0, MOST)),
    "patience_epochs": (0, MOST),
    **dict.fromkeys(("seed", "candidate_seed"), (0, MOST_SEED)),
    **dict.fromkeys(("hidden", "heads"), (1, 2**16)),
    **dict.fromkeys(("layers", "experts_cross"), (1, 1024)),
    "experts_single": (0, 1024),
    "max_len": (2, 2**20),
    "sampled_negatives": (0, 2**20),
    "min_domain_targets": (0, MOST),
    "negatives": (0, 2**20),
    "threads": (0, MOST_THREADS),
}
NOT_NEGATIVE = (
    "lambda_single", "lambda_mim", "weight_decay", "clip_norm", "lc_ntg_beta", "warmup_epochs",
)  # fmt: skip
LONGEST, LONGEST_NAME = 4000, 255  # bytes of a path, and of a part of it
FOLDERS = ("data_name", "strd_ym", "variant")


def check_settings(settings: Settings) -> None:
    """Refuse values and combinations that contradict each other (UserError)."""
    _check_texts(settings)
    for name, (least, most) in WHOLE.items():
        value = getattr(settings, name)
        if value < least:
            limit = "must not be negative" if not least else f"must be at least {least}"
            raise UserError(f"--{name} {limit}, not {repr_short(value)}")
        if value > most:
            raise UserError(f"--{name} must be at most {most}, not {repr_short(value)}")
    for name in NOT_NEGATIVE:
        value = getattr(settings, name)
        if value is not None and not 0 <= value < math.inf:  # so that NaN is refused too
            limit = "not be negative" if not value >= 0 else "be finite"
            raise UserError(f"--{name} must {limit}, not {value}")
    for name in ("lr", "lc_ntg_tau", "mim_temperature", "softmax_temperature"):
        if not 0 < getattr(settings, name) < math.inf:
            raise UserError(f"--{name} must be above 0, not {getattr(settings, name)}")
    for name in ("dropout", "attention_dropout", "lc_ntg_alpha"):
        if not 0 <= getattr(settings, name) < 1:
            raise UserError(f"--{name} must lie in [0, 1), not {getattr(settings, name)}")
    for name in ("lc_ntg_floor", "gbce_t"):
        if not 0 <= getattr(settings, name) <= 1:
            raise UserError(f"--{name} must lie in [0, 1], not {getattr(settings, name)}")
    if settings.hidden % settings.heads:
        raise UserError(f"--hidden {settings.hidden} is not a multiple of --heads {settings.heads}")
    _check_combinations(settings)
    _check_parts(settings)
    for part in own_settings(settings.model, settings.weighting):
        if hasattr(part, "check"):
            part.check(settings)


def _check_texts(settings: Settings) -> None:
    """Refuse texts that cannot be file names, and names that are paths."""
    for name, value in vars(settings).items():
        for text in value if isinstance(value, tuple) else (value,):
            if isinstance(text, str) and (fault := path_fault(text)):
                raise UserError(f"--{name} {repr_short(text)} {fault}")
    for name in FOLDERS:
        value = getattr(settings, name)
        fault = folder_name_error(value)
        if fault and (value or name != "variant"):
            raise UserError(f"--{name} {repr_short(value)} names a folder: use {fault}")


def path_fault(text: str) -> str:
    """Why a text cannot name a file; empty where it can."""
    try:
        name = os.fsencode(text)
    except UnicodeEncodeError:
        return "cannot be encoded as a file name"
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        return "has control characters"
    longest = max(map(len, name.split(b"/")))
    if longest > LONGEST_NAME or len(name) > LONGEST:
        return f"is too long for a file: at most {LONGEST_NAME} bytes per part, {LONGEST} in total"
    return ""


def _check_combinations(settings: Settings) -> None:
    if settings.resume and settings.overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one of them")
    modes = MODELS[settings.model].modes
    if settings.mode not in modes:
        raise UserError(
            f"--model {settings.model} has no --mode {settings.mode}; give {' or '.join(modes)}"
        )
    if settings.sparse_items and settings.model != DEFAULT_MODEL:
        raise UserError(
            f"--model {settings.model} has no --sparse_items; drop it, or give --model "
            f"{DEFAULT_MODEL}"
        )
    if settings.sparse_items and load(WEIGHTINGS[settings.weighting]).per_domain_gradients:
        raise UserError(
            f"--weighting {settings.weighting} needs one dense gradient per domain; drop "
            "--sparse_items, or give another --weighting"
        )
    if settings.gap != "training" and not settings.lc_ntg:
        raise UserError(
            f"--gap {settings.gap} is a gap of --weighting lc_ntg; drop it, or drop --weighting "
            f"{settings.weighting}"
        )
    if settings.mode == "syncrec" and settings.experts_single < 1:
        raise UserError("--mode syncrec needs --experts_single of at least 1; or use --mode cdsr")
    if settings.sdsr_context == "own" and settings.mode not in ("sdsr", "sdsr_separate"):
        raise UserError(
            f"--sdsr_context own breaks the pairing of the tasks in --mode {settings.mode}; "
            "use it with --mode sdsr or sdsr_separate"
        )
    sampled = ", ".join(SAMPLED_LOSSES)
    if settings.loss not in SAMPLED_LOSSES:
        if settings.sparse_items:
            raise UserError(
                f"--sparse_items needs a loss with negatives ({sampled}): the softmax of --loss "
                f"{settings.loss} moves every item of a domain"
            )
        if settings.negatives:
            raise UserError(f"--loss {settings.loss} has no --negatives; {sampled} have")
    elif settings.softmax_items == "all":
        raise UserError(
            f"--softmax_items all needs --loss ce, because --loss {settings.loss} has negatives of "
            "the target's domain"
        )
    if settings.sparse_items and settings.weight_decay:
        raise UserError("--sparse_items does not support weight decay; give --weight_decay 0")
    if settings.compile and settings.kernels == "plain":
        raise UserError("--compile compiles the fused kernels; drop it, or give --kernels fused")


def _check_parts(settings: Settings) -> None:
    """Refuse experts, gates and towers that contradict each other."""
    if settings.cross_per_domain and settings.gate == "sequence":
        raise UserError(
            "--cross_per_domain and --gate sequence contradict each other: the targets of a cross "
            "sequence are of several domains, and that gate has one weight vector for all of them; "
            "drop one of them"
        )
    if settings.share_experts and settings.cross_per_domain:
        raise UserError(
            "--share_experts and --cross_per_domain contradict each other: one gate and tower for "
            "all, or one of each for every domain; drop one of them"
        )
    if settings.share_experts and not settings.stop_gradient:
        raise UserError(
            "--share_experts and --no-stop_gradient contradict each other: with one "
            "expert the gradient stops decide what it learns from; drop one of them"
        )
