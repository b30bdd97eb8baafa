"""Border-rank families: verified over Q[eps, 1/eps], evaluated, combined, read and written."""

from __future__ import annotations

import itertools
import json
from fractions import Fraction
from pathlib import Path

import jsonschema
import numpy as np
import pytest
import referencing
from samples import halves, strassen, strassen_mod_2

import stlsearch
from stlsearch.algorithm import UNIT_ROUNDOFF
from stlsearch.border import BorderAlgorithm
from stlsearch.commands import main
from stlsearch.constructions import border
from stlsearch.constructions.border_expression import construct_family
from stlsearch.errors import InputError
from stlsearch.laurent import LaurentMatrix
from stlsearch.registry.families import dumps, encode, loads, read_family
from stlsearch.registry.formats import fast_matmul
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

SCHEMAS = Path(stlsearch.__file__).parent / "registry"


def test_bini_is_a_family_of_order_one() -> None:
    family = border.bini()
    assert (family.target, family.rank, family.order) == (Target.matmul(3, 2, 2), 10, 1)
    assert min(family.error_polynomial) == 2
    assert min(family.amplification_polynomial) == -2


def test_the_polynomials_are_what_members_measure() -> None:
    family = border.compose(border.bini(), border.permute(border.bini(), (2, 3, 1)))
    for eps in (0.3, -0.2, 1.5):
        member = family.at(eps)
        for polynomial, measured in ((family.error_polynomial, member.error), (family.amplification_polynomial, member.amplification)):
            assert sum(value * eps**order for order, value in polynomial.items()) == pytest.approx(measured, rel=1e-9)


def test_the_leading_error_is_the_limit_of_the_error() -> None:
    family = border.bini()
    target, eps = family.target.tensor, 2.0**-12
    member = family.at(eps)
    product = np.einsum("ri,rj,rk->ijk", member.U, member.V, member.W)
    np.testing.assert_allclose((product - target) / eps, family.errors[1], atol=1e-3)


@pytest.mark.parametrize("order", list(itertools.permutations((1, 2, 3))))
def test_permutations(order: tuple[int, int, int]) -> None:
    family = border.permute(border.bini(), order)
    assert family.target.shape == tuple((3, 2, 2)[place - 1] for place in order)
    assert (family.rank, family.order) == (10, 1)


def test_products_and_sums_with_exact_algorithms() -> None:
    assert construct_family("bini*strassen", None).target.shape == (6, 4, 4)
    total = construct_family("permute(bini,2,3,1) +p standard(2,2,1)", None)
    assert (total.target.shape, total.rank, total.order) == ((2, 2, 4), 14, 1)
    assert construct_family("strassen", None).order is None
    assert construct_family("transpose(bini)", None).target.shape == (2, 2, 3)
    with pytest.raises(InputError, match="cannot be summed"):
        construct_family("bini +p bini*strassen", None)
    with pytest.raises(InputError, match="exact over Q"):
        border.family(strassen_mod_2())


def test_fractions_are_kept_exactly() -> None:
    family = border.family(halves())
    assert family.order is None
    assert family.factors[2].denominator == 2
    assert family.at(0.7).error < 1e-30


def test_eps_for_a_dtype_is_the_least_total_error() -> None:
    family = border.bini()
    for dtype in ("float32", "float16", "bfloat16"):
        best = family.at(family.eps_for_dtype(dtype)).total_error(dtype)
        assert all(best <= family.at(eps).total_error(dtype) * (1 + 1e-9) for eps in np.geomspace(1e-5, 1, 60))
    # k = 1, q = 2: eps = (2 G u^2/(2 c))^(1/4) to leading order
    c, G, u = family.error_polynomial[2], family.amplification_polynomial[-2], UNIT_ROUNDOFF["float32"]
    assert abs(family.eps_for_dtype("float32")) == pytest.approx((G * u**2 / c) ** 0.25, rel=1e-3)


def test_eps_for_a_bound_on_the_amplification() -> None:
    member = border.bini().at(border.bini().eps_for_amplification(1000))
    assert member.amplification == pytest.approx(1000, rel=1e-6)
    assert member.amplification <= 1000
    with pytest.raises(InputError, match=r"no eps gives an amplification g of at most 0\.1: the least is"):
        border.bini().eps_for_amplification(0.1)
    with pytest.raises(InputError, match="unknown storage dtype"):
        border.bini().eps_for_dtype("float17")


def test_eps_for_a_bound_does_not_drown_in_the_rounding_of_float64() -> None:
    family = border.bini()
    assert family.eps_for_amplification(1e30) == pytest.approx(family.eps_for_dtype("float64"), rel=1e-3)
    exact = border.family(halves())
    assert exact.at(exact.eps_for_amplification(1000)).error < 1e-30


