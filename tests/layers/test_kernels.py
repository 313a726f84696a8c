"""Triton kernels for S against products in float64: on a GPU, or in Triton's interpreter without one."""

import copy
import sys
from dataclasses import dataclass
from importlib.util import module_from_spec, spec_from_file_location
from typing import Any

import pytest
import torch
from devices import KERNEL_DEVICES
from layers_toy import convolution, linear, results
from torch import Tensor

pytest.importorskip("triton")

from lightning_sparse.layers import DensePlusSparseLinear
from lightning_sparse.layers.backends import LayerParts, Work
from lightning_sparse.layers.backends import kernels as backend_module
from lightning_sparse.layers.backends.kernels import Kernels
from lightning_sparse.layers.kernels import language
from lightning_sparse.layers.kernels import product as product_module
from lightning_sparse.layers.kernels import sparse as sparse_module
from lightning_sparse.layers.kernels.blocks import Blocks
from lightning_sparse.layers.kernels.language import runs_on
from lightning_sparse.layers.kernels.product import ByKernels, LinearByKernels
from lightning_sparse.layers.kernels.sparse import Support, as_table, sample, sums, turned
from lightning_sparse.layers.offsets import DCTOffset, NoOffset
from lightning_sparse.layers.offsets.base import LinearMap
from lightning_sparse.layers.products import DenseGradient, Materialized
from lightning_sparse.layers.support import draw_support

pytestmark = pytest.mark.parametrize("device", KERNEL_DEVICES)

AT_MOST = {torch.float32: 1e-6, torch.bfloat16: 1e-2, torch.float16: 1e-3}
DTYPES = list(AT_MOST)
SIZES = [(5, 7, 9, 20), (37, 40, 23, 0), (1, 1, 1, 1), (20, 33, 50, 1), (40, 18, 35, 90), (3, 50, 2, 30)]
"""Rows, outputs, inputs, values: ragged all of them, with bags that are empty, full, and of one."""
BLOCKS = [
    Blocks(16, 16),
    Blocks(32, 16, each=2),
    Blocks(16, 32, turn=False),
    Blocks(8, 16, turn=False, each=3),
]


def error(found: Tensor, exact: Tensor) -> float:
    """The norm of the difference over that of what is exact; 0 if both are zero."""
    off, size = (found.double() - exact).norm(), exact.norm()
    assert found.shape == exact.shape
    return float((off / size if size else off).detach())


