"""Compiled kernels: a seed leads to the same digits whether the code has just been compiled or was read back from the disk."""

import os
import subprocess
import sys

import pytest

from stlsearch.solvers import machine_code

SWEEPS = """
import hashlib
import numpy as np
from stlsearch.solvers import anchored
from stlsearch.solvers.plan import Plan
from stlsearch.targets import Target

tensor = Target.matmul(2, 3, 3).tensor.astype(float)
generator = np.random.default_rng(0)
factors = [generator.standard_normal((extent, 15, 16)) for extent in tensor.shape]
plans = [Plan.of(tensor, mode) for mode in range(3)]
anchored.anchored_sweeps(factors, plans, np.full(9, 1e-3), anchored.Anchors.sparse(9, 0.1, 0.1, 0.01))
hits = sum(anchored._sweep_blocks.stats.cache_hits.values())
"""

ORBITS = """
import hashlib
import numpy as np
from stlsearch.search.orbit_equations import orbit_equations
from stlsearch.search.sign_groups import random_groups
from stlsearch.search.symmetric import _fit
from stlsearch.solvers.orbit_lm import solve
from stlsearch.targets import Target

group = next(group for group in random_groups((3, 3, 3), 2, np.random.default_rng(0)) if group is not None)
equations = orbit_equations(Target.matmul(3, 3, 3), 23, group, np.random.default_rng(0))
factors = [_fit(equations, [0], start, np.zeros(1, dtype=np.int8))[0] for start in range(3)]
hits = sum(solve.stats.cache_hits.values())
"""

OPERATOR = """
import hashlib
import numpy as np
import torch
from stlsearch.ops import blocked, compiled

generator = torch.Generator().manual_seed(0)
left, right, matrix, factor = (torch.randn(*size, generator=generator) for size in ((7, 50, 70), (7, 70, 40), (2, 50, 70), (7, 4)))
products = torch.empty(7, 50, 40)
blocked.multiply(left, right, products)
planes = compiled.encode(matrix.bfloat16(), factor.bfloat16(), 2, 2, False, False)
factors = [products.numpy(), planes.float().numpy()]
entries = [blocked._entry(torch.float32), compiled._entry(True, torch.bfloat16, compiled.PAIRED)]
hits = int(all(entry._cache_hits for entry in entries))
"""

REPORT = """
print(hits, hashlib.sha256(b"".join(factor.tobytes() for factor in factors)).hexdigest())
"""


@pytest.mark.parametrize("script", [SWEEPS, ORBITS, OPERATOR], ids=["als", "symmetric", "operator"])
def test_code_read_back_from_the_disk_comes_to_the_same_digits(script, tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path), "OMP_NUM_THREADS": "1"}
    outputs = []
    for _ in range(2):
        run = subprocess.run([sys.executable, "-c", script + REPORT], env=environment, capture_output=True, text=True, check=False)
        assert run.returncode == 0, run.stderr
        outputs.append(run.stdout.split())
    assert [hits for hits, _ in outputs] == ["0", "1"]
    assert outputs[0][1] == outputs[1][1]


def test_kept_code_belongs_to_all_sources(monkeypatch, tmp_path):
    """numba looks at a function's own file alone, and would go on with code that calls what is no longer so."""

    def name():
        machine_code._sources.cache_clear()

        def body(data):
            pass

        return machine_code.c_function(body)._pyfunc.__qualname__

    package = tmp_path / "package"
    (package / "folder").mkdir(parents=True)
    (package / "folder" / "kernel.py").write_text("from numba import njit")
    (package / "other.py").write_text("nothing")
    try:
        monkeypatch.setattr(machine_code, "__file__", str(package / "folder" / "machine_code.py"))
        first = name()
        assert name() == first
        (package / "other.py").write_text("something else")
        assert name() == first
        (package / "folder" / "kernel.py").write_text("from numba import cfunc")
        assert name() != first
    finally:
        machine_code._sources.cache_clear()
