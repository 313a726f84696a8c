"""Sylvester's Hadamard matrix."""

import torch
from torch import Tensor

__all__ = ["sylvester"]


def sylvester(size: int) -> Tensor:
    """Return Sylvester's Hadamard matrix of a power of two, with entries of 1 and -1, in float64.

    >>> sylvester(2)
    tensor([[ 1.,  1.],
            [ 1., -1.]], dtype=torch.float64)
    """
    matrix = torch.ones(1, 1, dtype=torch.float64, device="cpu")
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix
