"""SASRec: a causal Transformer over one view of a user, a Recommender (src/interfaces.py).

Kang and McAuley, "Self-Attentive Sequential Recommendation", ICDM 2018. Departures: the encoder is
SyNCRec's expert (post-norm layers, a GELU block of width 4H, a learned start token, positions from
the end by default), and the loss is that of `--loss`, by default the softmax over the target's
domain. It is SyNCRec's model with one expert, no gate and no tower, value for value.
"""

from torch import Tensor

from src.baselines.sequence_model import SequenceModel, asked_slots
from src.nn.initialization import own_stream
from src.nn.sequence_encoder import SequenceEncoder, input_rows


class SASRec(SequenceModel):
    """One encoder over the packed sequences of a view: a user, or a user in a domain."""

    queries_read = "view"

    def __init__(self, settings, item_starts: list[int]):
        super().__init__(settings, item_starts)
        with own_stream(settings.seed, "encoder"):
            self.encoder = SequenceEncoder(settings)

    def outputs(self, batch, path: str, last: bool = False) -> Tensor:
        view = getattr(batch, path)
        slots, _ = asked_slots(batch, path, last)
        return self.encoder(view, input_rows(view, self.item_table), slots, added=self.asked(view))

    @staticmethod
    def activation_bytes(settings, tile: float) -> float:
        return SequenceEncoder.activation_bytes(settings, tile)
