"""Kernels through Triton's compiler, for a GPU that need not be there; its interpreter takes more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

pytest.importorskip("triton")
pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="other tests compile them")

PACKAGE = Path(__file__).parents[2] / "lightning_sparse"

# Without the package's `__init__`, which imports Lightning.
CODE = f"""
import sys
from types import ModuleType
for name in ("", ".layers", ".layers.kernels"):
    package = ModuleType("lightning_sparse" + name)
    package.__path__ = [{str(PACKAGE)!r} + name.replace(".", "/")]
    sys.modules[package.__name__] = package

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource
from lightning_sparse.layers.kernels import sparse_code

FLOATS = "x table grad out offset against alpha bias products values".split()

def compiled(name, ones, constants):
    kernel = getattr(sparse_code, name)
    constants = {{**constants, **dict.fromkeys(ones.split(), 1)}}
    signature = {{
        arg: "constexpr" if arg in constants
        else "*bf16" if arg in FLOATS
        else "*i32" if arg in "starts ids order outputs inputs".split()
        else "i32"
        for arg in kernel.arg_names
    }}
    source = ASTSource(kernel, signature, constexprs=constants)
    program = triton.compile(source, target=GPUTarget("cuda", 90, 32), options={{"num_warps": 4}})
    assert program.asm["cubin"]
    print(name)

compiled("transpose", "x_column", dict(block_rows=64, block_columns=64))
more = dict(has_offset=True, has_bias=True, has_products=True, has_order=True)
for innermost in (True, False):
    tile = dict(rows_innermost=innermost, turned=innermost, block_rows=16, block_bags=32)
    compiled("sums", "table_row out_feature" if innermost else "table_feature rows", more | tile)
    tile = dict(rows_innermost=innermost, block_rows=32, block_entries=16)
    compiled("sample", "grad_row table_row items" if innermost else "grad_feature entries", tile)
"""


def test_kernels_compile_for_hopper() -> None:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    run = subprocess.run([sys.executable, "-c", CODE], env=environment, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-3000:]
    assert run.stdout.split() == ["transpose", "sums", "sample", "sums", "sample"]
