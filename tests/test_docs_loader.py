"""docs/format.md: its loader as written, its example document, its account of the id."""

from __future__ import annotations

import hashlib
import json
import re
import struct
from pathlib import Path

import numpy as np
import pytest
from samples import definition, gaussian, noisy, strassen, strassen_mod_2

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.registry import codec
from stlsearch.targets import Target

PAGE = (Path(__file__).parent.parent / "docs" / "format.md").read_text(encoding="utf-8")
LOADER, USE = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
EXAMPLE = json.loads(re.findall(r"```json\n(.*?)```", PAGE, flags=re.DOTALL)[0])


def load(path: Path) -> tuple:
    module: dict = {}
    exec(LOADER, module)
    return module["load"](path)


def scaled() -> BilinearAlgorithm:
    """Strassen's algorithm with halves in U: ring Z[1/2]."""
    U, V, W = (factor.real for factor in strassen().exact)  # type: ignore[union-attr]
    return BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), codec.ExactMatrix.make(U, 2), V, W * 2)


@pytest.mark.parametrize("algorithm", [strassen(), scaled(), definition(2, 3, 4), noisy(), noisy(Target.matmul(3, 1, 2), 4)], ids=repr)
def test_the_loader_as_written(tmp_path: Path, algorithm: BilinearAlgorithm) -> None:
    path = tmp_path / "algorithm.json"
    path.write_text(codec.dumps(algorithm), encoding="utf-8")
    factors, error, document = load(path)
    for got, want in zip(factors, (algorithm.U, algorithm.V, algorithm.W), strict=True):
        assert np.array_equal(got, want)
    assert error == pytest.approx(algorithm.error, abs=1e-12)
    assert document["id"] == algorithm.id

    n, m, p = algorithm.target.shape  # type: ignore[misc]
    random = np.random.default_rng(0)
    names = {"load": load, "path": path, "A": random.normal(size=(n, m)), "B": random.normal(size=(m, p))}
    exec(USE, names)
    want = algorithm.apply(names["A"].ravel(), names["B"].ravel()).reshape(n, p)  # type: ignore[attr-defined]
    np.testing.assert_allclose(names["C"], want, atol=1e-12)
    if algorithm.is_exact:
        np.testing.assert_allclose(names["C"], names["A"] @ names["B"], atol=1e-12)  # type: ignore[operator]


@pytest.mark.parametrize("algorithm", [strassen_mod_2(), gaussian(), noisy(complex_valued=True)], ids=repr)
def test_the_loader_refuses_what_is_not_for_real_matrices(tmp_path: Path, algorithm: BilinearAlgorithm) -> None:
    path = tmp_path / "algorithm.json"
    path.write_text(codec.dumps(algorithm), encoding="utf-8")
    with pytest.raises(ValueError, match="real matrix products"):
        load(path)


def test_the_loader_is_as_short_as_promised() -> None:
    body = LOADER[LOADER.index("def load") :].strip().splitlines()
    assert len(body) <= 20
    assert set(re.findall(r"^import (\w+)", LOADER, flags=re.MULTILINE)) == {"json", "numpy"}


def test_the_example_has_the_keys_of_a_document() -> None:
    assert list(EXAMPLE) == list(codec.encode(strassen()))
    real = codec.encode(strassen())
    assert {key: EXAMPLE[key] for key in ("format", "version", "target", "dims", "rank", "ring", "metric")} == {
        key: real[key] for key in ("format", "version", "target", "dims", "rank", "ring", "metric")
    }


@pytest.mark.parametrize("algorithm", [strassen(), gaussian(), noisy(), noisy(complex_valued=True)], ids=repr)
def test_the_id_as_the_page_describes_it(algorithm: BilinearAlgorithm) -> None:
    document: dict = codec.encode(algorithm)

    def hexadecimal(rows: list | None) -> list | None:
        return rows and [[struct.pack(">d", value + 0.0).hex() for value in row] for row in rows]

    factors = []
    for name in "UVW":
        factor = document["factors"][name]
        if algorithm.is_exact:
            factors.append({"denominator": factor["denominator"], "imaginary": factor.get("imaginary"), "real": factor["real"]})
        else:
            factors.append({"imaginary": hexadecimal(factor.get("imaginary")), "real": hexadecimal(factor["real"])})
    content = {"factors": factors, "ring": document["ring"], "target": document["target"]}
    text = json.dumps(content, sort_keys=True, separators=(",", ":"))
    assert hashlib.sha256(text.encode()).hexdigest() == document["id"]
