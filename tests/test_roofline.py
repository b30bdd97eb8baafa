"""The roofline by hand, and the machine it is measured on."""

import pytest
import torch
from test_ops import STRASSEN

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.evaluate import count_cost
from stlsearch.evaluate import roofline as module
from stlsearch.evaluate.cost import Work
from stlsearch.evaluate.roofline import Machine, ideal, measure_bandwidth, measure_machine
from stlsearch.targets import Target


@pytest.fixture(scope="module")
def cost():
    """8 x 8 x 8: planes of 4 x 4. MACs 448 in every stage, 512 dense; values 64 + 112, 336, 112 + 64, and 192 dense."""
    return count_cost(BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN), 8, 8, 8)


def test_a_machine_limited_by_arithmetic(cost):
    found = ideal(cost, Machine(flops=100, bandwidth=400), "float32")
    assert found.stages == pytest.approx({"encode_activations": 8.96, "multiply": 8.96, "decode": 8.96})
    assert set(found.bounds.values()) == {"arithmetic"}
    assert found.dense == pytest.approx(10.24)
    assert found.seconds == pytest.approx(26.88)
    assert found.speedup == pytest.approx(10.24 / 26.88)
    assert found.speedup == pytest.approx(cost.speedup)  # the same rate everywhere


def test_a_machine_limited_by_bandwidth(cost):
    found = ideal(cost, Machine(flops=1000, bandwidth=100), "float32")
    assert found.stages == pytest.approx({"encode_activations": 7.04, "multiply": 13.44, "decode": 7.04})
    assert set(found.bounds.values()) == {"bandwidth"}
    assert found.dense == pytest.approx(7.68)
    halved = ideal(cost, Machine(flops=1000, bandwidth=100), "bfloat16")
    assert halved.seconds == pytest.approx(27.52 / 2)
    assert halved.speedup == pytest.approx(found.speedup)


def test_a_machine_between(cost):
    machine = Machine(flops=448, bandwidth=400)  # 2 s of arithmetic a stage; 1.76, 3.36 and 1.76 s of memory
    found = ideal(cost, machine, "float32")
    assert found.bounds == {"encode_activations": "arithmetic", "multiply": "bandwidth", "decode": "arithmetic"}
    assert found.seconds == pytest.approx(2 + 3.36 + 2)


def test_gradients(cost):
    found = ideal(cost, Machine(flops=1000, bandwidth=100), "float32", "backward")
    gradients = {"encode_gradient": 7.04, "multiply_activations": 13.44, "multiply_weights": 13.44, "decode_gradient": 7.04}
    assert found.stages == pytest.approx({"encode_activations": 7.04, "multiply": 13.44, "decode": 7.04} | gradients)
    assert found.dense == pytest.approx(3 * 7.68)


def test_the_measured_machine_multiplies_and_copies(monkeypatch):
    monkeypatch.setitem(module.COPY_BYTES, "cpu", 2**20)
    calls = []

    def one_second(function, **options):
        calls.append(function)
        function()
        return 0.5

    monkeypatch.setattr(module, "time_alone", one_second)
    found = measure_machine(torch.ones(8, 4, dtype=torch.bfloat16), torch.ones(4, 16, dtype=torch.bfloat16))
    assert found.flops == 2 * 8 * 4 * 16 / 0.5
    assert found.bandwidth == 2 * 2**20 / 0.5  # read and written
    assert len(calls) == 2
    assert found.seconds(Work(1024, 0), "float32") == 1.0


def test_the_copy_leaves_room(monkeypatch):
    monkeypatch.setattr(module, "available_memory", lambda device: 2**24)
    sizes = []

    def size(function, **options):
        sizes.append(function().nbytes)
        return 1.0

    monkeypatch.setattr(module, "time_alone", size)
    assert measure_bandwidth(torch.device("cpu"), torch.float64) == 2 * 2**21
    assert sizes == [2**21]
