"""Costs counted by hand, errors against their analytic values, and the shape of a timing."""

import gc
import json

import numpy as np
import pytest
import torch
from test_ops import STRASSEN, random_algorithm

from stlsearch import devices
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.evaluate import compare_times, count_cost, evaluate
from stlsearch.evaluate.cost import BackwardStages, Stages, Work
from stlsearch.targets import Target


@pytest.fixture(scope="module")
def strassen():
    return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN)


def test_strassen_counts_by_hand(strassen):
    cost = count_cost(strassen, 4, 6, 10)  # 2 x 3 by 3 x 5 tiles: 6, 15 and 10 values in a plane
    assert cost.macs == Stages(7 * 4 * 6, 7 * 4 * 15, 7 * 2 * 3 * 5, 7 * 4 * 10)
    assert cost.sparse_macs == Stages(12 * 6, 12 * 15, 210, 12 * 10)  # 12 non-zeros in each factor
    assert cost.macs.pre_encoded == 168 + 210 + 280
    assert cost.macs.total == 168 + 420 + 210 + 280
    assert cost.dense_macs == 240
    assert cost.multiplication_ratio == 7 / 8
    assert cost.speedup == 240 / 658
    assert cost.values_moved == Stages(24 + 42, 60 + 105, 42 + 105 + 70, 70 + 40)
    assert cost.dense_values_moved == 24 + 60 + 40
    assert (cost.weight_parameters, cost.dense_weight_parameters, cost.basis_parameters) == (105, 60, 84)


def test_the_gradients_of_strassen_by_hand(strassen):
    cost = count_cost(strassen, 4, 6, 10)
    assert cost.backward_macs == BackwardStages(7 * 4 * 10, 210, 210, 7 * 4 * 6)
    assert cost.backward_values_moved == BackwardStages(40 + 70, 217, 217, 42 + 24)
    assert cost.backward_macs.total == 280 + 420 + 168
    assert cost.new_values("forward") == 42 + 70 + 40
    assert cost.new_values("backward") == (42 + 70 + 40) + 42 + 105 + 24
    assert list(cost.work("forward")) == ["encode_activations", "multiply", "decode"]
    assert list(cost.work("backward"))[3:] == ["encode_gradient", "multiply_activations", "multiply_weights", "decode_gradient"]
    assert cost.work("backward")["multiply_weights"] == Work(210, 217)
    assert list(cost.dense_work("forward").values()) == [Work(240, 124)]
    assert list(cost.dense_work("backward").values()) == [Work(240, 124)] * 3


def test_padding_is_counted(strassen):
    padded, whole = count_cost(strassen, 3, 5, 9), count_cost(strassen, 4, 6, 10)
    assert padded.macs == whole.macs
    assert padded.dense_macs == 3 * 5 * 9
    assert padded.values_moved == Stages(15 + 42, 45 + 105, 217, 70 + 27)  # the zeros themselves are not read


def test_a_rectangular_tile_costs_what_the_formula_says():
    rank, (rows, inner, columns) = 20, (24, 30, 44)
    cost = count_cost(random_algorithm(2, 3, 4, rank), rows, inner, columns)
    expected = rank / 24 + rank / columns + rank / rows + rank / inner
    assert cost.macs.total / cost.dense_macs == pytest.approx(expected, rel=1e-14)
    assert cost.speedup_on_the_fly == pytest.approx(1 / expected, rel=1e-14)


def test_flops_and_bytes_of_the_stored_form(strassen):
    stored = count_cost(strassen, 4, 6, 10).to_dict()
    assert stored["flops"]["multiply"] == 420
    assert stored["dense_flops"] == 480
    assert stored["bytes_moved"]["bfloat16"]["decode"] == 220
    assert stored["bytes_moved"]["float32"]["dense"] == 496


def test_costs_need_sizes_and_a_matrix_product(strassen):
    with pytest.raises(InputError, match="at least 1, not 0 x 4 x 4"):
        count_cost(strassen, 0, 4, 4)
    one = np.ones((1, 1))
    with pytest.raises(InputError, match="not a matrix product"):
        count_cost(BilinearAlgorithm.from_floats(Target.make("polymul", {"m": 1, "n": 1}), one, one, one), 4, 4, 4)


def errors_of(algorithm, dtypes, device="cpu", size=256):
    found = evaluate(algorithm, size=size, dtypes=dtypes, timing=False, device=device)
    return {error.dtype: error for error in found.errors}


def test_measured_error_is_the_analytic_one_for_a_truncated_basis():
    # Strassen without its second product (|u|^2 |v|^2 |w|^2 = 4 of ||T||^2 = 8): e is one half.
    target = Target.matmul(2, 2, 2)
    algorithm = BilinearAlgorithm.from_floats(target, *(np.delete(np.array(factor, float), 1, axis=0) for factor in STRASSEN))
    assert algorithm.error == pytest.approx(0.5, rel=1e-14)
    # The measured value averages over 128^2 tiles on each side; its spread is about 1/128.
    for error in errors_of(algorithm, ("float64", "float32", "bfloat16")).values():
        assert error.predicted == pytest.approx(0.5, rel=1e-3)
        assert error.measured == pytest.approx(0.5, rel=0.04)


def test_an_exact_algorithm_errs_by_rounding_alone(strassen):
    errors = errors_of(strassen, ("float64", "float32"))
    assert errors["float64"].measured < 1e-29
    assert errors["float32"].measured < 1e-11
    assert errors["float64"].dense == 0
    assert 0 < errors["float32"].dense < errors["float32"].measured


