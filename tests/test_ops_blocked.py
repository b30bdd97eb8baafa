"""The operator's own batched products against float64: sizes, strides, edges, threads, and where they are used."""

from types import SimpleNamespace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_ops import random_algorithm, random_tensors

from stlsearch.errors import InputError
from stlsearch.evaluate import measurement, roofline
from stlsearch.ops import blocked, compiled, encode_weights, product, stl_matmul
from stlsearch.ops.block_kernel import HEIGHT
from stlsearch.ops.block_loops import COLUMNS, DEPTH, ROWS

TOLERANCE = {torch.float64: 1e-14, torch.float32: 1e-6}


def factor(turned, dtype, rank, rows, columns, seed):
    """Contiguous, or the view of one whose rows are columns."""
    (found,) = random_tensors((rank, columns, rows) if turned else (rank, rows, columns), dtype=dtype, seed=seed)
    return found.mT if turned else found


def error(found, left, right, before=0):
    expected = left.double() @ right.double()
    return float((found.double() - before - expected).norm() / expected.norm())


def near(size, largest):
    """Sizes on either side of a multiple of a block's."""
    return st.one_of(
        st.integers(1, 2 * HEIGHT), *(st.integers(max(1, count * size - 2), count * size + 2) for count in range(1, largest + 1))
    )


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_any_size_and_stride(data):
    draw = data.draw
    rank, rows, inner, columns = draw(st.integers(1, 3)), draw(near(ROWS, 2)), draw(near(DEPTH, 2)), draw(near(32, 3))
    dtype, turned, seed = draw(st.sampled_from(list(TOLERANCE))), draw(st.tuples(st.booleans(), st.booleans())), draw(st.integers(0, 99))
    left, right = factor(turned[0], dtype, rank, rows, inner, seed), factor(turned[1], dtype, rank, inner, columns, seed + 1)
    # In memory of more than the result, to see what is written beside it.
    memory = torch.full((rank, rows + 1, columns + 3), 7.0, dtype=dtype)
    into = memory[:, :rows, :columns]
    blocked.multiply(left, right, into)
    assert error(into, left, right) < TOLERANCE[dtype]
    assert (memory[:, rows:] == 7).all()
    assert (memory[:, :, columns:] == 7).all()
    into.fill_(1)
    blocked.multiply(left, right, into, add=True)
    assert error(into, left, right, before=1) < 10 * TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_more_columns_than_are_copied_at_a_time(dtype):
    left, right = random_tensors((2, 30, 2 * DEPTH + 5), (2, 2 * DEPTH + 5, COLUMNS + 40), dtype=dtype)
    into = torch.empty(2, 30, COLUMNS + 40, dtype=dtype)
    blocked.multiply(left, right, into)
    assert error(into, left, right) < TOLERANCE[dtype]


def test_a_factor_without_neighbours_and_one_repeated():
    left, right = random_tensors((2, 40, 60), (1, 30, 50))
    spread, repeated = left[:, ::2, ::2], right.expand(2, 30, 50)
    into = torch.empty(2, 20, 50, dtype=left.dtype)
    blocked.multiply(spread, repeated, into)
    assert error(into, spread, repeated) < 1e-14


def test_sums_of_nothing_are_zero():
    into = torch.full((2, 3, 4), 7.0)
    blocked.multiply(torch.ones(2, 3, 0), torch.ones(2, 0, 4), into, add=True)
    assert (into == 7).all()
    blocked.multiply(torch.ones(2, 3, 0), torch.ones(2, 0, 4), into)
    assert (into == 0).all()
    blocked.multiply(torch.ones(0, 3, 5), torch.ones(0, 5, 4), into[:0])


def test_infinities_and_nan_stay_in_their_rows():
    left, right = random_tensors((1, 30, 20), (1, 20, 40))
    left[0, 3, 4], left[0, 5, 6] = float("nan"), float("inf")
    into = torch.empty(1, 30, 40, dtype=left.dtype)
    blocked.multiply(left, right, into)
    expected = left @ right
    torch.testing.assert_close(into, expected, equal_nan=True)
    assert into[0, 3].isnan().all()
    assert into[0, 5].isinf().all()


