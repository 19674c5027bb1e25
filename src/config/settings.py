"""Every setting of a training run: the flags of main.py, their help, and config.json.

Each group of settings is a dataclass, and Settings combines them; a function that reads the
settings of one group takes that group. A model or a loss weighting may add its own settings
(`settings_class`).
"""

from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any

from src.config.cli import checked_values, setting
from src.config.modes import DEFAULT_MODEL, MODES
from src.config.names import GAPS, MODELS, PROTOCOLS, WEIGHTINGS, WITHOUT_SETTINGS, load
from src.io.errors import UserError
from src.io.json_schema import read_json

# {loss with negatives: how many each target has by default}
SAMPLED_LOSSES = {"bce": 1, "gbce": 256, "sampled": 128}
# {setting added later: the value that reproduces a run made before it existed}
BEFORE = {"positions": "start", "gap": "training", "time_embedding": "none"}
IN_EVERY_RECORD = {"mode", "run_name", "resume", "overwrite", "device"}
LC_NTG, SC_MIM = "negative transfer (LC-NTG)", "mutual information (SC-MIM)"


@dataclass(frozen=True)
class DataSettings:
    """Which dataset a run is trained on."""

    data_name: str = setting("amazon", "name of the dataset", group="data")
    strd_ym: str = setting("202312", "cut-off month YYYYMM of the dataset", group="data")
    variant: str = setting("", "variant of the dataset, as given to make_dataset.py", group="data")
    data_dir: str = setting("", "dataset folder, instead of the three above", group="data")


@dataclass(frozen=True)
class ModelSettings:
    """What is trained, and its size."""

    model: str = setting(DEFAULT_MODEL, "what is trained", group="task", choices=MODELS)
    mode: str = setting(
        "",
        "tasks to train: both, or one that owns all experts; sdsr_separate: one model per domain; "
        "default: the first mode of the model",
        group="task",
        choices=MODES,
    )
    sdsr_context: str = setting(
        "paired",
        "input of SDSR: the domain's events among the user's newest max_len, or the newest max_len "
        "of the domain (always in sdsr_separate)",
        group="task",
        choices=("paired", "own"),
    )

    hidden: int = setting(64, "hidden size H", group="model")
    layers: int = setting(2, "Transformer layers of an expert", group="model")
    heads: int = setting(1, "attention heads", group="model")
    dropout: float = setting(0.3, "dropout on embeddings and block outputs", group="model")
    attention_dropout: float = setting(0.0, "dropout on attention weights", group="model")
    max_len: int = setting(50, "newest events kept per user, L", group="model")
    positions: str = setting(
        "end",
        "count positions from the newest event, or from the start token (the paper's)",
        group="model",
        choices=("end", "start"),
    )
    time_embedding: str = setting(
        "none",
        "interval: embed the time from each input event to its target, when the question is asked",
        group="model",
        choices=("none", "interval"),
    )
    experts_cross: int = setting(2, "experts that CDSR owns, K_c", group="model")
    experts_single: int = setting(1, "experts that SDSR owns, K_s", group="model")
    share_experts: bool = setting(
        False, "one expert, gate and tower for all (the released code's model)", group="model"
    )
    stop_gradient: bool = setting(
        True, "each expert gets gradients only from its owner task", group="model"
    )
    gate: str = setting(
        "token",
        "token: causal; sequence: the paper's, sees later positions in training; none: all "
        "experts weigh the same",
        group="model",
        choices=("token", "sequence", "none"),
    )
    towers: bool = setting(True, "feed-forward towers on the gated mixture", group="model")
    target_domain_query: bool = setting(
        False, "tell the cross view, if trained, the domain to rank", group="model"
    )
    cross_per_domain: bool = setting(
        False,
        "a gate and a tower for each domain in the cross view too, if trained",
        group="model",
    )

    @property
    def experts(self) -> int:
        return self.experts_cross + self.experts_single

    @property
    def paths(self) -> tuple[str, ...]:
        """The ranking paths of the mode; the first one selects the checkpoint."""
        return MODES[self.mode].paths

    @property
    def per_domain(self) -> bool:
        """Whether each domain has a separate model."""
        return MODES[self.mode].per_domain

    @property
    def reads_time(self) -> bool:
        """Whether the model reads the time of the question."""
        return self.time_embedding != "none"

    @property
    def subject(self) -> str:
        """Model and mode as in the names of runs; SyNCRec is left out."""
        return self.mode if self.model == DEFAULT_MODEL else f"{self.model}-{self.mode}"

    @property
    def context(self) -> str:
        """Which events the single view ranks from: `own` or `paired`, as --sdsr_context says."""
        return "own" if self.per_domain else self.sdsr_context