def test_families_that_are_wrong_are_refused() -> None:
    family = border.bini()
    U, V, W = family.factors
    with pytest.raises(InputError, match=r"order eps\^-1 does not vanish"):
        BorderAlgorithm.make(family.target, (U, V, LaurentMatrix.make({**W.terms, -1: 2 * W.terms[-1] - (W.terms[-1] > 0)})))
    with pytest.raises(InputError, match="at eps = 0 it is not 3x2x2"):
        BorderAlgorithm.make(family.target, (U, V, LaurentMatrix.make(W.terms, 3)))
    with pytest.raises(InputError, match="factor V has shape"):
        BorderAlgorithm.make(Target.matmul(3, 2, 3), family.factors)
    for eps in (0.0, float("nan"), float("inf")):
        with pytest.raises(InputError, match="other than 0"):
            family.at(eps)
    with pytest.raises(InputError, match="NaN or infinite"):
        family.at(1e-320)


def test_our_document_round_trips_and_fits_its_schema() -> None:
    family = construct_family("permute(bini,2,3,1)")
    again = loads(dumps(family))
    assert (again.id, again.provenance) == (family.id, family.provenance)
    schemas = [json.loads((SCHEMAS / name).read_text()) for name in ("schema.json", "border_schema.json")]
    known = referencing.Registry().with_resources([(each["$id"], referencing.Resource.from_contents(each)) for each in schemas])
    jsonschema.Draft202012Validator(schemas[1], registry=known).validate(json.loads(dumps(family)))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        (("format",), "stlsearch.algorithm", "expected an object with"),
        (("version",), 2, "version 2 is not supported"),
        (("id",), "0" * 64, "tampered"),
        (("rank",), 11, "a list of 11 rows"),
        (("rank",), 10**9, "rank must be an integer"),
        (("dims",), [6, 4, 5], "dims must be"),
        (("target", "params", "n"), 4096, "at most|must be"),
        (("extra",), 1, "unknown key"),
        (("factors", "U", "exponents"), [1, 0], "ascending"),
        (("factors", "U", "exponents"), [0, 65], "exponents of eps"),
        (("factors", "U", "exponents"), [0], "a list of 1 matrices"),
        (("factors", "U", "denominator"), 0, "denominator"),
        (("factors", "U", "numerators", 0, 0, 0), 0.5, "integers"),
        (("factors", "U", "numerators", 0, 0, 0), 2**60, "2\\^53"),
        (("factors", "U", "numerators", 0, 0, 0), 7, "not a family"),
    ],
)
def test_hostile_documents(path: tuple, value: object, message: str) -> None:
    document = json.loads(dumps(border.bini()))
    place = document
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(InputError, match=message) as caught:
        loads(json.dumps(document))
    assert "\n" not in str(caught.value)


def entries(matrix: LaurentMatrix) -> list[list[dict[str, str]]]:
    rows, columns = matrix.shape
    values = [[{} for _ in range(columns)] for _ in range(rows)]
    for exponent, term in matrix.terms.items():
        for i, j in np.argwhere(term):
            values[i][j][str(exponent)] = str(Fraction(int(term[i, j]), matrix.denominator))
    return values


def plain(family: BorderAlgorithm) -> dict:
    factors = {
        f"{name}eps": [[cell or 0 for cell in row] for row in entries(factor)] for name, factor in zip("UVW", family.factors, strict=True)
    }
    return {"n": list(family.target.shape or ()), "source": "made here", "licence": "Apache-2.0", **factors}


def test_plain_json_in_eps_with_either_convention() -> None:
    family = border.permute(border.bini(), (2, 3, 1))
    found = loads(json.dumps(plain(family)))
    assert (found.id, found.provenance["licence"]) == (family.id, "Apache-2.0")
    U, V, W = family.factors
    turned = BorderAlgorithm(family.target, (U, V, W.columns(np.arange(6).reshape(2, 3).T.ravel())))
    found = loads(json.dumps(plain(turned)))
    assert (found.id, found.provenance["convention"]) == (family.id, "W of C^T")


@pytest.mark.parametrize(
    ("cell", "message"),
    [
        ({"x": 1}, "exponent"),
        ({"0": 0.1}, "rational"),
        ({"999": 1}, "exponents of eps"),
        ({"0": "1/0"}, "denominator is 0"),
        ([1], "coefficient"),
    ],
)
def test_hostile_plain_json_in_eps(cell: object, message: str) -> None:
    document = plain(border.bini())
    document["Ueps"][0][0] = cell
    with pytest.raises(InputError, match=message) as caught:
        loads(json.dumps(document))
    assert "\n" not in str(caught.value)
    with pytest.raises(InputError, match="rows of 6 entries"):
        loads(json.dumps({**document, "Ueps": [[0] * 5]}))
    with pytest.raises(InputError, match="same number of rows"):
        loads(json.dumps({**plain(border.bini()), "Ueps": plain(border.bini())["Ueps"][:9]}))


