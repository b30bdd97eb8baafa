"""Each format of other programs as people write it, and its faults, named."""

from __future__ import annotations

import io
import json
import pickle
import re
import zipfile
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from exchange_samples import (
    ROW_MAJOR,
    files_of,
    over,
    tall,
)
from samples import definition, strassen, strassen_mod_2

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats import EXPORTERS, plinopt, read_all
from stlsearch.registry.formats.coefficients import coefficient
from stlsearch.registry.formats.nested import parse_nested
from stlsearch.registry.formats.pickled import read_object_array


def test_alphaevolve_text_as_people_write_it(tmp_path: Path) -> None:
    U, V, W = (
        np.array(factor).T for factor in (strassen().U, strassen().V, strassen().W.reshape(7, 2, 2).transpose(0, 2, 1).reshape(7, 4))
    )
    path = tmp_path / "found.py"
    text = f"""
# A comment, and code that is not run.
import numpy as np
from nowhere import nothing

size: tuple = (2, 2, 2)
names = [["a"], ["b"], ["c"]]
raise SystemExit("run")

decomposition = (
    np.array({(0.5 * U).tolist()}, dtype=np.complex64),
    jnp.array({(2j * V).tolist()!r}),
    {(-1j * W).tolist()},  # a plain list
)
"""
    path.write_text(text)
    (read,) = read_all(path)
    assert (read.algorithm.ring, read.algorithm.rank, read.label) == ("Q(i)", 7, "decomposition")
    path.write_text(f"U = np.array({U.T.tolist()})\nV = {V.T.tolist()}\nW = np.asarray({W.T.tolist()})\n")  # a row per product
    assert read_all(path)[0].algorithm.id == strassen().id
    path.write_text("x = (np.array([[__import__('os').system('true')]]), np.array([[1]]), np.array([[1]]))")
    with pytest.raises(InputError, match="no decomposition found"):
        read_all(path)
    path.write_bytes(EXPORTERS["python"].write(strassen()))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="export json instead"):
        read_all(path)


def test_a_pickle_is_never_run(tmp_path: Path) -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("a pickle was run",))

    path = tmp_path / "x.npz"
    for content in ([Bomb(), 1, 2], [np.array([["a"]])] * 3, ["text", "text", "text"], [[1], [2], [3]]):
        factors = np.empty(3, dtype=object)
        factors[:] = content
        np.savez(path, allow_pickle=True, **{"2,2,2": factors})
        with pytest.raises(InputError, match=r"key '2,2,2': (it holds pickled Python objects|its arrays hold 'U1')"):
            read_all(path)
    one = np.empty(1, dtype=object)
    one[0] = np.ones((4, 7), dtype=int)
    np.savez(path, allow_pickle=True, **{"2,2,2": one})
    with pytest.raises(InputError, match="expected three factors"):
        read_all(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("2,2,2.npy", "w") as member:
        for _ in range(65):
            member.write(bytes(2**20))
    with pytest.raises(InputError, match="unpacks to more than"):
        read_all(path)


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_of_objects_are_read_without_unpickling(protocol: int) -> None:
    content = [np.arange(6).reshape(2, 3), np.asfortranarray(np.arange(8, dtype="i1").reshape(4, 2)), np.arange(4, dtype=">i4")]
    factors = np.empty(3, dtype=object)
    factors[:] = content
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, {"descr": "|O", "fortran_order": False, "shape": (3,)})
    stream.write(pickle.dumps(factors, protocol))
    for got, wanted in zip(read_object_array(stream.getvalue()), content, strict=True):
        np.testing.assert_array_equal(got, wanted)
    for end in range(100, len(stream.getvalue()) - 1, 7):
        with pytest.raises(InputError):
            read_object_array(stream.getvalue()[:end])


def reduced(algorithm: BilinearAlgorithm) -> dict:
    """A document of fresh variables: the first two terms of every long sum are one, and one of them is used by another."""
    n, m, p = algorithm.target.shape or ()
    U, V, W = (factor.real for factor in algorithm.exact or ())
    rows = {"u": U, "v": V, "w": W.reshape(-1, n, p).transpose(2, 1, 0).reshape(n * p, -1)}
    document: dict = {"n": [n, m, p], "m": algorithm.rank, "z2": False}
    for key, matrix in rows.items():
        fresh: list = []
        sums = []
        for row in matrix.tolist():
            terms = [{"index": index, "value": value} for index, value in enumerate(row) if value]
            while len(terms) > 1:
                fresh.append(terms[:2])
                terms = [{"index": matrix.shape[1] + len(fresh) - 1, "value": 1}, *terms[2:]]
            sums.append(terms)
        document |= {f"{key}_fresh": fresh, key: sums}
    return document