@dataclass(frozen=True)
class ObjectiveSettings:
    """What is minimised."""

    loss: str = setting(
        "ce",
        "step loss: softmax over items; or with negatives: bce (the paper's), gbce, or a softmax "
        "over target and negatives (sampled)",
        group="task",
        choices=("ce", *SAMPLED_LOSSES),
    )
    negatives: int = setting(
        0,
        "negatives per target of a loss that has them; default: "
        + ", ".join(f"{loss} {count}" for loss, count in SAMPLED_LOSSES.items()),
        group="task",
    )
    gbce_t: float = setting(
        0.75, "t of --loss gbce: 0 is bce, 1 calibrates the scores", group="task"
    )
    softmax_temperature: float = setting(
        1.0, "what the scores are divided by in --loss ce and sampled", group="task"
    )
    softmax_items: str = setting(
        "domain",
        "items of the softmax of --loss ce: of the target's domain, or of all domains",
        group="task",
        choices=("domain", "all"),
    )
    lambda_single: float = setting(1.0, "weight of the SDSR loss", group="task")

    weighting: str = setting(
        "lc_ntg", "weights of the domains in the CDSR loss", group="task", choices=WEIGHTINGS
    )
    lc_ntg: bool = setting(
        True,
        "weight CDSR losses by the negative-transfer gap; off: --weighting uniform",
        group=LC_NTG,
    )
    gap: str = setting(
        "",
        "the gap that weighs the domains. training: on the targets of each step, the paper's rule; "
        "validation, the default of lc_ntg where both views are trained: after each epoch, on the "
        "validation targets; heldout: on one training event in 20, which is then an input only",
        group=LC_NTG,
        choices=GAPS,
    )
    lc_ntg_alpha: float = setting(
        0.9,
        "α, the share of the state s that each step keeps; s weighs with --gap training",
        group=LC_NTG,
    )
    lc_ntg_beta: float | None = setting(
        None, "β, the share of the new gap; default: 1 − α; 0 freezes the weights", group=LC_NTG
    )
    lc_ntg_tau: float = setting(0.3, "τ of the softmax, in nats per target", group=LC_NTG)
    lc_ntg_floor: float = setting(
        0.5, "f, the smallest weight of a domain; 1: uniform weights", group=LC_NTG
    )
    sc_mim: bool = setting(
        True,
        "mutual-information loss between the views; negatives are the batch's other users, of "
        "all processes",
        group=SC_MIM,
    )
    lambda_mim: float = setting(0.1, "weight of the mutual-information loss", group=SC_MIM)
    mim_temperature: float = setting(1.0, "temperature of the critic", group=SC_MIM)


@dataclass(frozen=True)
class TrainingSettings:
    """How it is minimised."""

    batch_size: int = setting(128, "users per batch, over all processes", group="training")
    batch_by: str = setting(
        "random",
        "how users are batched: at random, or by similar length, which balances processes",
        group="training",
        choices=("random", "length"),
    )
    grad_accum: int = setting(
        1,
        "batches per optimiser step; equal to a batch that many times larger, except that SC-MIM "
        "and --batch_by length still work on the small batches",
        group="training",
    )
    optimizer: str = setting("adam", "optimiser", group="training", choices=("adam", "adamw"))
    sparse_items: bool = setting(
        False,
        "update only the items of the batch and their moments (SparseAdam, not Adam; needs "
        "a --loss with drawn negatives and a single process)",
        group="training",
    )
    lr: float = setting(1e-3, "learning rate", group="training")
    weight_decay: float = setting(0.0, "weight decay (adamw: decoupled)", group="training")
    warmup_steps: int = setting(100, "steps of linear warm-up", group="training")
    warmup_epochs: float = setting(
        0.0,
        "epochs of linear warm-up, in place of --warmup_steps; 0: not given",
        group="training",
    )
    lr_schedule: str = setting(
        "constant",
        "after the warm-up: constant, or linear to 0 at max_epochs",
        group="training",
        choices=("constant", "linear"),
    )
    clip_norm: float = setting(5.0, "maximum gradient norm; 0: no clipping", group="training")
    max_epochs: int = setting(100, "maximum number of epochs", group="training")
    min_steps: int = setting(0, "no early stop before this step", group="training")
    patience_steps: int = setting(
        720, "stop after this many steps without a better validation", group="training"
    )
    patience_epochs: int = setting(
        0,
        "stop after this many epochs without a better validation, in place of --patience_steps; "
        "0: --patience_steps decides",
        group="training",
    )
    init_from: str = setting(
        "",
        "start from the best weights of a finished run (its run folder); items and domains are "
        "matched by id, and new ones are initialised",
        group="run",
    )
    seed: int = setting(42, "seed of weights, data order, dropout and negatives", group="run")
    precision: str = setting(
        "float32",
        "dtype of matrix products; float64, for checks, also of weights and sums",
        group="run",
        choices=("float32", "bf16", "float64"),
    )