def test_any_number_of_threads_comes_to_the_same_digits():
    left, right = random_tensors((3, 5 * blocked.LEAST_ROWS + 7, 300), (3, 300, 70), dtype=torch.float32)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 5):
            torch.set_num_threads(threads)
            found.append(torch.empty(3, left.shape[1], 70))
            blocked.multiply(left, right, found[-1])
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


@pytest.fixture
def always(monkeypatch):
    """Our own products wherever they can be computed, on any machine; what they were called with."""
    calls = []

    def multiply(left, right, into, *, add=False):
        calls.append(add)
        blocked_multiply(left, right, into, add=add)

    blocked_multiply = blocked.multiply
    monkeypatch.setattr(blocked, "multiply", multiply)
    monkeypatch.setattr(blocked, "faster", lambda left, right: left.dtype in blocked.DTYPES)
    return calls


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_the_operator_and_its_gradients(always, monkeypatch, dtype):
    algorithm = random_algorithm(2, 3, 4, 5)
    x, weight, gradient = random_tensors((26, 30), (30, 36), (26, 36), dtype=dtype)
    found = []
    for ours in (True, False):
        if not ours:
            monkeypatch.setattr(blocked, "faster", lambda left, right: False)
        encoded = encode_weights(weight, algorithm)
        planes, matrix = encoded.tensor.requires_grad_(), x.clone().requires_grad_()
        result = stl_matmul(matrix, encoded, algorithm, chunk=5)  # in chunks, so that gradients are added up
        found.append((result.detach(), *torch.autograd.grad(result, (matrix, planes), gradient)))
    assert {True, False} == set(always)
    for one, other in zip(*found, strict=True):
        assert float((one - other).norm() / other.norm()) < 10 * TOLERANCE[dtype]


@pytest.mark.parametrize(
    ("pays", "left", "right", "dtype"),
    [
        (True, (24, 64, 64), (24, 64, 64), torch.float32),
        (True, (24, 64, 64), (24, 64, 64), torch.float64),
        (False, (24, 64, 64), (24, 64, 64), torch.bfloat16),
        (False, (24, 2 * HEIGHT - 1, 640), (24, 640, 64), torch.float32),  # few rows
        (False, (24, 1024, 64), (24, 64, 8), torch.float32),  # few columns
        (False, (1, 32, 32), (1, 32, 64), torch.float32),  # little work
    ],
)
def test_they_are_used_where_they_pay(monkeypatch, pays, left, right, dtype):
    factors = torch.ones(left, dtype=dtype), torch.ones(right, dtype=dtype)
    monkeypatch.setattr(blocked, "here", lambda: True)
    assert blocked.faster(*factors) is pays
    assert not blocked.faster(*(factor.to("meta") for factor in factors))
    monkeypatch.setattr(blocked, "here", lambda: False)
    assert not blocked.faster(*factors)


class Alternating:
    """Times in alternation, of which our own product takes a `ratio`-th."""

    def __init__(self, ratio):
        self.ratio = ratio

    def __call__(self, candidate, baseline, **options):
        assert candidate().ndim == 3
        assert baseline().ndim == 2
        return SimpleNamespace(speedup=self.ratio)


def test_the_roofline_counts_the_faster_product(monkeypatch):
    """The ideal is that of our own product, what it is compared with torch.matmul's."""
    monkeypatch.setattr(blocked, "faster", lambda left, right: True)
    monkeypatch.setattr(roofline, "measure_bandwidth", lambda device, dtype: 1e9)
    monkeypatch.setattr(roofline, "time_alone", lambda function, **options: 2.0)
    for ratio, expected in ((2.0, (1024, 512, 2)), (0.5, (512, None, 1))):
        monkeypatch.setattr(roofline, "compare_times", Alternating(ratio))
        machine = roofline.measure_machine(torch.ones(8, 4), torch.ones(4, 16))
        assert (machine.flops, machine.dense_flops, machine.kernel_ratio) == expected


