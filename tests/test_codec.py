"""The JSON document: lossless, strict, in agreement with its schema."""

from __future__ import annotations

import copy
import json
import re
from importlib import resources

import jsonschema
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from samples import every_kind, gaussian, halves, noisy, strassen, with_metric

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry import codec
from stlsearch.registry.text import layout, parse
from stlsearch.targets import Target

SCHEMA = json.loads(resources.files("stlsearch.registry").joinpath("schema.json").read_text(encoding="utf-8"))
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)
EVERY_KIND = every_kind()
NAMES = [algorithm.name for algorithm in EVERY_KIND]


def refusal(document: object) -> str:
    with pytest.raises(InputError) as caught:
        codec.decode(document)
    message = str(caught.value)
    assert "\n" not in message
    assert len(message) < 400
    return message


def same(one: BilinearAlgorithm, other: BilinearAlgorithm) -> bool:
    factors = zip((one.U, one.V, one.W), (other.U, other.V, other.W), strict=True)
    return one.id == other.id and codec.encode(one) == codec.encode(other) and all(np.array_equal(x, y) for x, y in factors)


@pytest.mark.parametrize("algorithm", EVERY_KIND, ids=NAMES)
def test_round_trip_keeps_everything(algorithm: BilinearAlgorithm) -> None:
    text = codec.dumps(algorithm)
    loaded = codec.loads(text)
    assert same(loaded, algorithm)
    assert codec.dumps(loaded) == text
    assert codec.loads(text.encode()).id == algorithm.id


@pytest.mark.parametrize("algorithm", EVERY_KIND, ids=NAMES)
def test_documents_fit_the_schema(algorithm: BilinearAlgorithm) -> None:
    VALIDATOR.validate(codec.encode(algorithm))
    assert json.loads(codec.dumps(algorithm)) == codec.encode(algorithm)


def test_the_schema_is_itself_valid() -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    assert SCHEMA["properties"]["version"]["const"] == codec.VERSION


@settings(max_examples=60, deadline=None)
@given(
    sizes=st.tuples(*[st.integers(1, 3)] * 3),
    data=st.data(),
    provenance=st.dictionaries(
        st.text(max_size=8), st.none() | st.booleans() | st.integers() | st.text() | st.floats(allow_nan=False, allow_infinity=False)
    ),
)
def test_inexact_round_trip(sizes: tuple[int, int, int], data: st.DataObject, provenance: dict) -> None:
    target = Target.matmul(*sizes)
    rank = data.draw(st.integers(1, target.trivial_rank))
    number = st.floats(-1e25, 1e25)
    factors = [data.draw(st.lists(st.lists(number, min_size=d, max_size=d), min_size=rank, max_size=rank)) for d in target.dims]
    algorithm = BilinearAlgorithm.from_floats(target, *map(np.array, factors), provenance=provenance, balance=data.draw(st.booleans()))
    loaded = codec.loads(codec.dumps(algorithm))
    assert same(loaded, algorithm)
    assert loaded.provenance == provenance
    assert loaded.error == algorithm.error


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_exact_round_trip(data: st.DataObject) -> None:
    """Any tensor that integer and fractional factors happen to compute is a target of its own."""
    dims, rank = data.draw(st.tuples(*[st.integers(1, 3)] * 3)), data.draw(st.integers(1, 3))
    factors = [
        np.array(data.draw(st.lists(st.lists(st.integers(-9, 9), min_size=d, max_size=d), min_size=rank, max_size=rank))) for d in dims
    ]
    tensor = np.einsum("ri,rj,rk->ijk", *factors)
    target = Target.explicit(tensor)
    if rank > target.trivial_rank:
        return
    denominator = data.draw(st.integers(1, 6))
    scaled = [codec.ExactMatrix.make(factors[0] * denominator), codec.ExactMatrix.make(factors[1], denominator), factors[2]]
    algorithm = BilinearAlgorithm.from_exact(target, *scaled)
    assert same(codec.loads(codec.dumps(algorithm)), algorithm)