@dataclass(frozen=True)
class EvaluationSettings:
    """How it is validated, selected and scored."""

    select_metric: str = setting(
        "ndcg@10", "validation metric that selects the best checkpoint", group="evaluation"
    )
    select_average: str = setting(
        "macro",
        "mean of that metric: over domains, or over users",
        group="evaluation",
        choices=("macro", "users"),
    )
    min_domain_targets: int = setting(
        0,
        "leave domains with fewer targets in a split out of its mean over domains, macro (not of "
        "the one that selects the checkpoint)",
        group="evaluation",
    )
    trend: bool = setting(
        True,
        "the blend includes recent popularity and co-visitation",
        group="evaluation",
    )
    repeat: bool = setting(
        True, "the blend includes how often the user had an item", group="evaluation"
    )
    joint_transitions: bool = setting(
        False,
        "the blend includes what followed the item of the newest event, of whatever domain; ranked "
        "alone too (markov_any)",
        group="evaluation",
    )
    eval_users: int = setting(
        256, "users encoded at a time; does not change results", group="evaluation"
    )
    protocol: tuple[str, ...] = setting(
        (),
        "candidates that targets are ranked against: " + ", ".join(PROTOCOLS) + "; default: all",
        group="evaluation",
    )
    strict_context: bool = setting(
        False,
        "also rank from contexts without events at the target's time (protocols -strict)",
        group="evaluation",
    )
    sampled_negatives: int = setting(
        100,
        "negatives per target of the protocols that draw them; 0: skip these protocols",
        group="evaluation",
    )
    candidate_seed: int = setting(0, "seed of the stored negatives", group="evaluation")
    ties: str = setting(
        "expected",
        "rank of a tied target: expected, or worst",
        group="evaluation",
        choices=("expected", "pessimistic"),
    )


@dataclass(frozen=True)
class RunSettings:
    """Where and how the command runs; none of these changes what is trained."""

    run_name: str = setting("", "name of the run; default: from the settings", group="run")
    runs_dir: str = setting(
        "", "parent of the run folders; default: runs/ of the repository", group="run"
    )
    resume: bool = setting(
        False, "continue from last.pt of the run folder, if it exists", group="run"
    )
    save_every_steps: int = setting(
        0, "also write last.pt every so many steps; 0: only after each epoch", group="run"
    )
    overwrite: bool = setting(False, "replace an existing run folder", group="run")
    device: str = setting("auto", "auto, cpu, cuda or cuda:N", group="run")
    threads: int = setting(0, "CPU threads; 0: torch's default", group="run")
    compile: bool = setting(
        False, "compile the experts' layers with torch.compile, if there is a compiler", group="run"
    )
    kernels: str = setting(
        "fused",
        "experts and softmax loss: hand-written backward passes, or plain autograd",
        group="run",
        choices=("plain", "fused"),
    )
    deterministic: bool = setting(
        False, "refuse operations whose result may differ from run to run", group="run"
    )  # fmt: skip
    detect_anomaly: bool = setting(
        False,
        "check every backward function for NaN and name it (slow; in a single process)",
        group="run",
    )
    tensorboard: bool = setting(
        False, "also write curves for TensorBoard, if its package is installed", group="run"
    )  # fmt: skip


@dataclass(frozen=True)
class Settings(
    RunSettings, EvaluationSettings, TrainingSettings, ObjectiveSettings, ModelSettings,
    DataSettings,
):  # fmt: skip
    """The settings of one run. Symbols in the help are the paper's."""

    def __post_init__(self):
        # resolved here, so that all code and config.json see the same values
        if not self.mode:
            object.__setattr__(self, "mode", MODELS[self.model].modes[0])
        if not self.lc_ntg and self.weighting == "lc_ntg":
            object.__setattr__(self, "weighting", "uniform")
        object.__setattr__(self, "lc_ntg", self.weighting == "lc_ntg")
        if len(self.paths) < 2:  # nothing to compare, and no event is held out for it
            object.__setattr__(self, "gap", "training")
        elif not self.gap:
            object.__setattr__(self, "gap", "validation" if self.lc_ntg else "training")

    @property
    def drawn_negatives(self) -> int:
        """Negatives that are drawn for each target: as given, or the loss's default."""
        return self.negatives or SAMPLED_LOSSES.get(self.loss, 0)

    @property
    def compares_views(self) -> bool:
        """Whether SC-MIM is trained: with both views, unless it is switched off."""
        return len(self.paths) == 2 and self.sc_mim


