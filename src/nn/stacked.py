"""Stacked weights of networks of one shape: experts of one owner, towers of the domains."""

import math

import torch
from torch import nn


class StackedLinear(nn.Module):
    """The weights of K linear maps [n, in] -> [n, out]."""

    def __init__(self, stack: int, inputs: int, outputs: int):
        super().__init__()
        bound = math.sqrt(6.0 / (inputs + outputs))  # Glorot's uniform bound of one map
        self.weight = nn.Parameter(torch.empty(stack, inputs, outputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.zeros(stack, 1, outputs))


class StackedLayerNorm(nn.Module):
    """The weights of K layer norms over the last dimension of [n, H]."""

    def __init__(self, stack: int, hidden: int):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(stack, 1, hidden))
        self.bias = nn.Parameter(torch.zeros(stack, 1, hidden))