def test_one_factor_row_per_line() -> None:
    lines = codec.dumps(strassen()).splitlines()
    assert "        [1, 0, 0, 1]," in lines
    assert sum(line.strip().startswith("[") for line in lines) == 21


def test_neither_measures_nor_numpy_in_the_document() -> None:
    document = codec.encode(strassen(shape=(1, 2), seed=np.int64(3), step=np.float32(0.5), trace=np.arange(2)))
    assert document["provenance"] == {"shape": [1, 2], "seed": 3, "step": 0.5, "trace": [0, 1]}
    assert not {"error", "e", "g"} & set(document)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {1: 2}, object(), {"a": {2, 3}}, "\ud800"])
def test_provenance_that_json_cannot_hold_is_refused_on_encoding(value: object) -> None:
    with pytest.raises(InputError, match="provenance"):
        codec.encode(strassen(entry=value))


def change(document: dict, path: str, value: object) -> dict:
    """A copy of the document with the value at a dotted path replaced, or removed when it is `...`."""
    document = copy.deepcopy(document)
    *parents, last = path.split(".")
    place: object = document
    for key in parents:
        place = place[int(key) if isinstance(place, list) else key]  # type: ignore[index]
    if value is ...:
        del place[last]  # type: ignore[attr-defined]
    else:
        place[int(last) if isinstance(place, list) else last] = value  # type: ignore[index]
    return document


