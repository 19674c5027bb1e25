"""The modes of a run and the ranking paths of a model: what each one is.

A *mode* says which tasks a run trains: CDSR (all domains in one sequence), SDSR (each domain by
itself), or both. A *path* is a way to rank: from the cross view, from the single view, or, per
domain, from whichever of the two validation chose (`served`), or from a weighted sum of these and
of the count models (`blend`).
"""

from dataclasses import dataclass

CROSS, SINGLE, SERVED, BLEND = "cross", "single", "served", "blend"
DEFAULT_MODEL = "syncrec"  # the model of a run whose config.json names none


@dataclass(frozen=True)
class RankingPath:
    """A ranking path that a model computes itself."""

    single_domain: bool  # ranks from the events of the requested domain alone
    weighted: bool  # the loss weighting applies to its losses


@dataclass(frozen=True)
class Mode:
    """What a run of this mode trains and how it ranks."""

    title: str  # in reports
    paths: tuple[str, ...]  # keys of PATHS; the first one selects the checkpoint
    per_domain: bool = False  # one model per domain


PATHS = {
    CROSS: RankingPath(single_domain=False, weighted=True),
    SINGLE: RankingPath(single_domain=True, weighted=False),
}
MODES = {
    "syncrec": Mode("SyNCRec", (CROSS, SINGLE)),
    "cdsr": Mode("CDSR", (CROSS,)),
    "sdsr": Mode("SDSR", (SINGLE,)),
    "sdsr_separate": Mode("SDSR separate", (SINGLE,), per_domain=True),
}

# What the transfer report compares, all of DEFAULT_MODEL. The first baseline is what a team with
# separate services runs; the second one sees the same events as the joint mode (the paired one).
BASELINE_MODES = ("sdsr_separate", "sdsr")
JOINT_MODE = "cdsr"
TWO_VIEW_MODE = "syncrec"
