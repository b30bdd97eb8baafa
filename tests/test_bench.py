"""What a measurement holds and what is refused; nothing is asserted about how long anything takes."""

import functools
import json
import math

import pytest
import torch
from test_ops import STRASSEN, random_algorithm

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.evaluate import roofline, timing
from stlsearch.evaluate.bench import bench
from stlsearch.evaluate.measurement import measure
from stlsearch.evaluate.timing import time_alone
from stlsearch.ops import compiled
from stlsearch.plots import draw_speedups
from stlsearch.targets import Target


@pytest.fixture(scope="module")
def strassen():
    return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN)


@pytest.fixture(autouse=True)
def _quick(monkeypatch):
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    monkeypatch.setitem(roofline.COPY_BYTES, "cpu", 2**20)


def pair(rows=16, inner=12, columns=20, dtype=torch.float32):
    generator = torch.Generator().manual_seed(0)
    return torch.randn(rows, inner, generator=generator, dtype=dtype), torch.randn(inner, columns, generator=generator, dtype=dtype)


def test_every_combination_is_measured_in_order(strassen):
    other = random_algorithm(2, 2, 2, 5)
    lines, seen = [], []
    found = bench(
        [strassen, other],
        [(16, 16, 16), (8, 12, 20)],
        dtypes=("float32", "bfloat16"),
        passes=("forward", "backward"),
        repeats=1,
        progress=lines.append,
        on_measurement=seen.append,
    )
    assert [(each.cost.size, each.dtype, each.cost.rank, each.direction) for each in found] == [
        (size, dtype, rank, direction)
        for size in ((16, 16, 16), (8, 12, 20))
        for dtype in ("float32", "bfloat16")
        for rank in (7, 5)
        for direction in ("forward", "backward")
    ]
    assert seen == found
    assert lines[0] == "errors at size 256"
    assert lines[-1] == "8x12x20 bfloat16 rank 5 eager backward: 1 timed pairs"
    exact, wrong = (next(each for each in found if each.cost.rank == rank) for rank in (7, 5))
    assert exact.rel_error < 1e-5
    assert wrong.rel_error > 0.1


def test_a_measurement_holds_the_ideal_beside_the_measured(strassen):
    found = measure(strassen, *pair(), repeats=3, rel_error=math.nan)
    assert found.timing.repeats == 3
    assert found.timing.low <= found.timing.speedup <= found.timing.high
    assert found.of_ideal == found.timing.speedup / found.ideal.speedup
    assert list(found.stages) == ["encode_activations", "multiply", "decode"] == list(found.ideal.stages)
    # The excess of all parts is that of the whole.
    assert sum(found.excess.values()) == pytest.approx(found.alone - found.ideal.seconds)
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert (stored["size"], stored["rank"], stored["pass"], stored["mode"]) == ([16, 12, 20], 7, "forward", "eager")
    assert stored["speedup_quartiles"] == [found.timing.low, found.timing.high]
    assert stored["ideal"]["speedup"] == found.ideal.speedup
    assert stored["rel_error"] is None
    assert stored["machine"]["flops_per_s"] > 0


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_memory_of_a_forward_pass(strassen, dtype):
    found = measure(strassen, *pair(dtype=dtype), repeats=1, stages=False)
    assert found.stages == found.excess == {}
    assert found.alone is None
    assert found.dense_extra_bytes == dtype.itemsize * 16 * 20
    assert found.bound_bytes == dtype.itemsize * (7 * 48 + 7 * 80 + 320)  # planes of 8 x 6 and 8 x 10, and the result
    # One factor at a time, as bfloat16 is multiplied: in pairs, with zeros beside the last ones, or in float32.
    factor = 0 if dtype == torch.float32 else 4 * 8 * 2 if compiled.PAIRED else 4 * 7 * 4
    assert found.extra_bytes == found.bound_bytes + factor


def test_a_backward_pass_measures_gradients_of_x_and_of_the_encoded_weight(strassen):
    x, weight = pair()
    found = measure(strassen, x, weight, direction="backward", repeats=1)
    assert list(found.stages)[3:] == ["encode_gradient", "multiply_activations", "multiply_weights", "decode_gradient"]
    assert not x.requires_grad
    assert not weight.requires_grad
    assert found.dense_extra_bytes == 4 * (16 * 20 + 16 * 12 + 12 * 20)  # the result waits for its gradients
    assert found.extra_bytes > 4 * (16 * 12 + 7 * 6 * 10)
    assert found.ideal.seconds > measure(strassen, x, weight, machine=found.machine, repeats=1, stages=False).ideal.seconds


