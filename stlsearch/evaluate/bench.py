"""The operator against torch.matmul over sizes, dtypes, modes and passes: a list of measurements."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.evaluate.cost import ITEM_BYTES, PASSES, count_cost
from stlsearch.evaluate.error import gaussian_pair, measure_error
from stlsearch.evaluate.limits import check_dtypes, check_memory, check_names, check_side
from stlsearch.evaluate.measurement import Measurement, check_modes, measure
from stlsearch.evaluate.roofline import measure_machine
from stlsearch.ops import DTYPES

ERROR_SIZE = 256  # errors of Gaussian products hardly depend on the size; float64 references of large ones take long


def bench(
    algorithms: BilinearAlgorithm | Sequence[BilinearAlgorithm],
    sizes: Sequence[tuple[int, int, int]],
    *,
    dtypes: Sequence[str] = ("float32", "bfloat16"),
    device: torch.device | str = "cpu",
    modes: Sequence[str] = ("eager",),
    passes: Sequence[str] = ("forward",),
    repeats: int = 15,
    time_limit: float = 10.0,
    stages: bool = True,
    seed: int = 0,
    progress: Callable[[str], None] | None = None,
    on_measurement: Callable[[Measurement], None] | None = None,
) -> list[Measurement]:
    """Measure every combination, sizes outermost, then dtypes, algorithms, modes and passes.

    Everything is checked before the first measurement. The roofline is measured once for every size and dtype, the error once
    for every algorithm and dtype, on Gaussian matrices of size `ERROR_SIZE`.

    The mode "compiled" resets torch.compile before every measurement: what the program had compiled compiles again.

    Args:
        sizes: (M, K, N) each.
        dtypes: names in `stlsearch.ops.DTYPES`.
        modes: of `stlsearch.evaluate.measurement.MODES`.
        passes: of `stlsearch.evaluate.cost.PASSES`.
        repeats: timed pairs per measurement.
        time_limit: seconds after which no further pair of a measurement begins.
        stages: time the stages alone too.
        seed: of the random matrices.
        progress: called with one line before each step.
        on_measurement: called with each as it is finished; what it has been given survives Ctrl-C.

    Raises:
        InputError: unknown or missing names, sizes out of range or too large for the device's free memory, a mode that the
            device does not have, or an algorithm that is not a real matrix product.
    """
    device = torch.device(device)
    chosen = [algorithms] if isinstance(algorithms, BilinearAlgorithm) else list(algorithms)
    say = progress or (lambda line: None)
    _check(chosen, sizes, dtypes, device, modes, passes, repeats)
    errors = _errors(chosen, dtypes, device, seed, say)
    found = []
    for size in sizes:
        rows, inner, columns = size
        for dtype in dtypes:
            label = f"{'x'.join(map(str, size))} {dtype}"
            say(f"{label}: matrices, torch.matmul and copy alone")
            generator = torch.Generator(device).manual_seed(seed)
            x = torch.randn(rows, inner, generator=generator, dtype=DTYPES[dtype], device=device)
            weight = torch.randn(inner, columns, generator=generator, dtype=DTYPES[dtype], device=device)
            machine = measure_machine(x, weight)
            for algorithm in chosen:
                for mode in modes:
                    for direction in passes:
                        say(f"{label} rank {algorithm.rank} {mode} {direction}: {repeats} timed pairs")
                        measurement = measure(
                            algorithm,
                            x,
                            weight,
                            mode=mode,
                            direction=direction,
                            repeats=repeats,
                            time_limit=time_limit,
                            machine=machine,
                            rel_error=errors[algorithm.id, dtype],
                            stages=stages,
                        )
                        found.append(measurement)
                        if on_measurement is not None:
                            on_measurement(measurement)
    return found


def _check(
    algorithms: Sequence[BilinearAlgorithm],
    sizes: Sequence[tuple[int, int, int]],
    dtypes: Sequence[str],
    device: torch.device,
    modes: Sequence[str],
    passes: Sequence[str],
    repeats: int,
) -> None:
    if not algorithms or not sizes:
        raise InputError(f"no {'size' if algorithms else 'algorithm'} given")
    check_dtypes(dtypes)
    check_modes(modes, device)
    check_names("pass", passes, PASSES)
    if repeats < 1:
        raise InputError(f"repeats must be at least 1, not {repeats}")
    widest = max(ITEM_BYTES[dtype] for dtype in dtypes)
    for size in sizes:
        check_side(size)
        for algorithm in algorithms:
            cost = count_cost(algorithm, *size)
            # Inputs and the ordinary result, the encoded weight, and the stages' tensors with as much again for permuted copies.
            values = cost.dense_values_moved + cost.weight_parameters + 2 * max(cost.new_values(direction) for direction in passes)
            check_memory(size, widest * values, device)


def _errors(
    algorithms: Sequence[BilinearAlgorithm], dtypes: Sequence[str], device: torch.device, seed: int, say: Callable[[str], None]
) -> dict[tuple[str, str], float]:
    """Relative Frobenius errors by algorithm and dtype."""
    say(f"errors at size {ERROR_SIZE}")
    x, weight = (matrix.to(device) for matrix in gaussian_pair((ERROR_SIZE,) * 3, seed=seed))
    exact = x @ weight
    return {
        (algorithm.id, dtype): math.sqrt(measure_error(algorithm, x, weight, exact, dtype, device=device).measured)
        for algorithm in algorithms
        for dtype in dtypes
    }
