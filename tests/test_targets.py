"""Targets other than matrix products: as text, from files, exact algorithms for them, and fits."""

from __future__ import annotations

import io
import json
import zipfile
from pathlib import Path

import numpy as np
import pytest

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands import main
from stlsearch.constructions.classical import gram, standard_terms
from stlsearch.constructions.known import best_exact
from stlsearch.errors import InputError
from stlsearch.fit import fit
from stlsearch.registry import codec
from stlsearch.registry.store import open_registry
from stlsearch.target_text import parse_target
from stlsearch.targets import Target

NAMED = {
    "matmul:2x3x4": Target.matmul(2, 3, 4),
    "4": Target.matmul(4, 4, 4),
    "polymul:4": Target.make("polymul", {"m": 4, "n": 4}),
    "polymul:3x2": Target.make("polymul", {"m": 3, "n": 2}),
    "cyclic:5": Target.make("cyclic", {"n": 5}),
    "complex": Target.make("complex", {}),
    "aat:3": Target.make("aat", {"n": 3, "m": 3}),
    "abt:2x3": Target.make("abt", {"n": 2, "m": 3}),
}


@pytest.mark.parametrize(("text", "target"), NAMED.items())
def test_text_and_slug_name_the_same_target(text: str, target: Target) -> None:
    assert parse_target(text) == target == parse_target(target.slug)


@pytest.mark.parametrize(
    "text", ["", "polymul", "polymul:0", "polymul:2x3x4", "cyclic:2x3", "complex:2", "foo:3", "matmul:", "aat:-1", "aat:99", "4x4"]
)
def test_bad_text(text: str) -> None:
    with pytest.raises(InputError) as caught:
        parse_target(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("kind", ["aat", "abt"])
def test_both_gram_targets_give_the_upper_triangle_of_a_times_its_transpose(kind: str) -> None:
    a = np.random.default_rng(0).normal(size=(3, 2))
    target = Target.make(kind, {"n": 3, "m": 2})
    upper = (a @ a.T)[np.triu_indices(3)]
    np.testing.assert_allclose(np.einsum("ijk,i,j->k", target.tensor, a.ravel(), a.ravel()), upper)
    assert standard_terms(target).rank == {"aat": 18, "abt": 12}[kind] == target.trivial_rank
    assert [target.variable(2, index) for index in range(6)] == ["c11", "c12", "c13", "c22", "c23", "c33"]
    assert target.variable(0, 3) == "a22"


def test_aat_is_symmetric_and_squares_compute_it() -> None:
    target = Target.make("aat", {"n": 3, "m": 2})
    assert np.array_equal(target.tensor, target.tensor.transpose(1, 0, 2))
    assert target.rational is not None
    assert target.rational[1] == 2
    squares = gram(3, 2)
    assert (squares.target, squares.rank, squares.ring) == (target, 12, "Z[1/2]")
    assert squares.valid_rings() == ["Z[1/2]", "Q", "Q(i)"]
    assert np.array_equal(squares.U, squares.V)
    assert best_exact(target).rank == 12
    assert gram(1, 2).rank == 2


@pytest.mark.parametrize(
    ("text", "rank"), [("complex", 3), ("polymul:2", 3), ("polymul:4", 7), ("cyclic:3", 4), ("cyclic:5", 8), ("aat:2", 6)]
)
def test_known_exact_algorithms_come_back(text: str, rank: int) -> None:
    result = fit(parse_target(text), rank)
    assert (result.status, result.error, result.algorithm.rank) == ("exact", 0.0, rank)


@pytest.mark.parametrize(("text", "rank"), [("complex", 3), ("polymul:2", 3), ("cyclic:3", 4), ("aat:2", 6), ("abt:2", 6)])
def test_the_fit_finds_them_from_random_starts(text: str, rank: int) -> None:
    result = fit(parse_target(text), rank, init="random", restarts=8, iterations=300)
    assert result.error < 1e-18
    assert result.amplification < 20


def test_below_the_exact_rank_it_approximates() -> None:
    result = fit(parse_target("polymul:4"), 6, restarts=8, iterations=200)
    assert 0 < result.error < 0.08
    assert result.amplification < 1001


def save(path: Path, **arrays: np.ndarray) -> Path:
    np.savez(path, **arrays)
    return path


def test_tensors_from_files(tmp_path: Path) -> None:
    karatsuba = Target.make("polymul", {"m": 2, "n": 2}).tensor
    path = save(tmp_path / "t.npz", whole=karatsuba.astype(np.uint8), half=karatsuba / 2, real=np.sqrt(2) * karatsuba)
    whole, half, real = (parse_target(f"{path}:{name}") for name in ("whole", "half", "real"))
    assert np.array_equal(whole.tensor, karatsuba)
    assert whole.tensor.dtype == np.int64
    assert parse_target(str(save(tmp_path / "one.npz", x=karatsuba.astype(float)))) == whole
    assert standard_terms(whole).ring == "Z"
    assert standard_terms(half).ring == "Z[1/2]"
    assert real.rational is None
    definition = standard_terms(real)
    assert (definition.ring, definition.error < 1e-30) == ("R", True)
    with pytest.raises(InputError, match="nothing is exact"):
        BilinearAlgorithm.from_exact(real, [[1, 0]], [[1, 0]], [[1, 0, 0]])
    result = fit(real, 3, restarts=8, iterations=200)
    assert result.error < 1e-18
    for algorithm in (standard_terms(half), definition, result.algorithm):
        again = codec.loads(codec.dumps(algorithm))
        assert (again.id, again.target) == (algorithm.id, algorithm.target)


def test_equal_tensors_have_one_form() -> None:
    tensor = np.zeros((2, 1, 2))
    tensor[1, 0, 1], tensor[0, 0, 0] = 3.0, 0.1
    again = json.loads(json.dumps(Target.explicit(tensor).describe()))
    assert again["params"]["entries"] == [[0, 0, 0, 0.1], [1, 0, 1, 3]]
    assert isinstance(again["params"]["entries"][1][3], int)
    assert Target.make(again["kind"], again["params"]) == Target.explicit(tensor)


class _Bomb:
    def __reduce__(self) -> tuple:
        return (pytest.fail, ("a pickle was run",))


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.array([_Bomb()], dtype=object), "not a readable npz"),
        (np.full((2, 2, 2), np.nan), "NaN or infinite"),
        (np.full((2, 2, 2), np.inf), "NaN or infinite"),
        (np.ones((2, 2)), "shape"),
        (np.ones((2, 2, 0)), "shape"),
        (np.ones((5000, 1, 1)), "shape"),
        (np.ones((2, 2, 2), dtype=complex), "real numbers"),
        (np.full((2, 2, 2), "x"), "real numbers"),
        (np.zeros((2, 2, 2)), "zero"),
        (np.full((2, 2, 2), 1e-200), "zero"),
        (np.full((2, 2, 2), 2**40), "must be an integer"),
        (np.full((2, 2, 2), 1e30), r"finite numbers up to 2\^31"),
        (np.ones((70, 70, 70)), "non-zero entries"),
    ],
)
def test_hostile_tensors(array: np.ndarray, message: str, tmp_path: Path) -> None:
    path = save(tmp_path / "t.npz", x=array)
    with pytest.raises(InputError, match=message) as caught:
        parse_target(str(path))
    assert "\n" not in str(caught.value)


