"""Other programs' formats: round trips keep the id, conventions and sizes are found, damaged files are refused in one line."""

from __future__ import annotations

import io
import random
import re
from pathlib import Path

import numpy as np
import pytest
from exchange_samples import (
    C_OF_TRANSPOSE,
    COLUMN_MAJOR,
    CONVENTIONS,
    FOREIGN,
    ROW_MAJOR,
    files_of,
    gaussian_strassen,
    mod_3,
    over,
    rough,
    tall,
    winograd_like,
)
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from samples import definition, gaussian, karatsuba, noisy, strassen, strassen_mod_2

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.constructions.classical import laderman
from stlsearch.constructions.transforms import permute_to, sandwich
from stlsearch.errors import InputError
from stlsearch.exact import ExactMatrix
from stlsearch.registry.formats import EXPORTERS, READERS, format_of, read_all

INTEGERS = [strassen(), laderman(), winograd_like(), definition(1, 1, 1), definition(2, 1, 3), definition(1, 5, 2)]


@pytest.mark.parametrize("name", FOREIGN)
def test_integer_algorithms_come_back_with_their_id(name: str, tmp_path: Path) -> None:
    for algorithm in [*INTEGERS, tall(), permute_to(tall(), (4, 2, 3)), permute_to(tall(), (3, 4, 2))]:
        (read,) = read_all(files_of(algorithm, name, tmp_path))
        assert read.algorithm.id == algorithm.id, algorithm.name
        assert (read.format, read.algorithm.ring) == (name, "Z")
        if algorithm.target.slug in ("2x3x4", "4x2x3", "3x4x2"):  # of others several conventions may be the same
            assert read.remarks[0] == CONVENTIONS.get(name, C_OF_TRANSPOSE)
            assert read.algorithm.provenance["convention"] == read.remarks[0]


