"""Solvers and fits on a device other than the CPU: a pretended one everywhere, a CUDA device where there is one."""

import pytest
import torch
from pretend_device import PretendDevice

from stlsearch.devices import available_memory
from stlsearch.fit import fit, start_from
from stlsearch.metric import Metric
from stlsearch.solvers import SOLVERS, als
from stlsearch.solvers.polish import Goal
from stlsearch.solvers.problem import Problem
from stlsearch.targets import Target

on_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
TARGET = Target.matmul(2, 2, 2)


def random_factors(problem, rank, batch, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return tuple(
        torch.randn(batch, rank, extent, generator=generator, dtype=torch.float64).to(problem.tensor) for extent in problem.target.dims
    )


def test_the_pretended_device_refuses_and_counts_what_a_gpu_would():
    with PretendDevice() as device:
        there = torch.arange(3.0, device="meta")
        with pytest.raises(RuntimeError, match="of the device and of the CPU"):
            there + torch.ones(3)
        with pytest.raises(RuntimeError, match="a generator of the CPU"):
            torch.randn(3, generator=torch.Generator(), device="meta")
        with pytest.raises(RuntimeError):
            there.numpy()
        assert not device.waits
        assert (there * 2 + torch.tensor(1.0)).tolist() == [1, 3, 5]
        assert float(there[torch.tensor([2])]) == 2
        torch.ones(3).to(there, non_blocking=True)
        torch.ones(3).to(there)
        assert device.waits == {"a copy to the CPU": 1, "a value is read": 1, "a copy to the device": 1}


# What the host may wait for in 20 iterations: for LM a value a step, and what is copied once.
WAITS = {"als": 1, "lm": 20, "sgd": 0, "sgd-tiles": 0, "lbfgs": 1, "cyclic": 21}


@pytest.mark.parametrize("name", SOLVERS)
def test_a_solver_keeps_to_its_device_and_seldom_waits_for_it(name):
    problem = Problem.of(TARGET)
    start = tuple(0.5 * factor for factor in random_factors(problem, 6, 3))
    wanted = problem.error(SOLVERS[name].solve(problem, start, penalty=1e-3, iterations=20))
    with PretendDevice() as device:
        there = Problem.of(TARGET, "meta")
        begun = tuple(factor.to(there.tensor) for factor in start)
        device.waits.clear()
        found = SOLVERS[name].solve(there, begun, penalty=1e-3, iterations=20)
        assert device.waits.total() <= WAITS[name]
        assert [factor.device.type for factor in found] == ["meta"] * 3
        torch.testing.assert_close(there.error(found).cpu(), wanted, rtol=1e-9, atol=1e-12)


def test_penalties_of_each_restart_may_be_on_the_device():
    with PretendDevice():
        there = Problem.of(TARGET, "meta")
        begun = random_factors(there, 5, 3)
        penalties = [1e-2, 1e-3, 1e-4]
        found, same = (als.solve(there, begun, penalty=torch.tensor(penalties, device=device), iterations=5) for device in ("meta", "cpu"))
        assert all(one.tolist() == other.tolist() for one, other in zip(found, same, strict=True))


@pytest.mark.parametrize("init", ["random", "strassen", "polynomial", "fourier", "subtiles", "orbits", "modes"])
def test_starts_are_the_same_on_the_device(init):
    metric = Metric.ar1(TARGET, 0.7, 0.3) if init == "modes" else None

    def errors(device):
        problem = Problem.of(TARGET, device, metric=metric)
        start = start_from(init, problem, 5, 3, torch.Generator().manual_seed(0), Goal())
        assert {factor.device.type for factor in start.factors} == {device}
        return problem.error(start.factors).tolist()

    wanted = errors("cpu")
    with PretendDevice():
        assert errors("meta") == pytest.approx(wanted, rel=1e-6)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_fit_comes_to_the_same_on_the_device(dtype):
    options = {"init": "random", "restarts": 4, "iterations": 30, "polished": 1, "dtype": dtype, "goal": Goal(optimize_for="e4m3")}
    wanted = fit(TARGET, 4, **options)
    with PretendDevice():
        found = fit(TARGET, 4, device="meta", **options)
    assert found.error == pytest.approx(wanted.error, rel=1e-6)
    assert found.polished


def test_memory_that_the_allocator_holds_idle_counts_as_free(monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 70)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 30)
    assert available_memory(torch.device("cuda")) == 140


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize(("shape", "rank"), [((3, 3, 3), 23), ((4, 4, 4), 32)])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_sweeps_on_cuda_are_the_compiled_ones(shape, rank, dtype):
    target = Target.matmul(*shape)
    here, there = (Problem.of(target, device, dtype) for device in ("cpu", "cuda"))
    levels = torch.logspace(-2, -3, 20, dtype=torch.float64)[:, None]
    wanted = here.error(als.sweeps(here, random_factors(here, rank, 256), levels))
    found = there.error(als.sweeps(there, random_factors(there, rank, 256), levels)).cpu()
    apart = (found - wanted).abs() > (1e-9 if dtype == torch.float64 else 1e-3)
    assert int(apart.sum()) <= 2  # rounding decides where a restart goes that passes close to a singular system


@pytest.mark.gpu
@on_gpu
def test_a_sweep_on_cuda_does_not_wait_for_the_device():
    problem = Problem.of(TARGET, "cuda")
    factors, level = random_factors(problem, 6, 16), torch.full((16,), 1e-3, dtype=torch.float64, device="cuda")
    als.sweep(problem, factors, level)  # loads the libraries
    torch.cuda.set_sync_debug_mode("error")
    try:
        als.sweep(problem, factors, level)
    finally:
        torch.cuda.set_sync_debug_mode("default")


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("name", SOLVERS)
def test_solvers_on_cuda_get_where_they_get_on_the_cpu(name):
    here, there = (Problem.of(TARGET, device) for device in ("cpu", "cuda"))
    solve = SOLVERS[name].solve
    wanted, found = (
        problem.error(solve(problem, tuple(0.5 * factor for factor in random_factors(problem, 6, 64)), penalty=1e-3, iterations=20)).cpu()
        for problem in (here, there)
    )
    assert int(((found - wanted).abs() > 1e-6).sum()) <= 1


@pytest.mark.gpu
@on_gpu
@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_a_fit_of_thousands_of_restarts_on_cuda_is_as_good_as_on_the_cpu(dtype):
    wanted, found = (
        fit(Target.matmul(3, 3, 3), 15, init="random", restarts=2048, iterations=200, polished=1, dtype=dtype, device=device)
        for device in ("cpu", "cuda")
    )
    assert found.status == "finished"
    assert found.error == pytest.approx(wanted.error, rel=0.02)
    assert found.amplification <= 1000
    assert found.algorithm.provenance["device"] == "cuda"