def test_hostile_archives(tmp_path: Path) -> None:
    (tmp_path / "bad.npz").write_bytes(b"PK\x03\x04 no archive")
    two = save(tmp_path / "two.npz", x=np.ones((2, 2, 2)), y=np.ones((2, 2, 2)))
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("x.npy", "w") as member:
        for _ in range(300):
            member.write(bytes(2**20))
    (tmp_path / "bomb.npz").write_bytes(stream.getvalue())
    for text, message in (("bad.npz", "not a readable"), ("two.npz", "name one"), ("bomb.npz", "unpacks to"), ("none.npz", "no such file")):
        with pytest.raises(InputError, match=message):
            parse_target(str(tmp_path / text))
    with pytest.raises(InputError, match="has no array 'z'"):
        parse_target(f"{two}:z")
    with pytest.raises(InputError, match="no such file"):
        parse_target("x" * 300 + ".npz")


def test_commands_take_a_target(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str, code: int = 0) -> str:
        assert main([str(word) for word in words]) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    assert "exact, " in run("fit", "--target", "polymul:2", "--rank", "3")
    shown = run("fit", "--target", "aat:2", "--rank", "5", "--restarts", "4", "--iterations", "50")
    assert "target                aat2x2" in shown
    assert "||T||^2 = 5" in shown
    path = save(tmp_path / "my.npz", x=np.random.default_rng(0).normal(size=(2, 2, 2)))
    run("fit", "--target", path, "--rank", "2", "--restarts", "4", "--iterations", "50")
    assert len(run("list", "--target", path).splitlines()) == 2
    name = run("best", "--target", path, "--rank", "2").split()[0]
    assert f"--target {path}" in open_registry().get(name).algorithm.provenance["command"]
    assert "ring R" in run("verify", name, code=1) + main_output(capsys, "verify", name)
    constructed = run("construct", "gram(2,2)").split()[0]
    assert "exact over Z[1/2]" in run("verify", constructed)
    assert "c12 = " in run("show", constructed)
    front = json.loads(run("frontier", "--target", "aat:2", "--json"))
    assert front["target"]["kind"] == "aat"
    assert [row["rank"] for row in front["front"]] == [5, 6]
    assert "random" in run("compare", "--target", "aat:2", "--rank", "5", "--init", "random,kron", "--seeds", "2", "--iterations", "20")
    assert "not both" in run("fit", "--tile", "2", "--target", "complex", "--rank", "3", code=2)
    assert "--tile" in run("fit", "--rank", "3", code=2)
    assert "is not valid" in run("fit", "--target", "foo", "--rank", "3", code=2)
    assert "not a matrix product" in run("evaluate", constructed, code=2)


def main_output(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    main([str(word) for word in words])
    return capsys.readouterr().out
