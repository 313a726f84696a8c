"""The devices that tests run on: those of the maths on the CPU and, where there is one, a GPU."""

import pytest
import torch

NO_GPU = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU])]
KERNEL_DEVICES = [
    pytest.param("cpu", marks=pytest.mark.skipif(torch.cuda.is_available(), reason="runs on the GPU")),
    pytest.param("cuda", marks=[pytest.mark.gpu, NO_GPU]),
]
"""Where Triton kernels run: on a GPU, or without one in Triton's interpreter."""
