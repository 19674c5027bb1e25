"""Tables of names: what a flag may choose, and where it is defined.

An entry holds text, "module:object", which `load` imports when it is chosen. A new model, count
model, loss weighting or protocol is one new file and one entry here.
"""

import importlib
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Model:
    """A recommender that is trained (src/interfaces.py)."""

    path: str
    modes: tuple[str, ...]  # of src/config/modes.py; the first one is its default


MODELS = {
    "syncrec": Model("models:SyNCRec", ("syncrec", "cdsr", "sdsr", "sdsr_separate")),
    "sasrec": Model("src.baselines.sasrec:SASRec", ("cdsr", "sdsr_separate")),
    "gru4rec": Model("src.baselines.gru4rec:GRU4Rec", ("cdsr", "sdsr_separate")),
    "bert4rec": Model("src.baselines.bert4rec:BERT4Rec", ("cdsr", "sdsr_separate")),
    "cl4srec": Model("src.baselines.cl4srec:CL4SRec", ("cdsr", "sdsr_separate")),
    "shared_bottom": Model("src.baselines.shared_bottom:SharedBottom", ("cdsr",)),
    "mmoe": Model("src.baselines.mmoe:MMoE", ("cdsr",)),
    "ple": Model("src.baselines.ple:PLE", ("cdsr",)),
    "abxi": Model("src.baselines.abxi:ABXI", ("cdsr",)),
    "autocdsr": Model("src.baselines.autocdsr:AutoCDSR", ("cdsr",)),
    "c2dsr": Model("src.baselines.c2dsr:C2DSR", ("cdsr",)),
    "mml": Model("src.baselines.mml:MML", ("cdsr",)),
}

# Ranking paths that are counted, not trained; in the order of every table.
COUNT_MODELS = {
    "popularity": "src.baselines.popularity:Popularity",
    "markov": "src.baselines.markov:Markov",
    "recent": "src.baselines.recent:Recent",
    "own": "src.baselines.own:Own",
    "covisit": "src.baselines.covisit:Covisit",
}

# The one of them that serves a user without an event
NEWCOMER_MODEL = "recent"

# More of them, for the tables of a spec that names them (`count_models`), and for runs whose blend
# they are a part of.
OPTIONAL_COUNT_MODELS = {
    "markov_any": "src.baselines.markov_any:MarkovAny",
    "itemknn": "src.baselines.itemknn:ItemKNN",
}
COUNTED = COUNT_MODELS | OPTIONAL_COUNT_MODELS

# {setting: the count models that a blend (src/evaluation/blend.py) leaves out without it}
BLENDED_BY = {
    "trend": ("recent", "covisit"),
    "repeat": ("own",),
    "joint_transitions": ("markov_any",),
}

WEIGHTINGS = {
    "lc_ntg": "src.objective.lc_ntg:LCNTG",
    "uniform": "src.objective.weighting:Uniform",
    "inverse_loss": "src.objective.inverse_loss:InverseLoss",
    "pcgrad": "src.objective.pcgrad:PCGrad",
    "upgrad": "src.objective.upgrad:UPGrad",
    "random": "src.objective.random_weights:RandomWeights",
    "dwa": "src.objective.dwa:DynamicWeightAverage",
    "famo": "src.objective.famo:FAMO",
    "shapley": "src.objective.shapley:Shapley",
}

# Models and weightings without settings of their own, which a command line is read without: loading
# them loads torch.
WITHOUT_SETTINGS = (
    "syncrec", "sasrec", "shared_bottom", "autocdsr",
    "lc_ntg", "uniform", "pcgrad", "upgrad", "random",
)  # fmt: skip

# What `--weighting lc_ntg` measures the gap on (`--gap`)
GAPS = {
    "training": "src.objective.lc_ntg:LCNTG",
    "heldout": "src.objective.heldout_gap:HeldOutGap",
    "validation": "src.objective.heldout_gap:ValidationGap",
}

# Candidates of a target (src/evaluation/protocols.py), each also without the items already seen.
UNSEEN, STRICT, RELEASED = "-unseen", "-strict", "released"
AS_LISTED = "as_listed"  # those of the lists that recommend.py writes
CANDIDATES = ("full", "full_all", "sampled", "sampled_all", "popular")
PROTOCOLS = (*CANDIDATES, *(name + UNSEEN for name in CANDIDATES), RELEASED, AS_LISTED)

# What targets are measured by (src/evaluation/metrics.py)
CUTOFFS = (1, 5, 10, 20)
METRICS = (*(f"{name}@{k}" for name in ("hr", "ndcg", "mrr") for k in CUTOFFS), "mrr")


def load(path: str) -> Any:
    """The object that "module:object" names."""
    module, name = path.split(":")
    return getattr(importlib.import_module(module), name)