@pytest.mark.parametrize("name", FOREIGN)
@given(seed=st.integers(0, 2**32))
@settings(max_examples=5, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_basis_order_and_sign_of_terms_come_back(name: str, seed: int, tmp_path: Path) -> None:
    generator = np.random.default_rng(seed)
    shears = []
    for _ in range(3):
        lower, upper = np.eye(2, dtype=int), np.eye(2, dtype=int)
        lower[1, 0], upper[0, 1] = generator.integers(-2, 3, size=2)
        shears.append((lower @ upper).tolist())
    U, V, W = (factor.real for factor in sandwich(strassen(), *shears).exact or ())
    order, sign = generator.permutation(7), generator.choice([-1, 1], size=(7, 1))
    algorithm = BilinearAlgorithm.from_exact(strassen().target, (sign * U)[order], V[order], (sign * W)[order])
    assert read_all(files_of(algorithm, name, tmp_path))[0].algorithm.id == algorithm.id


@pytest.mark.parametrize("name", FOREIGN)
def test_algorithms_modulo_a_prime_come_back(name: str, tmp_path: Path) -> None:
    (read,) = read_all(files_of(strassen_mod_2(), name, tmp_path))
    assert read.algorithm.id == strassen_mod_2().id
    assert name == "perminov-json" or "exact modulo 2 only: over Z2" in read.remarks
    if name == "perminov-json":
        with pytest.raises(InputError, match="over Z2, Z and Q only"):
            EXPORTERS[name].write(mod_3())
        return
    path = files_of(mod_3(), name, tmp_path)
    assert read_all(path, ring="Z3")[0].algorithm.id == mod_3().id
    with pytest.raises(InputError, match="not exact over Z: "):
        read_all(path)


@pytest.mark.parametrize("name", FOREIGN)
@pytest.mark.parametrize("denominator", [4, 3])
def test_fractions_come_back_where_the_format_holds_them(name: str, denominator: int, tmp_path: Path) -> None:
    algorithm = over(denominator)
    assert algorithm.ring == {4: "Z[1/2]", 3: "Q"}[denominator]
    if name == "alphatensor" or (name == "alphaevolve" and denominator == 3):
        with pytest.raises(InputError, match=f"{name} holds .* only, and {re.escape(algorithm.name)} has") as caught:
            EXPORTERS[name].write(algorithm)
        assert "\n" not in str(caught.value)
        return
    path = files_of(algorithm, name, tmp_path)
    assert read_all(path)[0].algorithm.id == algorithm.id
    with pytest.raises(InputError, match=r"outside the ring Z that is asked for"):
        read_all(path, ring="Z")
    with pytest.raises(InputError, match=r"needs integer coefficients"):
        read_all(path, ring="Z2")


@pytest.mark.parametrize("name", FOREIGN)
def test_complex_and_approximate_ones_where_the_format_holds_them(name: str, tmp_path: Path) -> None:
    exact = gaussian_strassen()
    assert exact.ring == "Q(i)"
    for algorithm, holds in (
        (exact, ("maple", "alphaevolve")),
        (rough(1e-3), ("alphaevolve",)),
        (rough(1e-3j), ("alphaevolve",)),
    ):
        if name not in holds:
            with pytest.raises(InputError, match=f"{name} holds"):
                EXPORTERS[name].write(algorithm)
            continue
        (read,) = read_all(files_of(algorithm, name, tmp_path))
        assert read.algorithm.ring == algorithm.ring
        if algorithm.is_exact:
            assert read.algorithm.id == algorithm.id
        else:
            assert read.algorithm.error == pytest.approx(algorithm.error)
            assert any("approximate: relative squared error" in remark for remark in read.remarks)


@pytest.mark.parametrize("name", FOREIGN)
def test_only_matrix_products_are_written(name: str) -> None:
    for algorithm in (karatsuba(), gaussian()):
        with pytest.raises(InputError, match="for matrix products only"):
            EXPORTERS[name].write(algorithm)


@pytest.mark.parametrize("name", FOREIGN)
def test_the_content_tells_the_format_without_an_ending(name: str, tmp_path: Path) -> None:
    path = files_of(tall(), name, tmp_path)
    if name not in ("plinopt", "alphaevolve"):  # PLinOpt's three files belong together by name
        path = path.rename(tmp_path / "renamed.txt")
    assert read_all(path)[0].format == name
    assert read_all(path, name)[0].format == name


@pytest.mark.parametrize("name", FOREIGN)
def test_a_wrong_coefficient_is_named(name: str, tmp_path: Path) -> None:
    algorithm = tall()
    U, V, W = algorithm.exact or ()
    wrong = W.real.copy()
    wrong[0, int(np.flatnonzero(wrong[0])[0])] *= -1
    broken = BilinearAlgorithm.from_exact(algorithm.target, U, V, ExactMatrix.make(wrong), verify=False)
    path = files_of(broken, name, tmp_path)
    convention = re.escape(CONVENTIONS.get(name, C_OF_TRANSPOSE))
    pattern = rf"x.*: not exact over Z: c\d\d gets a\d\d\*b\d\d with coefficient .*, expected \d; \d+ coefficients? wrong in .*{convention}"
    with pytest.raises(InputError, match=pattern) as caught:
        read_all(path)
    assert "\n" not in str(caught.value)
    assert read_all(path, ring="R")[0].algorithm.error > 0


@pytest.mark.parametrize("name", FOREIGN)
def test_damaged_files_are_refused_in_one_line_or_right_by_chance(name: str, tmp_path: Path) -> None:
    generator = random.Random(name)
    words = [
        b"1e999",
        b"nan",
        b"9" * 30,
        b"1" + b"0" * 9000,
        b"{" * 999,
        b"[" * 999,
        b"1/0",
        b"\0",
        b"\xff",
        b"1j",
        b"a11",
        b"-" * 999,
        b"#",
        b"",
    ]
    path = files_of(strassen(), name, tmp_path)
    whole = path.read_bytes()
    for _ in range(80):
        data = bytearray(whole)
        place = generator.randrange(len(data))
        match generator.randrange(4):
            case 0:
                data[place : place + generator.randrange(3)] = generator.choice(words)
            case 1:
                del data[place:]
            case 2:
                data[place] ^= 1 << generator.randrange(8)
            case 3:
                del data[place : place + generator.randrange(1, 20)]
        path.write_bytes(data)
        for format_name in (None, name):
            try:
                found = read_all(path, format_name)
            except InputError as error:
                message = str(error)
                assert message.startswith(f"{path}: "), message
                assert len(message.splitlines()) == 1, message
                assert len(message) < 600, message
            else:
                assert all(read.algorithm.is_exact or read.algorithm.ring in ("R", "C") for read in found)


def test_several_algorithms_in_one_file(tmp_path: Path) -> None:
    pair = [tall(), strassen()]
    single = [EXPORTERS["perminov-txt"].write(algorithm).decode() for algorithm in pair]
    (tmp_path / "pool.txt").write_text("2\n" + "".join(single))
    found = read_all(tmp_path / "pool.txt")
    assert [read.algorithm.id for read in found] == [algorithm.id for algorithm in pair]
    assert [read.label for read in found] == ["scheme 1", "scheme 2"]
    (tmp_path / "pool.txt").write_text("3\n" + "".join(single))
    with pytest.raises(InputError, match="3 algorithm"):
        read_all(tmp_path / "pool.txt")

    archives = [np.load(io.BytesIO(EXPORTERS["alphatensor"].write(algorithm)), allow_pickle=True) for algorithm in pair]  # our own
    np.savez(tmp_path / "all.npz", allow_pickle=True, **{key: archive[key] for archive in archives for key in archive})
    assert {read.algorithm.id for read in read_all(tmp_path / "all.npz")} == {algorithm.id for algorithm in pair}

    rows = [np.load(io.BytesIO(EXPORTERS["flip-cpd"].write(algorithm)))[0] for algorithm in (strassen(), winograd_like())]
    np.save(tmp_path / "rows.npy", np.stack(rows))
    assert [read.algorithm.id for read in read_all(tmp_path / "rows.npy")] == [strassen().id, winograd_like().id]


def test_sizes_are_deduced_said_and_may_be_given(tmp_path: Path) -> None:
    algorithm = tall()
    for name in ("fast-matmul", "plinopt", "alphaevolve"):
        path = files_of(algorithm, name, tmp_path)
        assert "2x3x4 deduced from factors of 6, 12 and 8 entries" in read_all(path)[0].remarks
        assert read_all(path, shape=(2, 3, 4))[0].algorithm.id == algorithm.id
        with pytest.raises(InputError, match="not those of 3x2x4"):
            read_all(path, shape=(3, 2, 4))
    path = files_of(algorithm, "flip-cpd", tmp_path)
    assert read_all(path)[0].remarks[1] == "2x3x4 found by trying sizes of 572 coefficients"
    assert read_all(path, shape=(2, 3, 4))[0].remarks == (ROW_MAJOR,)
    with pytest.raises(InputError, match="no scheme of 3x3x3"):
        read_all(path, shape=(3, 3, 3))


# The document

PAGE = (Path(__file__).parent.parent / "docs" / "exchange.md").read_text(encoding="utf-8")


def test_the_exchange_matrix_names_every_format_and_what_it_does() -> None:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in PAGE.splitlines() if line.startswith("| `")]
    matrix = {row[0].strip("`"): row for row in rows}
    assert set(matrix) == set(EXPORTERS) | set(READERS)
    for name, (_, ending, imports, exports, verified, coefficients, layout) in matrix.items():
        assert (imports == "yes", exports == "yes") == (name in READERS, name in EXPORTERS), name
        assert (verified == "yes") == (name in READERS), name
        assert ending.strip("`") == (EXPORTERS[name].extension or "any"), name
        if name in FOREIGN:
            assert layout == {COLUMN_MAJOR: "C, column-major", ROW_MAJOR: "C"}.get(CONVENTIONS.get(name, ""), "C^T"), name
            holds = {
                "integers": (strassen(),),
                "fractions": (strassen(), over(4), over(3)),
                "Gaussian rationals": (strassen(), over(3), gaussian_strassen()),
                "binary fractions, complex, floats": (strassen(), over(4), gaussian_strassen(), noisy()),
            }[coefficients]
            for algorithm in (strassen(), over(4), over(3), gaussian_strassen(), noisy()):
                if algorithm in holds:
                    EXPORTERS[name].write(algorithm)
                elif algorithm.ring != "Z[1/2]":
                    with pytest.raises(InputError):
                        EXPORTERS[name].write(algorithm)


def test_endings_name_the_first_format_that_has_them() -> None:
    endings = {".json": "json", ".npz": "npz", ".mpl": "maple", ".exp": "exp", ".m": "kauers", ".txt": "perminov-txt", ".npy": "flip-cpd"}
    assert {ending: format_of(Path(f"x{ending}")) for ending in endings} == endings
    assert format_of(Path("x")) is None
