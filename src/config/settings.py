"""Every setting of a training run: the flags of main.py, their help, and config.json."""

import math
import os
import unicodedata
from dataclasses import dataclass

from src.config.cli import setting
from src.dataset.store.card_schema import folder_name_error
from src.evaluation.protocols import PROTOCOLS
from src.io.errors import UserError
from src.io.json_schema import repr_short

# What a run may be found again without: it changes where and how, or adds to the results.
RUN_ONLY = {
    "resume", "overwrite", "device", "threads", "compile", "tensorboard", "runs_dir", "run_name",
    "protocol", "strict_context", "save_every_steps", "deterministic", "detect_anomaly",
}  # fmt: skip
# What a finished run may also be scored again with: these change its scores, not its training.
SCORING = {"eval_users", "sampled_negatives", "candidate_seed", "ties"}
# What a run may be resumed with more of: only a longer run continues a shorter one.
MAY_GROW = {"max_epochs", "min_steps", "patience_steps"}
MODES = ("syncrec", "cdsr", "sdsr", "sdsr_separate")


@dataclass(frozen=True)
class Settings:
    """The settings of one run. Symbols in the help are those of the paper."""

    data_name: str = setting("amazon", "name of the dataset", group="data")
    strd_ym: str = setting("202312", "cut-off month YYYYMM of the dataset", group="data")
    variant: str = setting("", "variant of the dataset, as given to make_dataset.py", group="data")
    data_dir: str = setting("", "dataset folder, in place of the three above", group="data")
    run_name: str = setting("", "name of the run; empty: made from the settings", group="run")
    runs_dir: str = setting("runs", "where run folders are made", group="run")
    resume: bool = setting(False, "go on from last.pt of the run folder, if there", group="run")
    save_every_steps: int = setting(
        0, "write last.pt within an epoch too, after so many steps; 0: at its end", group="run"
    )
    overwrite: bool = setting(False, "replace a run folder that exists", group="run")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", group="run")
    threads: int = setting(0, "CPU threads; 0: torch's choice", group="run")
    precision: str = setting(
        "float32",
        "type of the matrix products; float64, for checks: of all numbers",
        group="run",
        choices=("float32", "bf16", "float64"),
    )
    compile: bool = setting(
        False, "run the experts' layers through torch.compile, where a compiler is", group="run"
    )
    deterministic: bool = setting(
        False, "refuse operations whose result may differ from run to run", group="run"
    )
    detect_anomaly: bool = setting(
        False,
        "have torch look for NaN in every backward function and name it (slow; in one process)",
        group="run",
    )
    tensorboard: bool = setting(
        False, "write the curves for TensorBoard too, where its package is", group="run"
    )
    init_from: str = setting(
        "",
        "start from the weights of a finished run's best.pt (its run folder); items and domains "
        "are matched by their ids, new ones start fresh",
        group="run",
    )
    seed: int = setting(42, "seed of weights, order, dropout and negatives", group="run")

    mode: str = setting(
        "syncrec",
        "both tasks, or one alone that owns all experts; sdsr_separate: one model a domain",
        group="task",
        choices=MODES,
    )
    loss: str = setting(
        "ce",
        "step loss: softmax over the domain's items, or one negative (the paper's)",
        group="task",
        choices=("ce", "bce"),
    )
    softmax_items: str = setting(
        "domain",
        "what --loss ce ranks a target among: the items of its domain, or of all domains",
        group="task",
        choices=("domain", "all"),
    )
    sdsr_context: str = setting(
        "paired",
        "SDSR sees its share of the user's newest max_len events, or max_len of its own domain "
        "(as sdsr_separate always does)",
        group="task",
        choices=("paired", "own"),
    )
    lambda_single: float = setting(1.0, "weight of the SDSR loss", group="task")

    hidden: int = setting(64, "hidden size H", group="model")
    layers: int = setting(2, "Transformer layers of an expert", group="model")
    heads: int = setting(1, "attention heads", group="model")
    dropout: float = setting(0.3, "dropout on embeddings and block outputs", group="model")
    attention_dropout: float = setting(0.0, "dropout on attention weights", group="model")
    max_len: int = setting(50, "newest events kept of a user, L", group="model")
    experts_cross: int = setting(2, "experts that CDSR owns, K_c", group="model")
    experts_single: int = setting(1, "experts that SDSR owns, K_s", group="model")
    share_experts: bool = setting(
        False, "one expert, gate and tower for all (the released code's model)", group="model"
    )
    stop_gradient: bool = setting(True, "an expert learns only from its owner task", group="model")
    gate: str = setting(
        "token",
        "token: causal; sequence: the paper's, sees later positions in training; none: all "
        "experts weigh the same",
        group="model",
        choices=("token", "sequence", "none"),
    )
    towers: bool = setting(True, "feed-forward towers on the gated mixture", group="model")
    target_domain_query: bool = setting(
        False, "the cross view, where there is one, is told the domain to rank", group="model"
    )

    lc_ntg: bool = setting(
        True, "weight CDSR losses by the negative-transfer gap", group="negative transfer (LC-NTG)"
    )
    lc_ntg_alpha: float = setting(
        0.9, "α, the share of the state that a step keeps", group="negative transfer (LC-NTG)"
    )
    lc_ntg_beta: float = setting(
        0.0, "β, the share of the new gap; 0: 1 − α", group="negative transfer (LC-NTG)"
    )
    lc_ntg_tau: float = setting(
        0.3, "τ of the softmax, in nats per target", group="negative transfer (LC-NTG)"
    )
    lc_ntg_floor: float = setting(
        0.5,
        "f, the least weight of a domain; 1: uniform weights",
        group="negative transfer (LC-NTG)",
    )
    sc_mim: bool = setting(
        True,
        "mutual-information loss between the views; negatives are the batch's other users, of "
        "all processes",
        group="mutual information (SC-MIM)",
    )
    lambda_mim: float = setting(
        0.1, "weight of the mutual-information loss", group="mutual information (SC-MIM)"
    )
    mim_temperature: float = setting(
        1.0, "temperature of the critic", group="mutual information (SC-MIM)"
    )

    batch_size: int = setting(
        128, "users a batch, over all processes: their number changes nothing", group="training"
    )
    batch_by: str = setting(
        "random",
        "users of a batch: at random, or of similar length; processes then get equal tokens",
        group="training",
        choices=("random", "length"),
    )
    grad_accum: int = setting(
        1,
        "batches an optimiser step: the training of one batch so many times larger, but that "
        "SC-MIM's negatives are the users of the small one, and --batch_by length sorts those",
        group="training",
    )
    optimizer: str = setting("adam", "optimiser", group="training", choices=("adam", "adamw"))
    sparse_items: bool = setting(
        False,
        "update only the items of a batch, whose moments then stand still between (not Adam; "
        "with --loss bce, in one process)",
        group="training",
    )
    lr: float = setting(1e-3, "learning rate", group="training")
    weight_decay: float = setting(0.0, "weight decay (adamw: decoupled)", group="training")
    warmup_steps: int = setting(100, "steps of linear warm-up", group="training")
    lr_schedule: str = setting(
        "constant",
        "after the warm-up: constant, or linear to 0 at max_epochs",
        group="training",
        choices=("constant", "linear"),
    )
    clip_norm: float = setting(5.0, "gradient norm bound; 0: none", group="training")
    max_epochs: int = setting(100, "most epochs", group="training")
    min_steps: int = setting(0, "no early stop before this step", group="training")
    patience_steps: int = setting(
        720, "stop after so many steps without a better validation", group="training"
    )

    select_metric: str = setting(
        "ndcg@10", "validation metric that picks the best checkpoint", group="evaluation"
    )
    select_average: str = setting(
        "macro",
        "mean over domains or over users",
        group="evaluation",
        choices=("macro", "users"),
    )
    eval_users: int = setting(256, "users encoded at a time", group="evaluation")
    protocol: tuple[str, ...] = setting(
        (),
        "candidates that targets are ranked against: " + ", ".join(PROTOCOLS) + "; none named: all",
        group="evaluation",
    )
    strict_context: bool = setting(
        False,
        "rank also from contexts without the events of the target's own time (protocols -strict)",
        group="evaluation",
    )
    sampled_negatives: int = setting(
        100,
        "stored negatives of the protocols that draw them; 0: leave these out",
        group="evaluation",
    )
    candidate_seed: int = setting(0, "seed of the stored negatives", group="evaluation")
    ties: str = setting(
        "expected",
        "rank of a tied target: expectation, or the worst",
        group="evaluation",
        choices=("expected", "pessimistic"),
    )

    @property
    def experts(self) -> int:
        return self.experts_cross + self.experts_single

    @property
    def runs_single(self) -> bool:
        """Whether the SDSR task is trained."""
        return self.mode != "cdsr"

    @property
    def compares_views(self) -> bool:
        """Whether SC-MIM is trained."""
        return self.mode == "syncrec" and self.sc_mim

    @property
    def runs_cross(self) -> bool:
        """Whether the CDSR task is trained."""
        return self.mode in ("syncrec", "cdsr")

    @property
    def paths(self) -> list[str]:
        """The ranking paths that the trained model has; the first one selects the checkpoint."""
        return ["cross"] * self.runs_cross + ["single"] * self.runs_single