class Case:
    """A sparse matrix, its inputs, and what has to come out."""

    def __init__(self, rows: int, m: int, n: int, k: int, device: str, dtype: torch.dtype) -> None:
        draws = torch.Generator().manual_seed(rows + m * n + k)
        flat = draw_support(m * n, k, draws)
        self.support = Support(*((flat // n).to(device), (flat % n).to(device)), (m, n))
        shapes = [(k,), (rows, n), (rows, m), (rows, m), (m,), ()]
        made = [torch.randn(shape, generator=draws).to(device, dtype) for shape in shapes]
        self.values, self.x, self.grad, self.offset, self.bias, self.alpha = made
        self.matrix = torch.zeros(m, n, dtype=torch.float64, device=device)
        self.matrix.view(-1)[flat.to(device)] = self.values.double()
        self.flat = flat.to(device)

    def poisoned(self, like: Tensor) -> Tensor:
        """Memory in which an entry that nobody writes is found."""
        return torch.full_like(like, float("nan"))[None]


@pytest.mark.parametrize("blocks", BLOCKS, ids=str)
@pytest.mark.parametrize("size", SIZES, ids=str)
def test_products_are_those_of_the_dense_matrix(size: Any, blocks: Blocks, device: str) -> None:
    case = Case(*size, device, torch.float32)
    y, d_x = case.poisoned(case.grad), case.poisoned(case.x)
    plain = case.poisoned(case.grad)
    table, grads = as_table(case.x, blocks.turn), as_table(case.grad, blocks.turn)
    assert sums(table, case.support.by_output, case.values, plain, blocks=blocks) is None
    assert error(plain[0], case.x.double() @ case.matrix.T) < 1e-6
    more: dict[str, Any] = {"offset": case.offset[None], "alpha": case.alpha, "bias": case.bias}
    sums(table, case.support.by_output, case.values, y, **more, blocks=blocks)
    sparse, dense = case.x.double() @ case.matrix.T, case.alpha.double() * case.offset.double()
    assert error(y[0], dense + sparse + case.bias.double()) < 1e-6
    sums(grads, case.support.by_input, case.values, d_x, blocks=blocks)
    assert error(d_x[0], case.grad.double() @ case.matrix) < 1e-6
    exact = (case.grad.double().T @ case.x.double()).flatten()[case.flat]
    for each in (0, 1):  # all rows in one part, and parts of one tile
        parts = Blocks(blocks.rows, blocks.features, turn=blocks.turn, each=each)
        assert error(sample(grads, table, case.support, torch.float32, parts), exact) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_each_precision(dtype: torch.dtype, device: str) -> None:
    """Inputs and outputs are short, sums are not: of 30 entries and more, one rounding is left."""
    case = Case(70, 17, 40, 400, device, dtype)
    y, table = case.poisoned(case.grad), turned(case.x)
    more: dict[str, Any] = {"offset": case.offset.float()[None], "alpha": case.alpha.float()}
    product = sums(table, case.support.by_output, case.values.float(), y, **more, against=case.grad[None])
    exact = case.x.double() @ case.matrix.T + case.alpha.double() * case.offset.double()
    assert y.dtype == dtype
    assert error(y[0], exact) < AT_MOST[dtype] / 2
    assert product is not None
    torch.testing.assert_close(
        product.double(), (case.offset.double() * case.grad.double()).sum(), rtol=1e-4, atol=1e-4
    )
    found = sample(turned(case.grad), table, case.support, torch.float32)
    assert error(found, (case.grad.double().T @ case.x.double()).flatten()[case.flat]) < 1e-6
    assert sample(turned(case.grad), table, case.support, dtype).dtype == dtype


@pytest.mark.parametrize("turn", [True, False])
def test_inputs_of_any_strides(turn: bool, device: str) -> None:
    case = Case(20, 24, 31, 90, device, torch.float32)
    wide = torch.randn(40, 62, device=device)
    single = torch.randn(20, 1, device=device)
    for x in (
        wide[::2, ::2],
        wide[:20, :31],
        wide.t()[:20, :31],
        single.expand(20, 31),
        wide[0, 0].expand(20, 31),
    ):
        y = case.poisoned(case.grad)
        sums(as_table(x, turn), case.support.by_output, case.values, y, blocks=Blocks(16, 16, turn=turn))
        assert error(y[0], x.double() @ case.matrix.T) < 1e-6
        found = sample(as_table(case.grad, turn), as_table(x, turn), case.support, torch.float32)
        assert error(found, (case.grad.double().T @ x.double()).flatten()[case.flat]) < 1e-6


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("size", [(0, 3), (3, 0), (1, 5), (64, 64), (65, 130)], ids=str)
def test_turning_changes_no_entry(size: tuple[int, int], dtype: torch.dtype, device: str) -> None:
    x = torch.randn(size, device=device).to(dtype)
    for some in (x, torch.randn(size[1], size[0], device=device).to(dtype).t()):
        found = turned(some)
        assert found.stride(1) == 1
        assert found.shape[1] % 64 == 0
        assert torch.equal(found[0, : size[0]], some)
        assert not found[0, size[0] :].any()


@pytest.mark.parametrize("line", ["row", "column"])
def test_all_values_in_one_line(line: str, device: str) -> None:
    """One bag holds everything, and all others are empty."""
    many, one = torch.arange(50, device=device), torch.full((50,), 3, device=device)
    support = Support(*((one, many) if line == "row" else (many, one)), (50, 50))
    values, x = torch.randn(50, device=device), torch.randn(9, 50, device=device)
    matrix = torch.zeros(50, 50, dtype=torch.float64, device=device)
    matrix[support.outputs.long(), support.inputs.long()] = values.double()
    for positions, exact in ((support.by_output, matrix.T), (support.by_input, matrix)):
        y = torch.full_like(x, float("nan"))[None]
        sums(turned(x), positions, values, y, blocks=Blocks(16, 16))
        assert error(y[0], x.double() @ exact) < 1e-6


# Whole layers.


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The kernels that were launched."""
    names: list[str] = []
    launch, code = sparse_module.launch, sparse_module.sparse_code

    def noting(kernel: Any, grid: tuple[int, ...], *args: Any, **kwargs: Any) -> None:
        if all(grid):
            names.extend(name for name in code.__all__ if getattr(code, name) is kernel)
        launch(kernel, grid, *args, **kwargs)

    monkeypatch.setattr(sparse_module, "launch", noting)
    return names


def twins(make: Any, device: str, dtype: torch.dtype, **options: Any) -> tuple[Any, Any]:
    """A layer by kernels, and the same one in float64 whose weight is built."""
    layer = make(dtype=dtype, backend="kernels", **options)
    exact = copy.deepcopy(layer).double().to(device)
    exact.backend = "materialize"
    return layer.to(device), exact


def compare(found: dict[str, Tensor], expected: dict[str, Tensor], dtype: torch.dtype) -> None:
    """Transforms on a GPU may be made by kernels of their own, which round what lies between their steps."""
    at_most = AT_MOST[dtype] * (3 if torch.cuda.is_available() else 1)
    for name, tensor in expected.items():
        if name == "alpha":  # a sum that cancels, held against the size that such a sum has
            off, size = (found[name].double() - tensor).abs(), tensor.abs().maximum(expected["y"].norm())
            assert off <= at_most * size, name
        else:
            assert error(found[name], tensor) < at_most, name


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", ["none", "dct", "pretrained"])
@pytest.mark.parametrize(("rows", "k"), [(0, 60), (1, 60), (5, 0), (6, 1), (300, 60)])
def test_linear_layers(
    rows: int, k: int, offset: str, dtype: torch.dtype, device: str, launched: list[str]
) -> None:
    layer, exact = twins(linear, device, dtype, offset=offset, k=k)
    x = torch.randn(rows, 20, generator=torch.Generator().manual_seed(rows)).to(device, dtype)
    found, expected = results(layer, x), results(exact, x.double())
    assert found.keys() == expected.keys()
    assert all(tensor.dtype == dtype for tensor in found.values())
    compare(found, expected, dtype)
    assert ("sums" in launched) == (rows > 0)
    assert ("sample" in launched) == (rows > 0 and k > 0)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("offset", ["none", "dct"])
@pytest.mark.parametrize("sides", [(2, 3), (9, 8)])
def test_kernels_of_one_place(
    sides: tuple[int, int], offset: str, dtype: torch.dtype, device: str, launched: list[str]
) -> None:
    layer, exact = twins(
        convolution, device, dtype, kernel_size=1, offset=offset, groups=1 if offset == "dct" else 2
    )
    images = torch.randn(3, 4, *sides, generator=torch.Generator().manual_seed(0)).to(device, dtype)
    for x in (images, images.to(memory_format=torch.channels_last), images[:0], images[:, :, ::2, 1:]):
        found, expected = results(layer, x), results(exact, x.double())
        compare(found, expected, dtype)
    assert {"sums", "sample"} <= set(launched)


def test_gradients_in_float64_go_the_plain_way(device: str, launched: list[str]) -> None:
    for layer, size in (
        (linear(6, 5, 12, backend="kernels"), (4, 6)),
        (linear(6, 5, 12, backend="kernels", offset="pretrained"), (4, 6)),
        (convolution(kernel_size=1, backend="kernels"), (2, 4, 3, 2)),
        (convolution(kernel_size=3, backend="kernels"), (2, 4, 3, 4)),
    ):
        layer, names = layer.to(device), [n for n, p in layer.named_parameters() if p.requires_grad]
        given = [layer.get_parameter(name).detach().requires_grad_() for name in names]
        x = torch.randn(size, dtype=torch.float64, device=device, requires_grad=True)

        def call(x: Tensor, *tensors: Tensor, layer: Any = layer, names: Any = names) -> Any:
            return torch.func.functional_call(layer, dict(zip(names, tensors, strict=True)), x)

        assert torch.autograd.gradcheck(call, (x, *given), nondet_tol=1e-10)  # atomic additions on a GPU
    assert not launched


def test_only_what_is_asked_for_is_made(device: str, launched: list[str]) -> None:
    layer, exact = twins(linear, device, torch.float32)
    x = torch.randn(300, 20, device=device)
    layer.values.requires_grad_(False)
    for some in (layer, exact):
        some.bias.requires_grad_(False)
        some(x.to(some.values)).sum().backward()  # of alpha alone, with a gradient that is no memory
    assert error(layer.alpha.grad, exact.alpha.grad) < 1e-4
    assert layer.values.grad is None
    assert launched == ["transpose", "sums"]  # those of the forward pass


def test_the_dense_gradient(device: str) -> None:
    layer, exact = twins(linear, device, torch.float32)
    x = torch.randn(7, 20, device=device)
    for some in (layer, exact):
        some.ask_for_dense_grad()
        results(some, x.to(some.values))
    assert error(layer.dense_grad(), exact.dense_grad()) < 1e-6


def test_a_support_that_moves_and_a_copy(device: str) -> None:
    x = torch.randn(7, 20, device=device)

    def check(layer: Any, exact: Any) -> None:
        compare(results(layer, x), results(exact, x.double()), torch.float32)

    layer, exact = twins(linear, device, torch.float32)
    check(layer, exact)
    to = draw_support(17 * 20, 60, torch.Generator().manual_seed(3)).to(device)
    for some in (layer, exact):
        some.move_(to)
    check(layer, exact)
    check(copy.deepcopy(layer), exact)
    state = linear(k=9, dtype=torch.float32).state_dict()  # another number of values
    for some in (layer, exact):
        some.load_state_dict(state)
    check(layer, exact)


@dataclass
class Halving(LinearMap):
    """A map that takes half precision, and notes what it was given."""

    seen: list[torch.dtype]

    @property
    def takes_half(self) -> bool:  # type: ignore[override]
        return True

    def __call__(self, x: Tensor) -> Tensor:
        self.seen.append(x.dtype)
        return x[:, :17] / 2

    def adjoint(self, grad: Tensor, input_size: torch.Size) -> Tensor:
        self.seen.append(grad.dtype)
        return torch.nn.functional.pad(grad / 2, (0, input_size[1] - 17))


def test_maps_that_take_half_precision_get_it(device: str) -> None:
    layer, seen = linear(dtype=torch.bfloat16, offset="none").to(device), list[torch.dtype]()
    plain = Materialized(layer.shape, None, layer.indices, None)
    product = LinearByKernels(layer.shape, None, layer.indices, Halving(seen), plain)
    alpha, values = torch.tensor(0.5, device=device), layer.values.detach()
    x, grad = (torch.randn(9, n, device=device).bfloat16() for n in (20, 17))
    y = product.forward(x, values, alpha, None)
    d_x, _, d_alpha = product.backward(grad, x, values, alpha, (True,) * 4, DenseGradient())
    matrix = layer.weight.detach().double() + 0.25 * torch.eye(17, 20, device=device, dtype=torch.float64)
    assert error(y, x.double() @ matrix.T) < 1e-2
    assert d_x is not None
    assert d_alpha is not None
    assert error(d_x, grad.double() @ matrix) < 1e-2
    torch.testing.assert_close(
        d_alpha.double(), (x[:, :17].double() * grad.double()).sum() / 2, rtol=1e-3, atol=1e-2
    )
    assert seen == [torch.bfloat16] * 2


def test_autocast(device: str, launched: list[str]) -> None:
    """The input is cast; parameters and their gradients stay in float32."""
    layer, exact = twins(linear, device, torch.float32)
    x = torch.randn(7, 20, device=device, requires_grad=True)
    with torch.autocast(device, torch.bfloat16):
        y = layer(x)
    assert y.dtype == torch.bfloat16
    y.float().sum().backward()
    expected = exact(x.detach().double())
    expected.sum().backward()
    assert error(y, expected) < 3e-2
    assert error(layer.values.grad, exact.values.grad) < 3e-2
    assert layer.values.grad.dtype == x.grad.dtype == torch.float32
    assert {"sums", "sample"} <= set(launched)


def test_compiled_code_does_not_look_inside(device: str, launched: list[str]) -> None:
    torch._dynamo.reset()
    layer, _ = twins(linear, device, torch.float32)
    x = torch.randn(7, 20, device=device)
    expected = results(layer, x)
    launched.clear()
    found = results(torch.compile(layer, backend="aot_eager", fullgraph=True), x)
    for name, tensor in expected.items():
        torch.testing.assert_close(found.get(name, found.get(f"_orig_mod.{name}")), tensor)
    assert {"sums", "sample"} <= set(launched)
    torch._dynamo.reset()


def test_results_do_not_change_from_run_to_run(device: str) -> None:
    layer, _ = twins(linear, device, torch.float32, k=300)
    x = torch.randn(300, 20, device=device)
    first = results(layer, x)
    for _ in range(3):
        assert all(torch.equal(tensor, first[name]) for name, tensor in results(layer, x).items())


# What the backend says.


def parts_of(layer: Any) -> LayerParts:
    return LayerParts(layer.shape, None, layer.indices, layer.offset, None, torch.float32)


def test_where_it_may_be_chosen(device: str) -> None:
    on_gpu = Work(torch.Size((64, 64)), 100, 8, torch.device("cuda"), 1, 1, DCTOffset())
    assert Kernels().available(on_gpu)
    assert not Kernels().available(Work(torch.Size((64, 64)), 100, 8, torch.device("cpu"), 1, 1, NoOffset()))
    assert not Kernels().available(
        Work(torch.Size((8, 8, 3, 3)), 100, 8, torch.device("cuda"), 1, 1, NoOffset())
    )
    assert Kernels().time(on_gpu) == float("inf")  # not before it has been measured
    assert isinstance(Kernels().build(parts_of(linear())), ByKernels)
    assert Kernels().build(parts_of(linear().to("meta"))) is None


def test_without_triton_there_is_a_way_out(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(backend_module, "find_spec", lambda name: None)
    layer = DensePlusSparseLinear(4, 3, torch.arange(2), backend="kernels", device=device)
    with pytest.raises(
        ValueError, match=r"`backend` must be .* without Triton, got 'kernels'.*take another"
    ) as raised:
        layer(torch.ones(1, 4, device=device))
    assert len(str(raised.value).splitlines()) <= 2
    assert not Kernels().available(Work(layer.shape, 2, 1, torch.device("cuda"), 1, 1, NoOffset()))


def test_everything_imports_without_triton(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Kernels are then functions that nobody calls."""
    monkeypatch.setitem(sys.modules, "triton", None)
    for module in (language, sparse_module.sparse_code):
        spec = spec_from_file_location(module.__name__, str(module.__file__))
        assert spec is not None
        assert spec.loader is not None
        anew = module_from_spec(spec)
        monkeypatch.setitem(sys.modules, module.__name__, anew)
        spec.loader.exec_module(anew)
    assert anew.sums.__name__ == "sums"
    assert not sys.modules[language.__name__].runs_on(torch.device("cuda"))
    assert not sys.modules[language.__name__].runs_on(torch.device("cpu"))


def test_kernels_run_here(device: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Or all that is above would compare the plain path with itself."""
    assert runs_on(torch.device(device))
    monkeypatch.setattr(product_module, "runs_on", lambda _: False)
    assert not product_module._take(torch.ones(1), torch.ones(1))
