"""Which candidate protocols a run is scored under (src/evaluation/protocols.py)."""

from src.config.names import PROTOCOLS, RELEASED, UNSEEN
from src.config.settings import Settings
from src.io.errors import UserError

# The protocols with drawn candidates, in the order of their candidate sets.
DRAWN = ("sampled", "popular", "sampled_all")


def run_protocols(settings: Settings) -> tuple[str, ...]:
    """The protocols that a run is scored under; always `full`, which decides the serving path.

    UserError for an unknown one, or one that the run's models cannot be ranked by.
    """
    wanted = chosen_protocols(settings.protocol, settings.sampled_negatives)
    if settings.per_domain:
        # a model of one domain has no vectors of other domains' items
        if RELEASED in settings.protocol:
            raise UserError(
                f"--protocol {RELEASED} scores the items of all domains by one domain's query, "
                f"which a run of --mode {settings.mode} cannot do; leave it out"
            )
        wanted = tuple(name for name in wanted if name != RELEASED)
    return wanted if "full" in wanted else ("full", *wanted)


def chosen_protocols(names: tuple[str, ...], negatives: int) -> tuple[str, ...]:
    """The protocols named, or all if none is; without `negatives` only those that draw none.

    UserError for an unknown one, or one that draws negatives where there are none.
    """
    for name in names:
        if name not in PROTOCOLS:
            raise UserError(f"--protocol {name} is unknown; give any of {', '.join(PROTOCOLS)}")
        if not negatives and draws(name):
            raise UserError(f"--protocol {name} draws negatives; give --sampled_negatives above 0")
    wanted = [name for name in PROTOCOLS if not names or name in names]
    return tuple(name for name in wanted if negatives or not draws(name))


def draws(protocol: str) -> bool:
    """Whether the protocol's candidates are drawn."""
    return protocol == RELEASED or protocol.removesuffix(UNSEEN) in DRAWN