EXACT, FLOAT = codec.encode(strassen()), codec.encode(with_metric(noisy()))
HALF, COMPLEX = codec.encode(halves()), codec.encode(gaussian())
MUTATIONS = [
    (EXACT, "format", "other", "format"),
    (EXACT, "version", 2, "newer stlsearch.*valid: 1"),
    (EXACT, "version", 0, "valid: 1"),
    (EXACT, "version", True, "version True"),
    (EXACT, "version", "1", "version '1'"),
    (EXACT, "version", ..., "version None"),
    (EXACT, "extra", 1, "unknown key 'extra'"),
    (EXACT, "metric", ..., "lacks the key 'metric'"),
    (EXACT, "id", "ab", "id must be 64"),
    (EXACT, "id", 7, "id must be 64"),
    (EXACT, "id", "0" * 64, "tampered"),
    (EXACT, "target", None, "target must be an object"),
    (EXACT, "target.kind", "determinant", "unknown target kind.*valid: .*matmul"),
    (EXACT, "target.kind", ["matmul"], "unknown target kind"),
    (EXACT, "target.params.n", 0, "1..4096"),
    (EXACT, "target.params.n", 4096, "1..4096"),
    (EXACT, "target.params.n", True, "must be an integer"),
    (EXACT, "target.params.n", 2.0, "must be an integer"),
    (EXACT, "target.params.q", 2, "needs the parameters"),
    (EXACT, "dims", [4, 4, 5], "dims must be"),
    (EXACT, "dims", [4.0, 4, 4], "dims must be"),
    (EXACT, "dims", "444", "dims must be"),
    (EXACT, "rank", 10**12, "rank must be an integer from 1 to 8"),
    (EXACT, "rank", 8, "must be a list of 8 rows, not 7"),
    (EXACT, "rank", 0, "rank must be"),
    (EXACT, "rank", True, "rank must be"),
    (EXACT, "rank", 7.0, "rank must be"),
    (EXACT, "ring", "Z4", "unknown ring"),
    (EXACT, "ring", "F7", "valid: Z2"),
    (EXACT, "ring", 2, "unknown ring"),
    (EXACT, "ring", "R", "unknown key 'denominator'"),
    (EXACT, "ring", "Q", "tampered"),
    (EXACT, "factors.U", ..., "lacks the key 'U'"),
    (EXACT, "factors.U", [[1]], "factors.U must be an object"),
    (EXACT, "factors.U.real", ..., "lacks the key 'real'"),
    (EXACT, "factors.U.denominator", 0, "factors.U: a denominator"),
    (EXACT, "factors.U.denominator", 2, "not exact over Z|outside the ring"),
    (EXACT, "factors.U.denominator", True, "a denominator"),
    (EXACT, "factors.U.denominator", 10**30, "a denominator"),
    (EXACT, "factors.U.real", [], "must be a list of 7 rows, not 0"),
    (EXACT, "factors.V.real.2", [1, 2, 3], "factors.V.real row 3 must be a list of 4 integers"),
    (EXACT, "factors.V.real.2", 5, "row 3 must be a list"),
    (EXACT, "factors.V.real.2.1", "1", "row 3 must hold integers"),
    (EXACT, "factors.V.real.2.1", True, "row 3 must hold integers"),
    (EXACT, "factors.V.real.2.1", 1.0, "row 3 must hold integers"),
    (EXACT, "factors.V.real.2.1", None, "row 3 must hold integers"),
    (EXACT, "factors.V.real.2.1", [1], "row 3 must hold integers"),
    (EXACT, "factors.V.real.2.1", 10**400, "2\\^53"),
    (EXACT, "factors.V.real.2.1", 3, "not exact over Z: .*the first at a"),
    (EXACT, "factors.U.imaginary", [[0] * 4] * 6, "imaginary must be a list of 7"),
    (EXACT, "factors.U.imaginary", [[1] * 4] * 7, "outside the ring Z"),
    (EXACT, "provenance", [], "provenance must be an object"),
    (EXACT, "provenance", None, "provenance must be an object"),
    (EXACT, "metric", 3, "metric must be an object"),
    (HALF, "ring", "Z", "outside the ring Z"),
    (COMPLEX, "ring", "Q", "outside the ring Q"),
    (FLOAT, "ring", "Z", "lacks the key 'denominator'"),
    (FLOAT, "ring", "C", "lacks the key 'imaginary'"),
    (FLOAT, "factors.W.real.0.0", float("nan"), "NaN or infinite"),
    (FLOAT, "factors.W.real.0.0", float("-inf"), "NaN or infinite"),
    (FLOAT, "factors.W.real.0.0", 10**400, "beyond double precision"),
    (FLOAT, "factors.W.real.0.0", 1e200, "error overflows"),
    (FLOAT, "factors.W.real.0.0", "0.5", "must hold numbers"),
    (FLOAT, "factors.W.real.0.0", False, "must hold numbers"),
    (FLOAT, "factors.W.real.0.0", 0.125, "tampered"),
    (FLOAT, "factors.W.denominator", 1, "unknown key 'denominator'"),
    (FLOAT, "metric.activation.0.1", 9.0, "symmetric"),
    (FLOAT, "metric.activation.0.0", -9.0, "non-negative diagonal"),
    (FLOAT, "metric.weight", [[1.0]], "metric.weight must be a list of 4"),
    (FLOAT, "metric.layout", [], "metric.layout must be an object"),
    (FLOAT, "metric.layout", ..., "lacks the key 'layout'"),
    (FLOAT, "metric.mean", [], "unknown key 'mean'"),
]


@pytest.mark.parametrize(("document", "path", "value", "message"), MUTATIONS, ids=lambda value: value if isinstance(value, str) else "")
def test_every_fault_is_named(document: dict, path: str, value: object, message: str) -> None:
    text = refusal(change(document, path, value))
    assert re.search(message, text), text


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_what_the_schema_refuses_the_decoder_refuses(data: st.DataObject) -> None:
    document = copy.deepcopy(data.draw(st.sampled_from([EXACT, FLOAT, HALF, COMPLEX])))
    junk = st.none() | st.booleans() | st.integers(-3, 3) | st.floats() | st.text(max_size=3) | st.just([]) | st.just({}) | st.just([[1]])
    place: object = document
    while True:
        keys = list(place) if isinstance(place, dict) else range(len(place))  # type: ignore[arg-type]
        key = data.draw(st.sampled_from(list(keys)))
        below = place[key]  # type: ignore[index]
        if not isinstance(below, dict | list) or not below or data.draw(st.booleans()):
            break
        place = below
    if isinstance(place, dict) and data.draw(st.booleans()):
        del place[key]
    else:
        place[key] = data.draw(junk)  # type: ignore[index]
    if not VALIDATOR.is_valid(document):
        refusal(document)