def text(family: BorderAlgorithm) -> str:
    """The family in the text of the fast-matmul collection: columns are products, entries column-major."""
    n, m, p = family.target.shape  # type: ignore[misc]
    blocks = []
    for factor, (rows, columns) in zip(family.factors, ((n, m), (m, p), (n, p)), strict=True):
        cells = entries(factor.columns(np.arange(rows * columns).reshape(rows, columns).T.ravel()))
        words = [["+".join(_word(exponent, value) for exponent, value in cell.items()) or "0" for cell in row] for row in cells]
        lines = [" ".join(f"({word})" if "+" in word else word for word in line) for line in zip(*words, strict=True)]
        blocks.append("\n".join(lines))
    return "# made here\n" + "\n#\n".join(blocks) + "\n"


def _word(exponent: str, value: str) -> str:
    power = int(exponent)
    if power == 0:
        return value
    name = f"x{abs(power) if abs(power) > 1 else ''}{'i' if power < 0 else ''}"
    return {"1": name, "-1": f"-{name}"}.get(value, f"{value}{name}")


def test_the_text_of_the_fast_matmul_collection(tmp_path: Path) -> None:
    family = border.permute(border.bini(), (2, 1, 3))
    U, V, W = family.factors
    sheared = LaurentMatrix.make({0: np.eye(6, dtype=int), 1: np.eye(6, dtype=int)})  # (1 + eps) in U makes sums such as (1+x)
    mixed = {}
    for p, left in U.terms.items():
        for q, right in sheared.terms.items():
            mixed[p + q] = mixed.get(p + q, 0) + left @ right
    family = BorderAlgorithm.make(family.target, (LaurentMatrix.make(mixed), V, W))
    assert "(1+x)" in text(family)
    path = tmp_path / "scheme"
    path.write_text(text(family))
    found = read_family(path)
    assert found.id == family.id
    assert found.provenance["convention"] == "U of A^T, V of B^T, W of C^T"
    assert fast_matmul.read(text(border.family(strassen())).encode()).order is None


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "three blocks"),
        ("1 0\n#\n1 1", "three blocks"),
        ("1 y\n", "line 1: 'y' is no polynomial"),
        ("1 x1000\n", "no polynomial"),
        ("1 1+\n", "no polynomial"),
        ("1 ()\n", "no polynomial"),
        ("1 1/0\n", "denominator is 0"),
        ("1 1\n#\n1\n#\n1 1", "one entry for each product"),
        ("1\n1\n#\n1\n#\n1", "of no matrix product"),
        ("1\n#\n1\n#\nx", "not a family"),
        ("1 " + "1+" * 200 + "1\n", "no polynomial"),
        ("1 \x00\n", "no polynomial"),
    ],
)
def test_hostile_text(content: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "scheme"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        read_family(path)
    assert "\n" not in str(caught.value)


def test_commands(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def run(*words: str, code: int = 0) -> str:
        assert main(["border", *words]) == code
        captured = capsys.readouterr()
        return captured.out if code == 0 else captured.err

    path = tmp_path / "bini.json"
    run("write", "permute(bini,2,3,1)", "--out", str(path))
    assert "T + O(eps^1)" in run("verify", str(path))
    verified = json.loads(run("verify", str(path), "--json"))["family"]
    assert (verified["order"], verified["rank"]) == (1, 10)
    for options in (["--eps", "0.3"], ["--optimize-for", "float16"], ["--max-amplification", "100"], []):
        name = run("at", str(path), *options).splitlines()[0]
        stored = open_registry().get(name).algorithm
        assert stored.target == Target.matmul(2, 2, 3)
        assert {"family", "eps", "order", "source", "command"} <= set(stored.provenance)
    assert "exact at every eps" in run("at", "strassen", "--eps", "0.5")
    longest = "(" * 30 + "permute(bini,2,3,1)" + ")" * 30 + " +p standard(2,2,1)" * 12
    assert len(longest) > 255
    assert "T + O(eps^1)" in run("verify", longest)
    assert run("verify", "x" * 300 + ".json", code=2).endswith("no such file\n")
    assert "give one of" in run("at", str(path), "--eps", "1", "--max-amplification", "5", code=2)
    assert "no algorithm is called" in run("at", "nothing", code=2)
    assert "no such file" in run("verify", "nothing.json", code=2)
    assert main(["import", str(path)]) == 2
    assert "stlsearch border at" in capsys.readouterr().err
    fit = ["fit", "--tile", "2x2x3", "--rank", "10", "--init", f"known:{name}", "--restarts", "2", "--iterations", "20"]
    assert main(fit) == 0
    assert "known:" in capsys.readouterr().out


def test_encoding_is_plain_json() -> None:
    assert json.loads(dumps(border.bini())) == encode(border.bini())
