"""A Transformer over one view: embedding and a single expert, the encoder of a SASRec."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from src.nn.experts import Experts, layer_bytes, number_bytes, view_tiles
from src.nn.view_embedding import ViewEmbedding

AROUND = 3  # numbers that a target keeps around the layers, in units of H, as measured


class SequenceEncoder(nn.Module):
    """The hidden state of every slot of a view, from the slots up to it; unless `causal`, from all
    slots of its sequence."""

    def __init__(self, settings, starts: int = 1, causal: bool = True):
        super().__init__()
        self.causal = causal
        self.embed = ViewEmbedding(settings, starts)
        self.transformer = Experts(
            1, settings.hidden, settings.layers, settings.heads, settings.dropout,
            settings.attention_dropout, settings.compile, settings.kernels,
        )  # fmt: skip

    def forward(
        self, view, items: Tensor, slots: Tensor, start_of: Tensor | None = None,
        added: Tensor | None = None,
    ) -> Tensor:  # fmt: skip
        """The states at `slots` [n] of a view: item rows of its inputs [M, H] -> [n, H].

        `start_of` [M] is the start token of each slot, where there are several; `added` [M, H] is
        added to the inputs.
        """
        start_of = torch.zeros_like(view.domains) if start_of is None else start_of
        return self.states(view, self.embed(view, items, start_of, added), slots)

    def states(self, view, inputs: Tensor, slots: Tensor) -> Tensor:
        """The same from embedded inputs [M, H]; without a gradient the last layer is computed at
        the slots alone."""
        rows = None if torch.is_grad_enabled() else slots
        share = inputs.new_ones((inputs if rows is None else rows).shape[0], 1)
        outputs = self.transformer(inputs, share, view_tiles(view, inputs, self.causal), rows=rows)
        return outputs if rows is not None else outputs.index_select(0, slots)

    @staticmethod
    def activation_bytes(settings, tile: float, passes: int = 1) -> float:
        """Bytes that a target holds of `passes` passes per path when the backward pass begins."""
        passes *= len(settings.paths)
        layers = settings.layers * passes + 1  # one layer is at work
        around = number_bytes(settings) * settings.hidden * AROUND * passes
        return layer_bytes(settings, tile) * layers + around


def input_rows(view, table: Tensor) -> Tensor:
    """The rows of an item table of a view's inputs: [V + 1, H] -> [M, H]."""
    return F.embedding(view.inputs, table)
