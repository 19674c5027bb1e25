"""LC-NTG: domain weights of the cross-domain loss, from the negative-transfer gap."""

import torch
from torch import Tensor


def lc_ntg_weights(state: Tensor, temperature: float, floor: float) -> tuple[Tensor, Tensor]:
    """γ = softmax(s / τ) and w = f + (1 − f)·D·γ, each [D]; uniform γ gives w = 1."""
    gamma = (state / temperature).softmax(0)
    return gamma, floor + (1.0 - floor) * len(state) * gamma


def lc_ntg_update(
    state: Tensor, gap_sums: Tensor, counts: Tensor, alpha: float, beta: float
) -> tuple[Tensor, Tensor]:
    """s_d ← α·s_d + β·φ_d with φ_d = gap_sums_d / counts_d, the mean of l_single − l_cross.

    A domain without a target in the step keeps its state; its φ is NaN. Returns (s, φ), each [D].
    """
    gap = gap_sums / counts
    return torch.where(counts > 0, alpha * state + beta * gap, state), gap
