"""The Walsh-Hadamard transform with random signs as one Triton kernel: two small products on tensor cores.

Sylvester's matrix of size ``q1 q2`` is the Kronecker product of those of size q1 and q2. Their entries are 1
and -1, exact in every precision; each product is scaled by itself, so that no intermediate overflows.
"""

# mypy: ignore-errors

from lightning_sparse.layers.kernels.dct_factored_code import dot
from lightning_sparse.layers.kernels.language import jit, tl

__all__ = ["hadamard_kernel"]


@jit
def _corner(matrix, size: tl.constexpr, longer: tl.constexpr):
    """Load Sylvester's matrix of that size, which is the first corner of a longer one."""
    return tl.load(matrix + tl.arange(0, size)[:, None] * longer + tl.arange(0, size)[None, :])


@jit
def hadamard_kernel(
    x, y, matrix, signs, rows, inputs, outputs, x_stride, y_stride, scale1, scale2,
    q1: tl.constexpr, q2: tl.constexpr, longer: tl.constexpr, block: tl.constexpr,
    signs_first: tl.constexpr, precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """Write ``H diag(signs) x``, or ``diag(signs) H x``, which is the adjoint."""
    start = tl.program_id(0).to(tl.int64) * block
    lanes = tl.arange(0, block * q2)
    source, row = tl.arange(0, q1)[:, None] * q2 + (lanes % q2)[None, :], start + lanes // q2
    there = (row < rows)[None, :] & (source < inputs)
    v = tl.load(x + (row * x_stride)[None, :] + source, mask=there, other=0.0)
    if signs_first:
        v = (v.to(tl.float32) * tl.load(signs + source, mask=source < inputs, other=0.0)).to(v.dtype)

    half = (dot(_corner(matrix, q1, longer), v, precision, widen) * scale1).to(v.dtype)
    sums = dot(tl.reshape(half, [q1 * block, q2]), _corner(matrix, q2, longer), precision, widen) * scale2

    lines = tl.arange(0, q1 * block)
    target, row = (lines // block)[:, None] * q2 + tl.arange(0, q2)[None, :], (start + lines % block)[:, None]
    there = (row < rows) & (target < outputs)
    if not signs_first:
        sums *= tl.load(signs + target, mask=target < outputs, other=0.0)
    tl.store(y + row * y_stride + target, sums.to(y.dtype.element_ty), mask=there)