# ------------------------------------------------------------- settings of models and weightings


def own_settings(model: str, weighting: str) -> list[type]:
    """The dataclasses of the settings of a model and a weighting."""
    paths = {model: MODELS[model].path, weighting: WEIGHTINGS[weighting]}
    named = [load(path) for name, path in paths.items() if name not in WITHOUT_SETTINGS]
    return [part.Settings for part in named if hasattr(part, "Settings")]


@cache
def settings_class(model: str, weighting: str) -> type[Settings]:
    """Settings, with those of the model and the weighting."""
    parts = own_settings(model, weighting)
    if not parts:
        return Settings
    return dataclass(frozen=True)(type("Settings", (*parts, Settings), {"__doc__": None}))


def names_in(values: dict[str, Any]) -> tuple[str, str]:
    """The model and the weighting named in `values`, or the defaults."""
    known = {field.name: field.default for field in fields(Settings)}
    model = values.get("model", known["model"])
    weighting = values.get("weighting", known["weighting"])
    return model, weighting


def choose(
    values: dict[str, Any],
    model: str | None,
    weighting: str | None,
    lc_ntg: bool | None,
    mode: str | None,
) -> dict[str, Any]:
    """Default values with the model and the weighting of a command line (None: not given).

    `--lc_ntg` is a second name of one weighting: the flag that is given decides. The gap of a
    record whose weighting or mode had no use for one is not carried over. UserError for an unknown
    name.
    """
    chosen = dict(values)
    for flag, name, table in (("model", model, MODELS), ("weighting", weighting, WEIGHTINGS)):
        if name is not None and name not in table:
            raise UserError(f"--{flag} {name} is unknown; give one of {', '.join(table)}")
    if model:
        if model != values.get("model", DEFAULT_MODEL):
            chosen.pop("mode", None)
        chosen["model"] = model
    former = values.get("weighting") or ("lc_ntg" if values.get("lc_ntg", True) else "uniform")
    named = weighting or {True: "lc_ntg", False: "uniform", None: former}[lc_ntg]
    alone = values.get("mode") in MODES and len(MODES[values["mode"]].paths) < 2
    if named != former or (alone and mode and mode != values["mode"]):
        chosen.pop("gap", None)
    if weighting:
        chosen |= {"weighting": weighting, "lc_ntg": weighting == "lc_ntg"}
    elif lc_ntg:
        chosen |= {"weighting": "lc_ntg", "lc_ntg": True}
    return chosen


def read_settings(path: Path, what: str, *, of_a_run: bool = False) -> dict[str, Any]:
    """The settings in a JSON file, validated (UserError).

    With `of_a_run` the file is the record of a run, perhaps of an earlier version: settings that no
    longer exist are ignored. A copy of such a record is recognised by settings that no other file
    needs, and has the same values.
    """
    return _checked_settings(read_json(path, what), f"{what} {path}", of_a_run)


def _checked_settings(content: Any, where: str, of_a_run: bool) -> dict[str, Any]:
    """`read_settings` of a JSON value that was read at `where`."""
    if not isinstance(content, dict):
        raise UserError(f"{where} must hold one JSON object of settings")
    model, weighting = names_in(content)
    for name, table in ((model, MODELS), (weighting, WEIGHTINGS)):
        if not isinstance(name, str) or name not in table:
            raise UserError(f"{where}: {name!r} is unknown; give one of {', '.join(table)}")
    if of_a_run or content.keys() >= IN_EVERY_RECORD:
        _migrate(content)
    config_class = settings_class(model, weighting)
    return checked_values(config_class, content, where, ignore_unknown=of_a_run)


def run_settings(folder: Path) -> Settings:
    """The settings of a run folder. UserError where config.json is missing or damaged.

    A setting that was added after the run has the value that reproduces the run.
    """
    path, what = folder / "config.json", "config.json of the run"
    return recorded_settings(read_json(path, what), f"{what} {path}")


def recorded_settings(content: Any, where: str) -> Settings:
    """The settings of a run from a record of them, a JSON value that was read at `where`, as
    `run_settings` from config.json."""
    values = _checked_settings(content, where, of_a_run=True)
    return settings_class(*names_in(values))(**values)


def _migrate(content: dict[str, Any]) -> None:
    """Convert, in place, the record of a run of an earlier version."""
    for name, value in BEFORE.items():
        content.setdefault(name, value)
    if "weighting" not in content and content.get("lc_ntg_beta") == 0:
        content["lc_ntg_beta"] = None  # 0 stood for 1 − α
