"""Matrix multiplications in the type that autocast asks for, added into wider sums."""

import torch
from torch import Tensor


def matmul_dtype(x: Tensor) -> torch.dtype:
    """What multiplications of x compute in: autocast's type, where it is on; float64 stays."""
    device = x.device.type
    if x.dtype == torch.float64 or not torch.is_autocast_enabled(device):
        return x.dtype
    return torch.get_autocast_dtype(device)


def add_matmul(total: Tensor, a: Tensor, b: Tensor) -> Tensor:
    """total + a·b in place, for matrices or batches of them; `total` may be of a wider type."""
    if a.dtype != total.dtype:
        return total.add_(a @ b)
    return total.addmm_(a, b) if a.dim() == 2 else total.baddbmm_(a, b)