MOST = 2**31 - 1  # of a whole number that has no other limit
MOST_SEED = 2**53  # what every reader of config.json holds exactly
MOST_THREADS = 1024  # torch starts as many as it is told
# {setting: (least, most)}. The most is far beyond what was ever trained: it tells a slip of the
# hand before anything of that size is made.
WHOLE = {
    **dict.fromkeys(("batch_size", "grad_accum", "max_epochs", "eval_users"), (1, MOST)),
    **dict.fromkeys(("warmup_steps", "min_steps", "patience_steps", "save_every_steps"), (0, MOST)),
    **dict.fromkeys(("seed", "candidate_seed"), (0, MOST_SEED)),
    **dict.fromkeys(("hidden", "heads"), (1, 2**16)),
    **dict.fromkeys(("layers", "experts_cross"), (1, 1024)),
    "experts_single": (0, 1024),
    "max_len": (2, 2**20),
    "sampled_negatives": (0, 2**20),
    "threads": (0, MOST_THREADS),
}
NOT_NEGATIVE = ("lambda_single", "lambda_mim", "weight_decay", "clip_norm", "lc_ntg_beta")
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
        if not 0 <= value < math.inf:  # so that NaN is refused too
            limit = "not be negative" if not value >= 0 else "be finite"
            raise UserError(f"--{name} must {limit}, not {value}")
    for name in ("lr", "lc_ntg_tau", "mim_temperature"):
        if not 0 < getattr(settings, name) < math.inf:
            raise UserError(f"--{name} must be above 0, not {getattr(settings, name)}")
    for name in ("dropout", "attention_dropout", "lc_ntg_alpha"):
        if not 0 <= getattr(settings, name) < 1:
            raise UserError(f"--{name} must lie in [0, 1), not {getattr(settings, name)}")
    if not 0 <= settings.lc_ntg_floor <= 1:
        raise UserError(f"--lc_ntg_floor must lie in [0, 1], not {settings.lc_ntg_floor}")
    if settings.hidden % settings.heads:
        raise UserError(f"--hidden {settings.hidden} is not a multiple of --heads {settings.heads}")
    _check_combinations(settings)