def check_compiled(strassen, direction):
    found = measure(strassen, *pair(), mode="compiled", direction=direction, repeats=1)
    assert found.mode == "compiled"
    assert found.stages == {}
    assert found.extra_bytes is None  # cannot be seen on the CPU
    assert found.dense_extra_bytes > 0


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_compiled_is_one_graph(strassen, monkeypatch, direction):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    check_compiled(strassen, direction)


@pytest.mark.slow
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_compiled_for_real(strassen, direction):
    check_compiled(strassen, direction)


def test_a_compiler_that_fails_is_named(strassen, monkeypatch):
    def broken(graph, inputs):
        raise RuntimeError("no C++ compiler\nfurther lines")

    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend=broken))
    with pytest.raises(InputError, match=r"mode 'compiled' does not work here: .*no C\+\+ compiler") as error:
        measure(strassen, *pair(), mode="compiled", repeats=1)
    assert len(str(error.value).splitlines()) == 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"dtypes": ("int8",)}, "unknown dtype 'int8'; valid: float64, float32, bfloat16, float16"),
        ({"dtypes": ()}, "no dtype given"),
        ({"modes": ("fast",)}, "unknown mode 'fast'; valid: eager, plain, compiled, triton"),
        (
            {"modes": ("eager", "triton")},
            "mode 'triton' is not available: Triton runs on CUDA devices, not on cpu; valid here: eager, plain, comp",
        ),
        ({"passes": ("sideways",)}, "unknown pass 'sideways'; valid: forward, backward"),
        ({"repeats": 0}, "repeats must be at least 1, not 0"),
        ({"sizes": []}, "no size given"),
        ({"sizes": [(8, 8, 8), (8, 0, 8)]}, "sizes must be at least 1, not 8 x 0 x 8"),
        ({"sizes": [(8, 8, 2**20)]}, "size 1048576 is too large; at most 131072"),
        ({"algorithms": []}, "no algorithm given"),
    ],
)
def test_bad_input_is_refused_before_anything_is_measured(strassen, options, message):
    lines = []
    arguments = {"algorithms": strassen, "sizes": [(8, 8, 8)], "progress": lines.append, **options}
    with pytest.raises(InputError, match=message):
        bench(**arguments)
    assert lines == []


def test_sizes_that_do_not_fit_are_refused(strassen, monkeypatch):
    monkeypatch.setattr("stlsearch.evaluate.limits.available_memory", lambda device: 2**20)
    with pytest.raises(InputError, match=r"size 512x512x512 needs about 0\.0 GiB on cpu, 0\.0 GiB are free"):
        bench(strassen, [(8, 8, 8), (512, 512, 512)])


def test_triton_must_be_installed(strassen, monkeypatch):
    monkeypatch.setattr("stlsearch.evaluate.measurement.find_spec", lambda name: None)
    with pytest.raises(InputError, match="mode 'triton' is not available: Triton is not installed; valid here: eager, plain, compiled"):
        bench(strassen, [(8, 8, 8)], device="cuda", modes=("triton",))


def test_an_unknown_dtype_of_the_matrices(strassen):
    with pytest.raises(InputError, match=r"does not compute in torch\.int64"):
        measure(strassen, *(matrix.long() for matrix in pair()))


def test_a_time_alone_is_the_fastest_of_some_calls(monkeypatch):
    seconds = iter([3.0, 1.0, 2.0])
    calls = []
    monkeypatch.setattr(timing, "_clock", lambda device: lambda function: (function(), next(seconds))[1])
    assert time_alone(lambda: calls.append(1), repeats=3) == 1.0
    assert len(calls) == 4
    seconds = iter([5.0, 1.0])
    assert time_alone(lambda: None, repeats=2, time_limit=0) == 5.0


def test_the_picture(strassen, tmp_path):
    found = bench(strassen, [(8, 8, 8), (16, 8, 24)], dtypes=("float32", "float64"), passes=("forward", "backward"), repeats=2)
    for name in ("speed.png", "speed.svg"):
        draw_speedups(found, tmp_path / name)
    assert (tmp_path / "speed.png").read_bytes().startswith(b"\x89PNG")
    text = (tmp_path / "speed.svg").read_text()
    for label in ("float64, eager, backward", "torch.matmul", "roofline", "16x8x24"):
        assert label in text
    draw_speedups(found[:3], tmp_path / "part.png")  # interrupted
    with pytest.raises(InputError, match="nothing to draw"):
        draw_speedups([], tmp_path / "none.png")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_bench_on_cuda(strassen):
    found = bench(
        strassen,
        [(256, 256, 256)],
        dtypes=("bfloat16",),
        device="cuda",
        modes=("eager", "compiled", "triton"),
        passes=("forward", "backward"),
        repeats=2,
    )
    assert len(found) == 6
    assert all(each.extra_bytes > 0 for each in found)
