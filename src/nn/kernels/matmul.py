"""Matrix products in the type that autocast asks for, added into sums of their own type."""

import torch
from torch import Tensor


def product_dtype(x: Tensor) -> torch.dtype:
    """What matrix products of x compute in: the type of autocast, where it is on; float64 stays."""
    kind = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(kind):
        return x.dtype
    return torch.get_autocast_dtype(kind)


def add_product(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a·b in place, for matrices or batches of them; `total` may be of a wider type."""
    if a.dtype != total.dtype:
        return total.add_(a @ b)
    return total.addmm_(a, b) if a.dim() == 2 else total.baddbmm_(a, b)