def test_reduced_json_is_expanded(tmp_path: Path) -> None:
    path = tmp_path / "x_reduced.json"
    for algorithm in (strassen(), tall()):
        path.write_text(json.dumps(reduced(algorithm)))
        (read,) = read_all(path)
        assert (read.algorithm.id, read.format) == (algorithm.id, "perminov-json")
    whole = reduced(strassen())
    changes = {
        "u must be a list of 7 sums": {"u": whole["u"][:3]},
        "an index must be an integer from 0 to 3": {"u_fresh": [[{"index": 4, "value": 1}]]},
        "a coefficient must be": {"u": [[{"index": 0, "value": None}]] * 7},
        "grow beyond 2": {"v_fresh": [[{"index": 0, "value": 2**40}], [{"index": 4, "value": 2**40}]]},
        '"m" must be the rank': {"m": "seven"},
        "must be a list of": {"w": [3] * 4},
    }
    for message, change in changes.items():
        path.write_text(json.dumps({**whole, **change}))
        with pytest.raises(InputError, match=message):
            read_all(path)


def test_flip_graph_text_as_people_write_it(tmp_path: Path) -> None:
    path = tmp_path / "x.exp"
    lines = EXPORTERS["exp"].write(strassen()).decode().splitlines()  # type: ignore[union-attr]
    U, V, W = strassen().exact or ()
    first = np.arange(7)[:, None] == 0
    scaled = BilinearAlgorithm.from_exact(
        strassen().target, np.where(first, 2 * U.real, U.real), V, [[Fraction(x) / 2 for x in W.real[0].tolist()], *W.real[1:].tolist()]
    )
    variants = [
        (strassen(), [line.replace("+", " + ").replace("-", " - ") for line in lines]),
        (strassen(), [line.replace("+", "- -") for line in lines]),
        (strassen(), ["-(" + lines[0][1:].replace("(c11", "-1*(c11"), *lines[1:]]),
        (scaled, ["2*" + lines[0].replace("c11+c22", "1/2 c11 + 0.5*c22"), *lines[1:]]),
        (strassen(), ["# a comment", "", *lines]),
    ]
    for wanted, variant in variants:
        path.write_text("\n".join(variant))
        assert read_all(path)[0].algorithm.id == read_all(path, "exp")[0].algorithm.id == wanted.id
    swapped = re.sub(r"c(\d)(\d)", r"c\2\1", EXPORTERS["exp"].write(tall()).decode())  # type: ignore[union-attr]
    path.write_text(swapped)
    assert (read_all(path)[0].algorithm.id, read_all(path)[0].remarks) == (tall().id, (ROW_MAJOR,))
    unsigned = [line.replace("-", "+").replace("(+", "(") for line in lines]
    (tmp_path / "222-7-mod2.exp").write_text("\n".join(unsigned))
    assert read_all(tmp_path / "222-7-mod2.exp")[0].algorithm.id == strassen_mod_2().id
    large = definition(1, 11, 2)  # indices of two digits
    path.write_bytes(EXPORTERS["exp"].write(large))  # type: ignore[arg-type]
    assert read_all(path)[0].algorithm.id == large.id
    for text, message in (
        ("(a11)*(b11)*(c11)*(c11)", "two sums of c"),
        ("(a11)*(b11)*(2)\n", "expected a sum of a"),
        ("(a11+b11)*(b11)*(c11)", "a sum of a and b"),
        ("(a11 a11)*(b11)*(c11)", "is no term"),
        ("(a(0,1))*(b11)*(c11)", "count from 1"),
        ("(a11))*(b11)*(c11)", "without its"),
        ("(a12)*(b11)*(c33)", "indices of a, b and c"),
        ("(a(900,900))*(b(900,900))*(c(900,900))", "810000"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_all(path, "exp")


def test_comments_and_broken_lines(tmp_path: Path) -> None:
    (tmp_path / "x.m").write_text("(* found\nby hand *)\n" + EXPORTERS["kauers"].write(tall()).decode() + ";\n")  # type: ignore[union-attr]
    assert read_all(tmp_path / "x.m", "kauers")[0].algorithm.id == tall().id
    text = EXPORTERS["maple"].write(tall()).decode()  # type: ignore[union-attr]
    (tmp_path / "x.mpl").write_text("# of a catalogue\n" + "\\\n".join(text[start : start + 77] for start in range(0, len(text), 77)))
    assert read_all(tmp_path / "x.mpl")[0].algorithm.id == tall().id


def test_faults_of_other_formats_are_named(tmp_path: Path) -> None:
    cases = [
        ("kauers", "{{{{1}}, {{1}}}}", "product 1 must be three matrices"),
        ("kauers", "{" * 1_000_000, "nested more than"),
        ("kauers", "{{{{1}}, {{1}}, {{x}}}}", "product 1: 'x' is no coefficient"),
        ("kauers", "{{{{1, 2}}, {{1}}, {{1}}}}", "must be n x m, m x p and p x n"),
        ("maple", "TriadSet([Triad([Matrix(2, 2, [[1]]), Matrix(1, 1, [[1]]), Matrix(1, 1, [[1]])])]):", "matrix 1 is not 2 x 2"),
        ("maple", "TriadSet([Triad([Matrix(1, 1, [[1]]), Matrix(1, 1, [[1]])])]):", "expected three matrices a product"),
        ("maple", "TriadSet([Triad([Matrix(1, 1, [[l]]), Matrix(1, 1, [[1/l]]), Matrix(1, 1, [[1]])])]):", "'l' is no coefficient"),
        ("perminov-txt", "2 2 2 7\n1 2\n1\n1\n", "line 2: U must be 7 x 4 numbers"),
        ("perminov-txt", "2 2 2 9999999\n1\n1\n1\n", "rank 9999999 is not valid"),
        ("perminov-txt", "1 1 1 1\n1 0\n1 1\n1\n", "line 2: 1 0 is no pair"),
        ("perminov-json", '{"n": [1, 1, 1], "m": 1}', "keys n, m, u, v and w"),
        ("perminov-json", "[1]", "found a list"),
        ("fast-matmul", "1\n#\n1\n", "three blocks"),
        ("fast-matmul", "x\n#\nxi\n#\n1\n", "family with a parameter eps"),
        ("alphatensor", "no archive", "not a readable npz archive"),
        ("flip-cpd", "no array", "not a readable npy array"),
        ("alphaevolve", "x = (", "not Python text"),
        ("alphaevolve", "x = " + "-" * 100_000 + "1", "signs in a row"),
    ]
    path = tmp_path / "x"
    for name, text, message in cases:
        path.write_text(text)
        with pytest.raises(InputError, match=message) as caught:
            read_all(path, name)
        assert "\n" not in str(caught.value)
    np.save(tmp_path / "x.npy", np.ones((1, 6), dtype=np.uint64))
    with pytest.raises(InputError, match="packed into bits"):
        read_all(tmp_path / "x.npy")
    np.save(tmp_path / "x.npy", np.full((1, 26), 3))
    with pytest.raises(InputError, match="fit no matrix product"):
        read_all(tmp_path / "x.npy")


def test_sparse_matrices_are_found_by_each_of_their_names(tmp_path: Path) -> None:
    path = files_of(over(3), "plinopt", tmp_path, "strassen")
    for name in ("strassen_L.sms", "strassen_R.sms", "strassen_P.sms", "strassen"):
        assert read_all(tmp_path / name)[0].algorithm.id == over(3).id
    whole = path.read_text()
    for text, message in (
        (whole.replace("0 0 0\n", ""), "strassen_L.sms: it ends without"),
        (whole.replace("7 4 R", "7 5 R"), "of no matrix product"),
        (whole.replace("7 4 R", "8 4 R"), "all must be the rank"),
        ("# of rows\n7 R\n", "expected a first line"),
        (whole.replace("7 4 R\n", "7 4 R\n8 1 1\n"), "line 2: row 8 and column 1 lie outside"),
        (whole.replace("7 4 R\n", "7 4 R\n1 1 1\n1 1 1\n"), "given twice"),
        (whole.replace("7 4 R\n", "7 4 R\n1 1 1/0\n"), "denominator 0"),
    ):
        path.write_text(text)
        with pytest.raises(InputError, match=message):
            read_all(path)
    path.unlink()
    with pytest.raises(InputError, match=r"strassen_L\.sms, which belongs to it, cannot be read"):
        read_all(tmp_path / "strassen_R.sms")
    with pytest.raises(InputError, match=r"must end in L\.sms"):
        plinopt.paths(Path("x.sms"))


def test_coefficients_and_nested_lists() -> None:
    texts = {"-3/8": Fraction(-3, 8), "0.5": Fraction(1, 2), "1e-1": 0.1, "-I/2": (0, Fraction(-1, 2)), "1/2*I": (0, Fraction(1, 2))}
    texts |= {"0.5-0.25j": (Fraction(1, 2), Fraction(-1, 4)), "7": 7, "1-1": 0, "2j": (0, 2)}
    for text, value in texts.items():
        assert coefficient(text) == value
    for text in ("", "x", "1//2", "1/0", "1e999", "nan", "9" * 20, "1 2", "j2", "+", "1" * 300):
        with pytest.raises(InputError):
            coefficient(text)
    assert parse_nested("{{1, -2}, {}, {{x}}}", "{}") == [["1", "-2"], [], [["x"]]]
    for text in ("", "1", "{", "}", "{1,}", "{,1}", "{1}{2}", "{1 {2}}", "{1}, {2}"):
        with pytest.raises(InputError):
            parse_nested(text, "{}")