@pytest.mark.parametrize("document", [None, 1, "x", [], [[]], True, {}])
def test_what_is_no_document_at_all(document: object) -> None:
    assert "not an stlsearch algorithm" in refusal(document)


GOOD = codec.dumps(strassen())
HOSTILE = {
    "empty": (b"", "not valid JSON"),
    "truncated": (GOOD[: len(GOOD) // 2].encode(), "not valid JSON"),
    "trailing": ((GOOD + "{}").encode(), "Extra data"),
    "not UTF-8": (b"\xff\xfe\x00", "not UTF-8"),
    "deep lists": (b"[" * 10**6, "nested too deeply"),
    "deep objects": (b'{"a":' * 10**5, "nested too deeply"),
    "NaN": (GOOD.replace("[1, 0", "[NaN, 0", 1).encode(), "NaN is not a finite number"),
    "infinity": (GOOD.replace("[1, 0", "[-Infinity, 0", 1).encode(), "not a finite number"),
    "overflow": (GOOD.replace("[1, 0", "[1e999, 0", 1).encode(), "1e999 is not a finite number"),
    "giant integer": (GOOD.replace("[1, 0", f"[{'9' * 10**5}, 0", 1).encode(), "integer of thousands of digits"),
    "repeated key": (GOOD.replace('"ring": "Z"', '"ring": "Z", "ring": "Z"').encode(), "key 'ring' is repeated"),
    "too large": (b" " * (64 * 2**20 + 1), "larger than 64 MiB"),
    "half a surrogate": (GOOD.replace('"provenance": {', '"provenance": {"a": "\\ud800"').encode(), "surrogate"),
    "deep provenance": (GOOD.replace('"provenance": {', '"provenance": {"a": ' + "[" * 50 + "]" * 50).encode(), "nested more than 32"),
}


@pytest.mark.parametrize(("data", "message"), HOSTILE.values(), ids=HOSTILE)
def test_hostile_text(data: bytes, message: str) -> None:
    with pytest.raises(InputError, match=message) as caught:
        codec.loads(data)
    assert len(str(caught.value)) < 300


def test_a_small_file_cannot_ask_for_hours_or_all_memory() -> None:
    wide = {"dims": [1, 4096, 4096], "entries": [[0, index, index, 1] for index in range(100)]}
    document = {**EXACT, "target": {"kind": "tensor", "params": wide}, "dims": wide["dims"], "rank": 100}
    row = [0] * 4096
    factors = {"U": [[0]] * 100, "V": [row] * 100, "W": [row] * 100}
    document["factors"] = {name: {"real": rows, "denominator": 1} for name, rows in factors.items()}
    assert "too large to check" in refusal(document)


@pytest.mark.parametrize("entries", [[], [[0, 0, 0, 0]], [[0, 0, 0, 1], [0, 0, 0, 1]], [[1, 0, 0, 1], [0, 0, 0, 1]], [[5, 0, 0, 1]]])
def test_explicit_tensors_have_one_spelling(entries: list) -> None:
    document = {**EXACT, "target": {"kind": "tensor", "params": {"dims": [2, 1, 1], "entries": entries}}, "dims": [2, 1, 1], "rank": 1}
    assert refusal(document).startswith(("target", "the target"))


def test_older_versions_are_migrated(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "VERSION", 2)
    monkeypatch.setitem(codec.MIGRATIONS, 1, lambda old: {**old, "provenance": {**old["provenance"], "was": 1}})
    assert codec.decode(EXACT).provenance["was"] == 1


def test_layout_and_parse_are_inverse() -> None:
    value = {"a": [[1, 2], [3]], "b": [{"c": 1}, {}], "long": {"x": "y" * 120}, "empty": {}, "none": None, "list": []}
    assert parse(layout(value)) == value
