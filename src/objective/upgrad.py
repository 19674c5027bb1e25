"""UPGrad: the sum of the domains' gradients, each projected so that it conflicts with no domain.

Quinton and Rey, "Jacobian Descent for Multi-Objective Optimization", 2024. A direction x conflicts
with no domain if ⟨g_d, x⟩ ≥ 0 for all of them. Each gradient is replaced by the nearest direction
of that kind, and these are added up. With G = g gᵀ [D, D] and the d-th unit vector e_d:

    g'_d = gᵀ v_d          v_d = argmin vᵀ G v  over  v ≥ e_d          the step: Σ_d g'_d

One departure: the paper has the mean over the domains in place of their sum. Gradients that don't
conflict, identical ones among them, then give the sum that `uniform` gives; PCGrad has the same
scale. G is float64. A domain without a target in the step has the gradient 0, which forbids nothing
and adds nothing.
"""

import numpy as np
import torch
from scipy.optimize import nnls
from torch import Tensor

from src.objective.weighting import Uniform

CHUNK = 2**20  # columns that are converted to float64 at a time


class UPGrad(Uniform):
    """Uniform weights, gradients projected onto the directions that conflict with no domain."""

    per_domain_gradients = True

    def combine(self, gradients: Tensor) -> Tensor:
        """[D, P] -> [P]"""
        parts = (part.double() for part in gradients.split(CHUNK, dim=1))
        products = torch.stack([part @ part.T for part in parts]).sum(0).cpu().numpy()  # G [D, D]
        if not np.isfinite(products).all():  # the trainer says which gradient
            return gradients.sum(0)
        weights = torch.from_numpy(projection_weights(products).sum(0))
        return weights.to(gradients) @ gradients


def projection_weights(products: np.ndarray) -> np.ndarray:
    """[D, D] the weights v_d of each domain's projected gradient, from G [D, D].

    Of gradients of length 1 first, because their lengths may be far apart. With G = Sᵀ S and
    v = e_d + u the program is one of least squares: min ‖S u + S e_d‖ over u ≥ 0.
    """
    weights, lengths = np.eye(len(products)), np.sqrt(products.diagonal())
    (present,) = np.nonzero(lengths)
    scale = lengths[present]
    values, vectors = np.linalg.eigh(products[np.ix_(present, present)] / np.outer(scale, scale))
    root = np.sqrt(values.clip(min=0))[:, None] * vectors.T  # S
    for domain, column in zip(present, root.T, strict=True):
        added, _ = nnls(root, -column, maxiter=100 * len(root))  # u
        weights[domain, present] += lengths[domain] * added / scale
    return weights
