"""The DCT-II and its adjoint, one Triton kernel each: two products on tensor cores; rows stay on chip.

The formulas are in ``functional/dct_factors.py``. Each program takes ``block`` rows of ``q1 q2`` numbers. The
reorderings cost no pass: Makhoul's is in the addresses by which inputs are loaded, that of frequencies is a
transpose of the tile. In half precision, tables and intermediates are rounded to it; sums are float32.

Tables are loaded where they are used, not ahead: there they would take the registers that decide how many
programs a multiprocessor holds at a time.
"""

# mypy: ignore-errors

from lightning_sparse.layers.kernels.language import jit, tl

__all__ = ["dct_adjoint_kernel", "dct_kernel", "dot"]


@jit
def dot(a, b, precision: tl.constexpr, widen: tl.constexpr):
    """Multiply matrices; ``widen`` is for Triton's interpreter, which multiplies the bits of bfloat16."""
    if widen:
        a, b = a.to(tl.float32), b.to(tl.float32)
    return tl.dot(a, b, input_precision=precision)


@jit
def _table(pointer, rows: tl.constexpr, columns: tl.constexpr):
    """Load a matrix that is contiguous."""
    return tl.load(pointer + tl.arange(0, rows)[:, None] * columns + tl.arange(0, columns)[None, :])


@jit
def _order(q1: tl.constexpr, q2: tl.constexpr, block: tl.constexpr):
    """Return which input comes where: Makhoul's order as ``(q1, q2)``, once for each row of the block."""
    number = tl.arange(0, q1)[:, None] * q2 + (tl.arange(0, block * q2) % q2)[None, :]
    return tl.where(number < q1 * q2 // 2, 2 * number, 2 * q1 * q2 - 1 - 2 * number)


@jit
def _twiddled(re, im, t_re, t_im, q1: tl.constexpr, q2: tl.constexpr, block: tl.constexpr):
    """Multiply ``(q1, block * q2)`` complex numbers by the twiddles; the adjoint takes the same step."""
    re, im = tl.reshape(re, [q1, block, q2]), tl.reshape(im, [q1, block, q2])
    c, s = _table(t_re, q1, q2).to(tl.float32)[:, None, :], _table(t_im, q1, q2).to(tl.float32)[:, None, :]
    return re * c - im * s, re * s + im * c


@jit
def dct_kernel(
    x, y, f_re, f_im, t_re, t_im, m_re, m_im, rows, inputs, outputs, x_stride, y_stride,
    q1: tl.constexpr, q2: tl.constexpr, block: tl.constexpr, precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """Write ``C x``, cropped to the lowest frequencies."""
    start = tl.program_id(0).to(tl.int64) * block
    source, row = _order(q1, q2, block), start + tl.arange(0, block * q2) // q2
    there = (row < rows)[None, :] & (source < inputs)
    v = tl.load(x + (row * x_stride)[None, :] + source, mask=there, other=0.0)

    re = dot(_table(f_re, q1, q1), v, precision, widen)
    im = dot(_table(f_im, q1, q1), v, precision, widen)
    re, im = _twiddled(re, im, t_re, t_im, q1, q2, block)
    re, im = tl.reshape(re, [q1 * block, q2]).to(v.dtype), tl.reshape(im, [q1 * block, q2]).to(v.dtype)
    sums = dot(re, _table(m_re, q2, q2), precision, widen)
    sums -= dot(im, _table(m_im, q2, q2), precision, widen)
    sums = tl.reshape(tl.permute(tl.reshape(sums, [q1, block, q2]), [1, 2, 0]), [block, q1 * q2])

    k, row = tl.arange(0, q1 * q2)[None, :], start + tl.arange(0, block)[:, None]
    sums = tl.where(k == 0, sums * 0.7071067811865476, sums)
    there = (row < rows) & (k < outputs)
    tl.store(y + row * y_stride + k, sums.to(y.dtype.element_ty), mask=there)


@jit
def dct_adjoint_kernel(
    g, x, f_re, f_im, t_re, t_im, m_re, m_im, rows, outputs, inputs, g_stride, x_stride,
    q1: tl.constexpr, q2: tl.constexpr, block: tl.constexpr, precision: tl.constexpr, widen: tl.constexpr,
):  # fmt: skip
    """Write ``C' g``: the steps of ``dct_kernel``, each transposed, in reverse."""
    start = tl.program_id(0).to(tl.int64) * block
    k, row = tl.arange(0, q1 * q2)[None, :], start + tl.arange(0, block)[:, None]
    grad = tl.load(g + row * g_stride + k, mask=(row < rows) & (k < outputs), other=0.0)
    exact = grad.to(tl.float32)
    grad = tl.where(k == 0, exact * 0.7071067811865476, exact).to(g.dtype.element_ty)
    grad = tl.reshape(tl.permute(tl.reshape(grad, [block, q2, q1]), [2, 0, 1]), [q1 * block, q2])

    re = tl.reshape(dot(grad, tl.trans(_table(m_re, q2, q2)), precision, widen), [q1, block * q2])
    im = tl.reshape(dot(grad, tl.trans(_table(m_im, q2, q2)), precision, widen), [q1, block * q2])
    re, im = _twiddled(re, im, t_re, t_im, q1, q2, block)
    re = tl.reshape(re, [q1, block * q2]).to(grad.dtype)
    im = tl.reshape(im, [q1, block * q2]).to(grad.dtype)
    sums = dot(_table(f_re, q1, q1), re, precision, widen)
    sums -= dot(_table(f_im, q1, q1), im, precision, widen)

    target, row = _order(q1, q2, block), start + tl.arange(0, block * q2) // q2
    there = (row < rows)[None, :] & (target < inputs)
    tl.store(x + (row * x_stride)[None, :] + target, sums.to(x.dtype.element_ty), mask=there)
