"""What comes before and after cuFFT in a DCT-II or its adjoint, one Triton kernel each, for any size.

The DCT: even inputs first, odd ones last in reverse, ``V = rfft(v)``, and of ``exp(-i theta_k) V_k`` with
``theta_k = pi k / 2q`` the real part is frequency k and minus the imaginary part frequency q - k.

The adjoint undoes these steps. Its inverse FFT of a Hermitian V is a Hartley transform of the real numbers
``Re V - Im V``, which a forward FFT of these, W, gives as well: ``v = (Re W - Im W) / q``. So both directions
are one real FFT; PyTorch's inverse one copies its input first, and scales its output after.

Each program takes a part of ``block`` rows; the cosines and sines stay in registers.
"""

# mypy: ignore-errors

from lightning_sparse.layers.kernels.language import jit, tl

__all__ = ["after_adjoint_kernel", "after_kernel", "before_adjoint_kernel", "before_kernel"]


@jit
def before_kernel(x, v, rows, inputs, size, x_stride, block: tl.constexpr, width: tl.constexpr):
    """Write inputs in Makhoul's order, filled up with zeros, in float32: ``(rows, size)``."""
    first = tl.program_id(1) * width
    source = 2 * first + tl.arange(0, 2 * width)
    number = first + tl.arange(0, width)
    row = tl.program_id(0).to(tl.int64) * block
    for _ in range(block):
        there = (row < rows) & (source < inputs)
        pairs = tl.load(x + row * x_stride + source, mask=there, other=0.0).to(tl.float32)
        even, odd = tl.split(tl.reshape(pairs, [width, 2]))
        tl.store(v + row * size + number, even, mask=(row < rows) & (2 * number < size))
        tl.store(v + row * size + (size - 1 - number), odd, mask=(row < rows) & (2 * number + 1 < size))
        row += 1


@jit
def after_kernel(
    spectrum, y, cosine, sine, rows, outputs, size, y_stride, scale, block: tl.constexpr, width: tl.constexpr
):  # fmt: skip
    """Write ``C x`` from the spectrum: ``(rows, size // 2 + 1)`` complex numbers as pairs."""
    first, half = tl.program_id(1) * width, size // 2 + 1
    k = first + tl.arange(0, width)
    c, s = tl.load(cosine + k, mask=k < half, other=0.0), tl.load(sine + k, mask=k < half, other=0.0)
    c = tl.where(k == 0, c * 0.7071067811865476, c) * scale
    s *= scale
    part, mirrored = 2 * first + tl.arange(0, 2 * width), size - k
    row = tl.program_id(0).to(tl.int64) * block
    for _ in range(block):
        there = (row < rows) & (part < 2 * half)
        re, im = tl.split(
            tl.reshape(tl.load(spectrum + row * (2 * half) + part, mask=there, other=0.0), [width, 2])
        )
        there = (row < rows) & (k < half) & (k < outputs)
        tl.store(y + row * y_stride + k, (c * re + s * im).to(y.dtype.element_ty), mask=there)
        there = (row < rows) & (k > 0) & (k < mirrored) & (mirrored < outputs)
        tl.store(y + row * y_stride + mirrored, (s * re - c * im).to(y.dtype.element_ty), mask=there)
        row += 1


@jit
def before_adjoint_kernel(
    g, v, cosine, sine, rows, outputs, size, g_stride, scale, block: tl.constexpr, width: tl.constexpr
):
    """Write the real numbers whose Hartley transform is the reordered result: ``(rows, size)``, float32."""
    k, half = tl.program_id(1) * width + tl.arange(0, width), size // 2 + 1
    c, s = tl.load(cosine + k, mask=k < half, other=0.0), tl.load(sine + k, mask=k < half, other=0.0)
    c = tl.where(k == 0, c * 1.4142135623730951, c) * scale
    s *= scale
    mirrored = size - k
    row = tl.program_id(0).to(tl.int64) * block
    for _ in range(block):
        there = (row < rows) & (k < half) & (k < outputs)
        low = tl.load(g + row * g_stride + k, mask=there, other=0.0).to(tl.float32)
        there = (row < rows) & (k < half) & (k > 0) & (mirrored < outputs)
        high = tl.load(g + row * g_stride + mirrored, mask=there, other=0.0).to(tl.float32)
        re, im = c * low + s * high, s * low - c * high
        tl.store(v + row * size + k, re - im, mask=(row < rows) & (k < half))
        tl.store(v + row * size + mirrored, re + im, mask=(row < rows) & (k > 0) & (k < mirrored))
        row += 1


@jit
def after_adjoint_kernel(spectrum, x, rows, inputs, size, x_stride, block: tl.constexpr, width: tl.constexpr):
    """Write ``C' g``: inputs 2n - 1 and 2n come from number n of the spectrum."""
    first, half = tl.program_id(1) * width, size // 2 + 1
    part = 2 * first + tl.arange(0, 2 * width)
    target = part - 1
    row = tl.program_id(0).to(tl.int64) * block
    for _ in range(block):
        there = (row < rows) & (part < 2 * half)
        re, im = tl.split(
            tl.reshape(tl.load(spectrum + row * (2 * half) + part, mask=there, other=0.0), [width, 2])
        )
        value = tl.reshape(tl.join(re + im, re - im), [2 * width])
        there = (row < rows) & (target >= 0) & (target < inputs)
        tl.store(x + row * x_stride + target, value.to(x.dtype.element_ty), mask=there)
        row += 1
