"""Products in fp8: what they round, that nothing else changes, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from test_ops import random_algorithm

from stlsearch.errors import InputError
from stlsearch.ops import Bases, EncodedParameter, Layout, encode_weights, fp8, multiply, quantise, stl_matmul
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

FP8 = torch.float8_e4m3fn
LAYOUTS = [Layout(), Layout("blocks", "blocked", "blocked"), Layout("batch", "interleaved", "blocked")]


def gaussian(*shape, dtype=torch.float32, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64).to(dtype)


def by_hand(values, dim):
    """Values rounded to 4 bits once the largest along a dimension is 448, by arithmetic on doubles."""
    scale = values.abs().amax(dim, keepdim=True) / 448
    mantissa, exponent = torch.frexp(values / scale)
    lowest = exponent.clamp_min(-5)  # subnormal below 2^-6
    return torch.ldexp(torch.ldexp(mantissa, exponent - lowest + 4).round(), lowest - 4) * scale


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_only_encoded_values_are_rounded(layout, dtype):
    algorithm = random_algorithm(2, 3, 2, 5)
    x, weight = gaussian(4, 7, 11, dtype=dtype), gaussian(11, 9, dtype=dtype, seed=1)
    encoded = encode_weights(weight, algorithm, layout=layout)
    found = stl_matmul(x, quantise(encoded), algorithm)
    assert found.dtype == dtype
    assert found.shape == (4, 7, 9)

    bases = Bases.prepare(algorithm, dtype=dtype).to(torch.float64)
    samples = layout.samples(x.double())
    cut = (layout.rows == "blocks", layout.channels == "blocked")
    planes = by_hand(fp8.plain.encode(samples, bases.U, 2, 3, *cut), 2) @ by_hand(encoded.tensor.double(), 1)
    blocks = (layout.rows == "blocks", layout.outputs == "blocked")
    expected = layout.restore(fp8.plain.decode(planes, bases.W, 2, 2, *samples.shape[:2], 9, *blocks), x)
    bound = {torch.float64: 1e-6, torch.float32: 1e-5, torch.bfloat16: 0.03, torch.float16: 0.005}[dtype]
    assert (found.double() - expected).norm() < bound * expected.norm()


def test_scales_of_rows_make_outliers_harmless():
    """One token a thousand times as large as its neighbours: they would vanish under one scale for all."""
    x = torch.ones(64, 16)
    x[:4] *= 1e6
    planes, scales = fp8.quantise_rows(x[None])
    torch.testing.assert_close(planes.float() * scales[..., None], x[None])
    zeros, ones = fp8.quantise_rows(torch.zeros(1, 3, 4))
    assert not zeros.float().any()
    assert ones.gt(0).all()


def test_what_is_not_finite_stays_so():
    algorithm = random_algorithm(2, 2, 2, 3)
    encoded = quantise(encode_weights(gaussian(8, 8), algorithm))
    for value in (float("inf"), float("nan")):
        x = gaussian(4, 8)
        x[0, 0] = value
        result = stl_matmul(x, encoded, algorithm)
        assert not result[:2].isfinite().any()
        assert result[2:].isfinite().all()


@pytest.mark.parametrize("chunk", [None, 1, 3])
def test_chunks_and_empty_sizes(chunk):
    algorithm = random_algorithm(2, 3, 2, 5)
    encoded = quantise(encode_weights(gaussian(11, 9), algorithm))
    x = gaussian(3, 7, 11, seed=1)
    torch.testing.assert_close(stl_matmul(x, encoded, algorithm, chunk=chunk), stl_matmul(x, encoded, algorithm))
    assert stl_matmul(x[:0], encoded, algorithm, chunk=chunk).shape == (0, 7, 9)
    nothing = quantise(encode_weights(gaussian(0, 9), algorithm))
    assert not stl_matmul(gaussian(4, 0), nothing, algorithm, chunk=chunk).any()


def test_the_error_is_that_of_the_dense_product_magnified_by_the_amplification():
    """A mild basis of rank 24 loses 9 % to fp8, a violent one more than there is."""
    x, weight = gaussian(128, 128), gaussian(128, 128, seed=1)
    lost = {}
    for most in (5, None):
        algorithm = open_registry().best(Target.matmul(4, 4, 4), 24, max_amplification=most).algorithm
        encoded = encode_weights(weight, algorithm)
        exact = stl_matmul(x, encoded, algorithm)
        lost[most] = float((stl_matmul(x, quantise(encoded), algorithm) - exact).norm() / exact.norm())
    assert 0.05 < lost[5] < 0.12
    assert lost[None] > 1


def test_the_way_back():
    algorithm = random_algorithm(2, 3, 2, 5)
    encoded = encode_weights(gaussian(12, 8), algorithm)
    quantised = quantise(encoded)
    assert quantised.tensor.dtype == FP8
    assert quantised.tensor.is_contiguous()
    back = quantised.to(torch.float32)
    assert back.scales is None
    assert ((back.tensor - encoded.tensor).abs() <= 2.0**-4 * encoded.tensor.abs() + 1e-3).all()
    assert torch.equal(quantise(EncodedParameter(encoded)).scales, quantised.scales)
    moved = quantised.to("cpu")
    assert torch.equal(moved.tensor.float(), quantised.tensor.float())
    assert moved.scales is not None


def test_a_parameter_keeps_its_scales():
    algorithm = random_algorithm(2, 3, 2, 5)
    quantised = quantise(encode_weights(gaussian(12, 8), algorithm))
    parameter = EncodedParameter(quantised, requires_grad=False)
    other = EncodedParameter(quantise(encode_weights(gaussian(12, 8, seed=1), algorithm)), requires_grad=False)
    other.load_state_dict(parameter.state_dict())
    x = gaussian(4, 12)
    assert torch.equal(stl_matmul(x, other, algorithm), stl_matmul(x, quantised, algorithm))
    with pytest.raises(InputError, match="no gradients: pass requires_grad=False"):
        EncodedParameter(quantised)
    with pytest.raises(InputError, match="saved for dtype None, not float8_e4m3fn"):
        other.load_state_dict(EncodedParameter(encode_weights(gaussian(12, 8), algorithm)).state_dict())
    with pytest.raises(InputError, match="saved for dtype float8_e4m3fn, not None"):
        EncodedParameter(encode_weights(gaussian(12, 8), algorithm)).load_state_dict(parameter.state_dict())
    other.to(torch.bfloat16)  # as part of a model
    assert (other.tensor.dtype, other.scales.dtype) == (FP8, torch.float32)
    assert torch.equal(stl_matmul(x, other, algorithm), stl_matmul(x, quantised, algorithm))
    assert other.to("meta").tensor.device.type == "meta"


def test_under_compile_autocast_and_fake_tensors():
    algorithm = random_algorithm(2, 3, 2, 5)
    quantised = quantise(encode_weights(gaussian(12, 8), algorithm))
    bases = Bases.prepare(algorithm)
    x = gaussian(6, 12, seed=1)
    expected = stl_matmul(x, quantised, bases)
    compiled = torch.compile(lambda x: stl_matmul(x, quantised, bases), fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(x), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert stl_matmul(x, quantised, algorithm).dtype == torch.bfloat16
    arguments = (x[None], bases.U, quantised.tensor, quantised.scales, bases.W, 2, 3, 2, 8, False, False, False, 0)
    torch.library.opcheck(  # what compares inputs before and after cannot compare fp8
        torch.ops.stlsearch.product_fp8.default, arguments, test_utils=("test_autograd_registration", "test_faketensor")
    )


def test_what_is_refused():
    algorithm = random_algorithm(2, 3, 2, 5)
    encoded = encode_weights(gaussian(12, 8), algorithm)
    quantised, x = quantise(encoded), gaussian(4, 12)
    bases = Bases.prepare(algorithm)
    with pytest.raises(InputError, match="quantised already"):
        quantise(quantised)
    with pytest.raises(InputError, match="needs scales"):
        encoded.to(FP8)
    with pytest.raises(InputError, match="for stl_matmul alone"):
        multiply(torch.ones(5, 2, 4), quantised)
    for wanted in ((x.requires_grad_(), bases), (x.detach(), replace(bases, W=bases.W.clone().requires_grad_()))):
        with pytest.raises(InputError, match="products in fp8 have no gradients"):
            stl_matmul(wanted[0], quantised, wanted[1])
        with torch.no_grad():
            stl_matmul(wanted[0], quantised, wanted[1])
    with pytest.raises(InputError, match="nor forward mode"):
        torch.func.vmap(lambda x: stl_matmul(x, quantised, bases))(gaussian(2, 4, 12))
    with pytest.raises(InputError, match="is encoded as"):
        stl_matmul(x.detach(), replace(quantised, tensor=quantised.tensor[:, :3]), algorithm)