def rotated(algorithm):
    """The same map by generic coefficients: A -> P A Q^T, B -> Q B R^T, C -> P C R^T with rotations P, Q, R."""
    rng = np.random.default_rng(3)
    p, q, r = (np.linalg.qr(rng.normal(size=(2, 2)))[0] for _ in range(3))
    bases = (np.kron(p, q), np.kron(q, r), np.kron(p, r))
    factors = (algorithm.U @ bases[0], algorithm.V @ bases[1], algorithm.W @ bases[2])
    return BilinearAlgorithm.from_floats(algorithm.target, *factors)


def check_rounding_model(algorithm, dtype, device):
    # Three stored intermediates, each rounded with a mean square of 0.18 u^2, give 0.54 g u^2; coefficients that
    # are rounded too give as much again. Inputs, output and accumulation blur both ends.
    error = errors_of(algorithm, (dtype,), device)[dtype]
    assert 0.3 < error.measured / error.predicted < 1.5


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_rounding_follows_the_amplification(strassen, dtype):
    check_rounding_model(strassen, dtype, "cpu")
    check_rounding_model(rotated(strassen), dtype, "cpu")


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_evaluation_on_cuda(strassen):
    check_rounding_model(rotated(strassen), "bfloat16", "cuda")
    found = evaluate(strassen, size=256, dtypes=("bfloat16",), device="cuda", repeats=3)
    assert found.device["type"] == "cuda"
    assert found.timings["bfloat16"].repeats == 3
    assert found.timings["bfloat16"].candidate > 0


def test_the_same_seed_gives_the_same_errors(strassen):
    first, again = (evaluate(strassen, size=32, dtypes=("bfloat16",), timing=False, seed=5).errors for _ in range(2))
    assert first == again
    assert evaluate(strassen, size=32, dtypes=("bfloat16",), timing=False, seed=6).errors != first


def test_an_overflow_is_null_in_json():
    big = BilinearAlgorithm.from_floats(Target.matmul(1, 1, 1), *np.full((3, 1, 1), 1e4))
    found = evaluate(big, size=8, dtypes=("float16",), timing=False).to_dict()
    assert found["errors"][0]["rel_sq_error"] is None
    json.dumps(found, allow_nan=False)


def test_an_evaluation_says_what_it_ran_on(strassen):
    lines = []
    found = evaluate(strassen, size=(8, 6, 10), dtypes=("float32",), repeats=2, progress=lines.append)
    stored = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert stored["cost"]["size"] == [8, 6, 10]
    assert stored["device"]["type"] == "cpu"
    assert stored["device"]["name"]
    assert stored["timings"]["float32"]["repeats"] == 2
    assert lines == ["float64 reference", "float32: error", "float32: 2 timed pairs"]


def test_timing_runs_both_in_pairs_and_alternates():
    calls = []
    timing = compare_times(lambda: calls.append("c"), lambda: calls.append("b"), repeats=4, warmup=1)
    assert "".join(calls) == "cb" + "cb" + "bc" + "cb" + "bc"
    assert timing.repeats == 4
    assert timing.low <= timing.speedup <= timing.high
    assert gc.isenabled()


def test_timing_stops_at_its_limit_but_measures_one_pair():
    calls = []
    timing = compare_times(lambda: calls.append("c"), lambda: calls.append("b"), repeats=100, warmup=9, time_limit=0)
    assert "".join(calls) == "cb" + "cb"
    assert timing.repeats == 1
    assert timing.low == timing.speedup == timing.high


def test_timing_turns_the_collector_on_again_after_an_error():
    def fails():
        raise RuntimeError

    with pytest.raises(RuntimeError):
        compare_times(fails, fails)
    assert gc.isenabled()
    with pytest.raises(InputError, match="repeats must be at least 1, not 0"):
        compare_times(fails, fails, repeats=0)


def test_sizes_that_cannot_fit_are_refused(strassen, monkeypatch):
    with pytest.raises(InputError, match="too large; at most 131072"):
        evaluate(strassen, size=10**6)
    monkeypatch.setattr("stlsearch.evaluate.limits.available_memory", lambda device: 2**20)
    with pytest.raises(InputError, match=r"512x512x512 needs about 0.0 GiB on cpu, 0.0 GiB are free"):
        evaluate(strassen, size=512)


def test_unknown_dtypes_are_refused(strassen):
    with pytest.raises(InputError, match="unknown dtype 'int8'; valid: float64, float32, bfloat16, float16"):
        evaluate(strassen, dtypes=("int8",))
    with pytest.raises(InputError, match="no dtype given"):
        evaluate(strassen, dtypes=())


def test_devices_by_name(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert devices.resolve_device("auto").type == "cpu"
    assert devices.resolve_device("cpu").type == "cpu"
    with pytest.raises(InputError, match="'cuda' is not available"):
        devices.resolve_device("cuda")
    with pytest.raises(InputError, match="unknown device 'tpu'; valid: auto, cpu, cuda"):
        devices.resolve_device("tpu")
    with pytest.raises(InputError, match=r"threads must be 1\.\.1024, not 0"):
        devices.set_threads(0)
    before = torch.get_num_threads()
    devices.set_threads(1)
    assert devices.describe_device(torch.device("cpu"))["threads"] == 1
    devices.set_threads(before)
