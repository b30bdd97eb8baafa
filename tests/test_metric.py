"""The metric: weighted errors mean what they say, the frame leads there and back, white changes nothing."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from samples import noisy, strassen

from stlsearch.baselines import best_rotation, truncation
from stlsearch.errors import InputError
from stlsearch.fit import fit, integer_exact
from stlsearch.inits import pooling
from stlsearch.inits.modes import modes
from stlsearch.inits.pooling import pool
from stlsearch.inits.request import NotApplicable, Request
from stlsearch.metric import FLOOR, Metric
from stlsearch.registry import codec
from stlsearch.registry.store import Registry
from stlsearch.solvers.problem import Problem
from stlsearch.targets import Target

TWO = Target.matmul(2, 2, 2)
FOUR = Target.matmul(4, 4, 4)
QUICK = {"init": "random", "restarts": 3, "iterations": 60}


def some_metric(target=TWO, seed=0, rank=None):
    random = np.random.default_rng(seed)
    moments = []
    for extent in target.dims[:2]:
        rows = random.normal(size=(rank or 3 * extent, extent)) + 0.3
        moments.append(rows.T @ rows / len(rows))
    return Metric(*moments)


@pytest.mark.parametrize("target", [TWO, Target.matmul(2, 3, 1)])
def test_the_error_is_that_of_products_of_gaussian_tiles_with_those_moments(target):
    metric, basis = some_metric(target), noisy(target, 4)
    n, m, p = target.shape
    random = np.random.default_rng(1)
    roots = [np.linalg.cholesky(moment) for moment in (metric.activation, metric.weight)]
    x, w = (random.normal(size=(100_000, len(root))) @ root.T for root in roots)
    exact = (x.reshape(-1, n, m) @ w.reshape(-1, m, p)).reshape(len(x), -1)
    measured = np.square(exact - basis.apply(x, w)).sum() / np.square(exact).sum()
    assert metric.error(basis) == pytest.approx(measured, rel=0.03)


def test_amplification_is_the_error_of_rounding_under_the_metric():
    """Relative noise of mean square s on the encoded activations adds s g to the error."""
    metric, basis = some_metric(), strassen()
    random = np.random.default_rng(1)
    x, w = (random.normal(size=(100_000, 4)) @ np.linalg.cholesky(moment).T for moment in (metric.activation, metric.weight))
    encoded = x @ basis.U.T
    # Noise relative to the mean square of each encoded value, independent of its sign and size.
    noise = 0.1 * encoded.std(axis=0) * random.normal(size=encoded.shape)
    difference = (noise * (w @ basis.V.T)) @ basis.W
    exact = basis.apply(x, w)
    assert np.square(difference).sum() / np.square(exact).sum() == pytest.approx(0.01 * metric.amplification(basis), rel=0.03)


def test_the_frame_leads_there_and_back():
    metric = some_metric()
    problem = Problem.of(TWO, metric=metric)
    factors = tuple(torch.randn(2, 5, 4, dtype=torch.float64) for _ in range(3))
    for before, after in zip(factors, problem.restore(problem.whiten(factors)), strict=True):
        assert torch.allclose(before, after)
    assert float(problem.norm_sq) == pytest.approx(8)
    basis = noisy()
    whitened = problem.whiten(tuple(torch.tensor(factor)[None] for factor in (basis.U, basis.V, basis.W)))
    assert float(problem.error(whitened)) == pytest.approx(metric.error(basis))
    assert float(problem.amplification(whitened)) == pytest.approx(metric.amplification(basis))


def test_scale_of_the_moments_does_not_matter():
    metric, basis = some_metric(), noisy()
    scaled = Metric(1e6 * metric.activation, 1e-4 * metric.weight)
    assert scaled.error(basis) == pytest.approx(metric.error(basis))
    assert scaled.amplification(basis) == pytest.approx(metric.amplification(basis))


def test_an_exact_algorithm_is_exact_under_every_metric():
    metric = some_metric()
    assert metric.error(strassen()) == 0
    problem = Problem.of(TWO, metric=metric)
    whitened = problem.whiten(tuple(torch.tensor(factor)[None] for factor in (strassen().U, strassen().V, strassen().W)))
    assert float(problem.error(whitened)) < 1e-25


def test_white_is_the_plain_problem():
    basis = noisy()
    white = Metric.white(TWO)
    assert white.error(basis) == pytest.approx(basis.error, rel=1e-12)
    assert white.amplification(basis) == pytest.approx(basis.amplification, rel=1e-12)
    plain, under = fit(TWO, 5, **QUICK), fit(TWO, 5, metric=Metric(3 * white.activation, white.weight), **QUICK)
    assert under.algorithm.id == plain.algorithm.id
    assert under.algorithm.metric is None


def test_a_fit_minimises_the_error_under_its_metric():
    metric, options = Metric.ar1(TWO, 0.6, 0.4), {"init": "strassen", "restarts": 3, "iterations": 60}
    white, fitted = fit(TWO, 6, **options).algorithm, fit(TWO, 6, metric=metric, **options).algorithm
    assert fitted.metric is metric
    assert fitted.metric_error < 0.7 * metric.error(white)
    assert fitted.metric_error < 0.7 * metric.error(truncation(metric, TWO, 6))
    assert fitted.metric_amplification <= 1000
    assert fitted.provenance["metric"] == "ar1:0.6,0.4"


def test_known_starts_are_taken_to_the_frame():
    metric = some_metric()
    fitted = fit(TWO, 7, metric=metric, init="known:x", lookup=lambda name: strassen(), restarts=2, iterations=5).algorithm
    assert fitted.metric_error < 1e-6
    assert fitted.error < 1e-5


def test_an_exact_rank_needs_no_metric():
    result = fit(TWO, 7, metric=some_metric())
    assert result.status == "exact"
    assert result.algorithm.is_exact


def test_singular_moments_are_floored():
    metric = some_metric(rank=2)  # two directions of four never occur
    assert np.linalg.matrix_rank(metric.activation) == 2
    fitted = fit(TWO, 5, metric=metric, **QUICK).algorithm
    assert np.isfinite(fitted.U).all()
    assert fitted.metric_error < metric.error(fit(TWO, 5, **QUICK).algorithm)
    # What never occurs counts for the floor's share, not for nothing.
    frame = metric.frame(TWO)
    values = np.linalg.eigvalsh(frame.activation) ** 2
    assert values[0] == pytest.approx(FLOOR * values[-1])


def test_round_trip_and_measures_are_recomputed(tmp_path):
    metric = Metric.ar1(TWO, 0.7, 0.3)
    basis = replace(noisy(), metric=replace(metric, layout={**metric.layout, "channels": [2, 0, 3, 1]}))
    registry = Registry(tmp_path)
    registry.add(basis)
    loaded = registry.get(basis.name).algorithm
    assert np.array_equal(loaded.metric.activation, metric.activation)
    assert np.array_equal(loaded.metric.weight, metric.weight)
    assert loaded.metric.layout == basis.metric.layout
    assert loaded.metric.channels.tolist() == [2, 0, 3, 1]
    assert loaded.metric_error == basis.metric_error
    assert loaded.metric_amplification == basis.metric_amplification
    assert codec.dumps(loaded) == codec.dumps(basis)


def test_best_means_white_unless_a_metric_is_named(tmp_path):
    metric = Metric.ar1(TWO, 0.9, 0.5)
    registry = Registry(tmp_path)
    fitted = fit(TWO, 4, metric=metric, **QUICK).algorithm
    registry.add(fitted)
    assert registry.best(TWO, 4) is None
    white = fit(TWO, 4, **QUICK).algorithm
    registry.add(white)
    assert registry.best(TWO, 4).algorithm.id == white.id
    assert registry.best(TWO, 4, metric=metric).algorithm.id == fitted.id
    assert registry.best(TWO, 4, metric=metric, max_amplification=1e-6) is None


def test_truncation_keeps_the_leading_modes():
    """Computed here from the eigenvalues alone: the share of kron(AR(1) .7, AR(1) .3) outside its r/4 largest."""
    steps = np.abs(np.subtract.outer(np.arange(4), np.arange(4)))
    modes = np.sort(np.outer(np.linalg.eigvalsh(0.7**steps), np.linalg.eigvalsh(0.3**steps)).ravel())[::-1]
    metric = Metric.named("ar1:0.7,0.3", FOUR)
    for rank, published in ((16, 0.319), (24, 0.193), (32, 0.1265)):
        error = metric.error(truncation(metric, FOUR, rank))
        assert error == pytest.approx(1 - modes[: rank // 4].sum() / modes.sum(), abs=1e-9)
        assert error == pytest.approx(published, abs=5e-4)


def test_the_best_rotation_is_a_rotation_and_better():
    metric, white = Metric.ar1(TWO, 0.9, 0.5), fit(TWO, 4, **QUICK).algorithm
    rotated, error = best_rotation(white, metric, rotations=40)
    assert error == pytest.approx(metric.error(rotated))
    assert error < metric.error(white)
    assert rotated.error == pytest.approx(white.error)
    assert rotated.amplification == pytest.approx(white.amplification)
    assert best_rotation(white, metric, rotations=40)[0].id == rotated.id


@pytest.mark.parametrize(
    ("activation", "problem"),
    [
        (np.ones((4, 3)), "square"),
        (np.full((4, 4), np.nan), "finite"),
        (np.triu(np.ones((4, 4))), "symmetric"),
        (-np.eye(4), "non-negative diagonal"),
        (np.zeros((4, 4)), "zero"),
        (np.eye(4)[::-1] + np.eye(4) * 0.1, "negative eigenvalue"),
    ],
)
def test_what_is_no_second_moment_is_refused(activation, problem):
    with pytest.raises(InputError, match=problem):
        Metric(activation, np.eye(4))


def test_names_and_sizes_are_checked():
    for name in ("gauss", "ar1:0.7", "ar1:1,0", "ar1:0.5,--2", "ar1:"):
        with pytest.raises(InputError):
            Metric.named(name, TWO)
    with pytest.raises(InputError, match="16 x 16"):
        fit(FOUR, 8, metric=some_metric())
    with pytest.raises(InputError, match="matrix products"):
        Metric.named("ar1:0.7,0.3", Target.make("complex", {}))


def test_the_modes_start_is_the_truncation_and_needs_a_metric():
    metric = Metric.ar1(TWO, 0.9, 0.5)
    request = Request(Problem.of(TWO, metric=metric), 4, 5, torch.Generator().manual_seed(0))
    errors = request.problem.error(modes(request).factors)
    assert float(errors[0]) == pytest.approx(metric.error(truncation(metric, TWO, 4)))
    with pytest.raises(NotApplicable, match="needs a metric"):
        fit(TWO, 4, init="modes")


@pytest.mark.parametrize("metric", [None, Metric.ar1(TWO, 0.9, 0.5)])
def test_the_pool_holds_distinct_solutions_best_first(metric, monkeypatch):
    monkeypatch.setattr(pooling, "GENERATIONS", 2)
    problem = Problem.of(TWO, metric=metric)

    def starts():
        return pool(Request(problem, 5, 4, torch.Generator().manual_seed(0), exact=integer_exact)).factors

    values = problem.objective(starts(), 1e-3)
    assert len(values) >= 2
    assert all(gap > pooling.DISTANCE * float(values[0]) for gap in values.diff().tolist())
    assert torch.equal(starts()[0], starts()[0])