def _check_texts(settings: Settings) -> None:
    """Refuse texts that name no file, and names that are paths."""
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
        return "is no text that can be written"
    if any(unicodedata.category(letter) == "Cc" for letter in text):
        return "has control characters"
    longest = max(map(len, name.split(b"/")))
    if longest > LONGEST_NAME or len(name) > LONGEST:
        return f"is too long for a file: {LONGEST_NAME} bytes a part, {LONGEST} in all"
    return ""


def _check_combinations(settings: Settings) -> None:
    if settings.resume and settings.overwrite:
        raise UserError("--resume and --overwrite contradict each other; give one of them")
    if settings.mode == "syncrec" and settings.experts_single < 1:
        raise UserError("--mode syncrec needs --experts_single of at least 1; or use --mode cdsr")
    if settings.sdsr_context == "own" and settings.mode not in ("sdsr", "sdsr_separate"):
        raise UserError(
            f"--sdsr_context own breaks the pairing of the tasks in --mode {settings.mode}; "
            "use it with --mode sdsr or sdsr_separate"
        )
    if settings.sparse_items and settings.loss != "bce":
        raise UserError(
            "--sparse_items needs --loss bce: the softmax of --loss ce moves every item of a domain"
        )
    if settings.softmax_items == "all" and settings.loss != "ce":
        raise UserError("--softmax_items all needs --loss ce; there is no softmax with bce")
    if settings.sparse_items and settings.weight_decay:
        raise UserError("--sparse_items has no weight decay; give --weight_decay 0")
    if settings.share_experts and not settings.stop_gradient:
        raise UserError(
            "--share_experts and --no-stop_gradient contradict each other: with one "
            "expert the gradient stops decide what it learns from; drop one of them"
        )
