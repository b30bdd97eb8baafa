"""Peak memory: every tensor counted once, for as long as it lives."""

import pytest
import torch
from torch import Tensor

from stlsearch.evaluate.memory import peak_extra_bytes

KIB = torch.zeros(256)  # float32


@torch.library.custom_op("stlsearch_tests::add_two", mutates_args=())
def add_two(x: Tensor) -> Tensor:
    between = torch.add(x, 1)
    return torch.add(between, 1)


add_two.register_fake(torch.empty_like)


@pytest.mark.parametrize(
    ("function", "kibibytes"),
    [
        (lambda: KIB[:8].view(2, 4).T, 0),  # views of what was there
        (lambda: KIB.add_(1), 0),
        (lambda: KIB + 1, 1),
        (lambda: (KIB + 1).view(16, 16).T[:2], 1),  # views of what is new
        (lambda: [KIB + 1 for _ in range(3)], 3),
        (lambda: [(KIB + 1).sum().item() for _ in range(3)], 1 + 4 / 1024),  # freed in between
        (lambda: ((KIB + 1) * 2) * 3, 2),
        (lambda: torch.cat([KIB, KIB]), 2),
        (lambda: KIB.double(), 2),
        (lambda: torch.add(KIB, 1, out=torch.empty(256)), 1),
        (lambda: add_two(KIB), 2),  # what an operator of ours holds inside counts too
    ],
)
def test_what_is_alive_at_once_is_counted(function, kibibytes):
    assert peak_extra_bytes(function) == kibibytes * 1024
    assert peak_extra_bytes(function) == kibibytes * 1024


def test_gradients_and_what_is_kept_for_them_are_counted():
    x = torch.ones(256, requires_grad=True)
    one = torch.ones(256)

    def exponential():
        return torch.autograd.grad(x.exp(), x, one)

    assert peak_extra_bytes(exponential) == 2048  # the result, kept for its derivative, and the gradient
    assert x.grad is None


def test_inference_mode_and_errors():
    with torch.inference_mode():
        assert peak_extra_bytes(lambda: KIB + 1) == 1024
    with pytest.raises(ZeroDivisionError):
        peak_extra_bytes(lambda: 1 // 0)
    assert peak_extra_bytes(lambda: KIB + 1) == 1024


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_cuda_counts_by_its_allocator():
    x = torch.zeros(2**20, device="cuda")
    assert peak_extra_bytes(lambda: (x + 1) * 2, device="cuda") == 2 * x.nbytes
