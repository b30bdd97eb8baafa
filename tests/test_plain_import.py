"""Plain JSON of other people's algorithms: every convention is found, hostile files are refused in one line."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from exchange_samples import read
from samples import STRASSEN_U, STRASSEN_V, STRASSEN_W, definition, strassen

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands import main
from stlsearch.constructions.classical import laderman
from stlsearch.constructions.transforms import cyclic, drop, sandwich
from stlsearch.errors import InputError
from stlsearch.registry.formats import read_all
from stlsearch.registry.store import open_registry


def document(**changes: object) -> dict:
    plain = {"n": [2, 2, 2], "rank": 7, "ring": "ZT", "source": "Strassen 1969", "licence": "none"}
    return {**plain, "U": STRASSEN_U, "V": STRASSEN_V, "W": STRASSEN_W, **changes}


def imported(value: object) -> BilinearAlgorithm:
    return read(json.dumps(value).encode())


def test_it_is_verified_and_keeps_source_and_licence() -> None:
    algorithm = imported(document())
    assert algorithm.id == strassen().id
    assert algorithm.ring == "Z"
    assert algorithm.provenance["source"] == "Strassen 1969"
    assert algorithm.provenance["licence"] == "none"
    assert algorithm.provenance["convention"] == "row-major"


@pytest.mark.parametrize(
    ("flips", "name"),
    [
        ((False, False, True), "W of C^T"),
        ((True, True, True), "U of A^T, V of B^T, W of C^T"),
        ((True, False, False), "U of A^T"),
    ],
)
@pytest.mark.parametrize("per_column", [False, True])
def test_conventions_are_found_on_an_unsymmetric_shape(flips: tuple[bool, ...], name: str, per_column: bool) -> None:
    algorithm = definition(2, 3, 4)
    factors = {}
    for letter, factor, flip, (rows, columns) in zip("UVW", algorithm.exact or (), flips, ((2, 3), (3, 4), (2, 4)), strict=True):
        matrix = factor.real.reshape(-1, rows, columns)
        matrix = (matrix.transpose(0, 2, 1) if flip else matrix).reshape(len(matrix), -1)
        factors[letter] = (matrix.T if per_column else matrix).tolist()
    found = imported({"n": 2, "m": 3, "p": 4, **factors})
    assert found.id == algorithm.id
    assert found.provenance["convention"] == name


def test_lower_case_factors_and_z2() -> None:
    parts = {letter: np.abs(np.array(document()[letter.upper()])).tolist() for letter in "uvw"}
    algorithm = imported({"n": [2, 2, 2], "m": 7, "z2": True, **parts})
    assert (algorithm.ring, algorithm.rank) == ("Z2", 7)


def test_fractions_complex_pairs_and_floats() -> None:
    doubled = [[2 * value for value in row] for row in STRASSEN_U]
    halves = [["1/2" if value == 1 else "-1/2" if value == -1 else 0 for value in row] for row in STRASSEN_V]
    assert imported(document(U=doubled, V=halves, ring="Q")).ring == "Z[1/2]"
    turned = [[[0, value] for value in row] for row in STRASSEN_U]
    back = [[[0, -value] for value in row] for row in STRASSEN_V]
    assert imported(document(U=turned, V=back, ring="C")).ring == "Q(i)"
    floats = [[0.5 * value for value in row] for row in STRASSEN_U]
    assert imported(document(U=floats, V=(2 * np.array(STRASSEN_V)).tolist(), ring="Q")).is_exact
    rough = [[value * 0.1 for value in row] for row in STRASSEN_U]
    algorithm = imported(document(U=rough, V=(10 * np.array(STRASSEN_V)).tolist(), ring="R"))
    assert (algorithm.ring, algorithm.error < 1e-28) == ("R", True)


def test_an_approximate_algorithm_must_say_so() -> None:
    cut = {letter: document()[letter][:6] for letter in "UVW"}
    with pytest.raises(InputError, match=r"not exact over Z.*approximate"):
        imported({"n": [2, 2, 2], **cut})
    assert imported({"n": [2, 2, 2], "ring": "R", **cut}).error > 0


@pytest.mark.parametrize("per_column", [False, True])
def test_an_approximate_algorithm_whose_rank_is_its_dims_is_taken_either_way(per_column: bool) -> None:
    random = np.random.default_rng(0)
    bases = [np.linalg.qr(random.normal(size=(2, 2)))[0] for _ in range(3)]
    cut = drop(sandwich(definition(2, 2, 2), *bases), [1, 3, 4, 6])  # half of the products, 4 x 4: the shapes do not tell
    factors = {letter: (factor.T if per_column else factor).tolist() for letter, factor in zip("UVW", (cut.U, cut.V, cut.W), strict=True)}
    found = imported({"n": [2, 2, 2], **factors})
    assert found.error == pytest.approx(0.5)
    np.testing.assert_allclose(found.U, cut.U)


def _with(key: str, value: object) -> Callable[[dict], None]:
    return lambda plain: plain.__setitem__(key, value)


HOSTILE: list[tuple[str, Callable[[dict], None], str]] = [
    ("sizes", _with("n", [2, 2]), "sizes must be given"),
    ("huge", _with("n", [9999, 2, 2]), "must be 1..4096"),
    ("true", _with("n", [True, 2, 2]), "sizes must be given"),
    ("other shape", _with("n", [2, 2, 3]), "they must be r x 4, r x 6, r x 6"),
    ("no matrix", _with("U", 3), "U must be a matrix"),
    ("ragged", _with("U", [[1, 0, 0, 1], [1]]), "rows have different lengths"),
    ("rank", _with("V", STRASSEN_V[:6]), "shapes"),
    ("text", lambda plain: plain["W"][0].__setitem__(0, "one"), "W: a coefficient must be"),
    ("huge number", lambda plain: plain["W"][0].__setitem__(0, 2**60), "W: a coefficient must be"),
    ("zero below", lambda plain: plain["W"][0].__setitem__(0, "1/0"), "denominator is 0"),
    ("null", lambda plain: plain["W"][0].__setitem__(0, None), "W: a coefficient must be"),
    ("triple", lambda plain: plain["W"][0].__setitem__(0, [1, 2, 3]), "a pair"),
    ("wrong", lambda plain: plain["W"][0].__setitem__(0, -1), "not exact over Z"),
    ("ring", _with("ring", "Z4"), "unknown ring"),
    ("ring of another kind", _with("ring", ["Z"]), "unknown ring"),
    ("small ring", lambda plain: plain["W"][0].__setitem__(0, "1/2"), "outside the ring Z"),
    ("fraction mod 2", lambda plain: (plain.__setitem__("ring", "Z2"), plain["W"][0].__setitem__(0, "1/2"))[0], "needs integer"),
    ("floats over Z", lambda plain: plain["W"][0].__setitem__(0, 0.1), "holds floating-point"),
]


@pytest.mark.parametrize(("change", "message"), [entry[1:] for entry in HOSTILE], ids=[entry[0] for entry in HOSTILE])
def test_hostile_documents(change: Callable[[dict], None], message: str) -> None:
    plain = copy.deepcopy(document())
    change(plain)
    with pytest.raises(InputError, match=message) as caught:
        imported(plain)
    assert "\n" not in str(caught.value)


def test_denominators_that_multiply_up_are_refused() -> None:
    primes = [value for value in range(10**6, 10**6 + 400) if all(value % divisor for divisor in range(2, 1100))]
    plain = copy.deepcopy(document(ring="Q"))
    for index, prime in enumerate(primes[:20]):
        plain["W"][index // 4][index % 4] = f"1/{prime}"
    with pytest.raises(InputError, match="common denominator"):
        imported(plain)


def test_the_command_imports_and_answers_bad_files_in_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plain = {"n": [3, 3, 3], "source": "somebody's collection", "licence": "MIT"}
    factors = {letter: factor.real.tolist() for letter, factor in zip("UVW", cyclic(laderman()).exact or (), strict=True)}
    good, bad, deep = tmp_path / "good.json", tmp_path / "bad.json", tmp_path / "deep.json"
    good.write_text(json.dumps({**plain, **factors}))
    bad.write_text(json.dumps({**plain, **factors, "W": []}))
    deep.write_text('{"n":' + "[" * 100_000)
    assert main(["import", str(good), "--keep-equivalent"]) == 0
    name = capsys.readouterr().out.strip()
    stored = open_registry().get(name).algorithm
    assert stored.id == cyclic(laderman()).id == read_all(good)[0].algorithm.id
    assert (stored.provenance["source"], stored.provenance["licence"]) == ("somebody's collection", "MIT")
    for path in (bad, deep):
        assert main(["import", str(path)]) == 2
        assert len(capsys.readouterr().err.splitlines()) == 1