@pytest.mark.parametrize(("mode", "small", "own"), [("eager", 0, True), ("plain", 0, False), ("eager", 1 << 20, False)])
def test_the_same_kernel_is_the_one_that_multiplies(monkeypatch, mode, small, own):
    monkeypatch.setattr(blocked, "pays", lambda *sizes: True)
    monkeypatch.setattr(product, "SMALL", small)
    machine = roofline.Machine(flops=300.0, bandwidth=1e9, dense_flops=100.0)
    algorithm = random_algorithm(2, 2, 2, 7)
    found = measurement.measure(algorithm, torch.ones(8, 8), torch.ones(8, 8), mode=mode, repeats=1, machine=machine, stages=False)
    assert found.own_kernel is own
    assert found.same_kernel == found.timing.speedup / (3 if own else 1)
    assert found.to_dict()["same_kernel_speedup"] == found.same_kernel


WRONG = {
    "fewer planes": ((3, 20, 30), (1, 30, 40), (3, 20, 40)),
    "another inner size": ((3, 20, 30), (3, 29, 40), (3, 20, 40)),
    "a result of another size": ((3, 20, 30), (3, 30, 40), (2, 20, 40)),
}


@pytest.mark.parametrize(("left", "right", "into"), WRONG.values(), ids=WRONG)
def test_what_does_not_fit_is_refused(always, left, right, into):
    with pytest.raises(InputError, match="factors and products do not fit each other"):
        compiled.multiply(torch.ones(left), torch.ones(right), into=torch.empty(into))
    assert not always


def test_other_dtypes_and_sums_without_a_place_are_refused(always):
    left, right = torch.ones(3, 20, 30), torch.ones(3, 30, 40)
    with pytest.raises(InputError, match="factors and products do not fit each other"):
        torch.ops.stlsearch.multiply(left, right.double())
    with pytest.raises(InputError, match="nothing to add the products to"):
        compiled.multiply(left, right, add=True)
    assert not always


def test_results_whose_columns_are_no_neighbours_and_negated_views(always):
    left, right = random_tensors((3, 20, 30), (3, 30, 40))
    into = torch.empty(3, 40, 20, dtype=left.dtype).mT
    assert error(compiled.multiply(left, right, into=into), left, right) < 1e-14
    assert always == []
    assert error(compiled.multiply(torch._neg_view(left), right), -left, right) < 1e-14
    assert always == [False]


@pytest.mark.parametrize(("rank", "rows", "columns", "threads"), [(1, 400, 1100, 16), (7, 30, 700, 6), (1, 25, 40, 8)])
def test_few_planes_are_shared_out_too(monkeypatch, rank, rows, columns, threads):
    jobs = []

    def run(address, job, arrays, count):
        jobs.append((int(job[1]), count))
        run_together(address, job, arrays, min(count, 2))

    run_together = blocked.run_together
    monkeypatch.setattr(blocked, "run_together", run)
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    left, right = random_tensors((rank, rows, 300), (rank, 300, columns), dtype=torch.float32)
    into = torch.empty(rank, rows, columns)
    blocked.multiply(left, right, into)
    assert error(into, left, right) < 1e-6
    parts = max(1, rows // blocked.LEAST_ROWS) * max(1, columns // blocked.LEAST_COLUMNS)
    ((tasks, count),) = jobs
    assert tasks == rank * parts or tasks >= threads * blocked.TASKS
    assert count == min(threads, tasks)


def test_compiled_products_agree_either_way(always):
    left, right = random_tensors((3, 20, 30), (3, 30, 40))
    into = torch.ones(3, 20, 40, dtype=left.dtype)
    assert error(compiled.multiply(left, right), left, right) < 1e-14
    assert error(compiled.multiply(left, right, into=into, add=True), left, right, before=1) < 1e-13
    assert always == [False, True]
