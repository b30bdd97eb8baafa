"""Export formats: lossless where they promise it, usable where they are for use, safe to read."""

from __future__ import annotations

import io
import struct
import zipfile
from pathlib import Path

import numpy as np
import pytest
from exchange_samples import OWN, read
from samples import definition, every_kind, gaussian, halves, noisy, strassen, strassen_mod_2

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry import codec
from stlsearch.registry.formats import EXPORTERS, exporter, format_of, read_all
from stlsearch.registry.formulas import formula_lines
from stlsearch.targets import Target

EVERY_KIND = every_kind()
NAMES = [algorithm.name for algorithm in EVERY_KIND]


@pytest.mark.parametrize("name", OWN)
@pytest.mark.parametrize("algorithm", EVERY_KIND, ids=NAMES)
def test_import_inverts_export(algorithm: BilinearAlgorithm, name: str) -> None:
    loaded = read(EXPORTERS[name].write(algorithm), name)
    assert codec.encode(loaded) == codec.encode(algorithm)


@pytest.mark.parametrize("algorithm", EVERY_KIND, ids=NAMES)
def test_the_python_module_multiplies(algorithm: BilinearAlgorithm) -> None:
    module: dict = {}
    exec(EXPORTERS["python"].write(algorithm).decode(), module)
    assert module["ID"] == algorithm.id
    assert module["PROVENANCE"] == codec.encode(algorithm)["provenance"]
    random = np.random.default_rng(0)
    a, b, c = algorithm.target.dims
    x, y = random.integers(-5, 6, (3, a)), random.integers(-5, 6, (3, b))
    shape = algorithm.target.shape
    if shape is None:
        got = module["multiply"](x, y)
    else:
        n, m, p = shape
        got = module["multiply"](x.reshape(3, n, m), y.reshape(3, m, p)).reshape(3, c)
    want = np.einsum("ijk,xi,xj->xk", algorithm.target.tensor, x, y) if algorithm.is_exact else algorithm.apply(x, y)
    if algorithm.ring == "Z2":
        want = want % 2
    np.testing.assert_allclose(got, want, rtol=1e-12, atol=1e-9)
    if algorithm.ring in ("Z", "Z2"):
        assert got.dtype == np.int64
        assert np.array_equal(got, want)


def test_the_python_module_refuses_other_shapes() -> None:
    module: dict = {}
    exec(EXPORTERS["python"].write(strassen()).decode(), module)
    with pytest.raises(ValueError, match="expected"):
        module["multiply"](np.ones((3, 3)), np.ones((3, 3)))


def test_hostile_provenance_stays_a_string_in_python() -> None:
    attack = '""")\nraise SystemExit("run")\n"""'
    module: dict = {}
    exec(EXPORTERS["python"].write(strassen(note=attack)).decode(), module)
    assert module["PROVENANCE"] == {"note": attack}


def test_formulas_of_strassen() -> None:
    lines = formula_lines(strassen())
    assert len(lines) == 11
    assert lines[0] == "m1 = (a11 + a22)(b11 + b22)"
    assert lines[2] == "m3 = a11 (b12 - b22)"
    assert lines[3] == "m4 = a22 (b21 - b11)"
    assert lines[7] == "c11 = m1 + m4 - m5 + m7"


def test_formulas_show_scales_fractions_and_rounding() -> None:
    target = Target.make("polymul", {"m": 1, "n": 1})
    scaled = BilinearAlgorithm.from_exact(target, [[-6]], [[1]], np.array([[-1]]), verify=False)
    assert formula_lines(scaled) == ["m1 = -6 a0 b0", "c0 = -m1"]
    assert formula_lines(halves())[2] == "c0 = 1/2 m1 + 1/2 m2"
    assert formula_lines(gaussian())[0] == "m1 = (a0 + i a1)(b0 + i b1)"
    inexact = BilinearAlgorithm.from_floats(Target.matmul(1, 2, 1), [[0.3125, -1.0]], [[1 / 3, 0]], [[1e-7]], balance=False)
    assert formula_lines(inexact) == ["m1 = (0.3125 a11 - a12)(0.3333 b11)", "c11 = 1e-07 m1"]
    common = BilinearAlgorithm.from_exact(Target.matmul(1, 2, 1), [[2, -4]], [[3, 3]], [[1]], verify=False)
    assert formula_lines(common)[0] == "m1 = 6 (a11 - 2 a12)(b11 + b21)"


def test_formulas_compute_the_product() -> None:
    """Read as Python, the formulas give the matrix product."""
    for algorithm in (strassen(), definition(2, 1, 3)):
        n, m, p = algorithm.target.shape  # type: ignore[misc]
        random = np.random.default_rng(1)
        a, b = random.integers(-9, 9, (n, m)), random.integers(-9, 9, (m, p))
        values = {f"a{i + 1}{j + 1}": a[i, j] for i in range(n) for j in range(m)}
        values |= {f"b{i + 1}{j + 1}": b[i, j] for i in range(m) for j in range(p)}
        for line in formula_lines(algorithm):
            left, right = line.split(" = ")
            for text, product in ((")(", ")*("), (") b", ")*b"), (" (", "*("), (" b", "*b")):
                right = right.replace(text, product) if left[0] == "m" else right
            right = right.replace("+*b", "+b").replace("-*b", "-b")
            values[left] = eval(right, {}, values)
        assert [values[f"c{i + 1}{j + 1}"] for i in range(n) for j in range(p)] == (a @ b).ravel().tolist()


def test_latex_has_a_line_per_formula() -> None:
    text = EXPORTERS["latex"].write(halves()).decode()
    assert text.count("&=") == 4
    assert "\\tfrac{1}{2}\\,m_{1}" in text
    assert text.count("\\begin{align*}") == text.count("\\end{align*}") == 1
    assert "a_{11}" in EXPORTERS["latex"].write(strassen_mod_2()).decode()


def test_unknown_formats_list_the_valid_ones(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="json, npz, safetensors, python, latex"):
        exporter("pickle")
    for name in ("x.pkl", "x.py", "x"):
        (tmp_path / name).touch()
        with pytest.raises(InputError, match="like no format that can be imported; valid: json, npz, safetensors, alphatensor"):
            read_all(tmp_path / name)
    with pytest.raises(InputError, match=r"absent\.npz: no such file"):
        read_all(tmp_path / "absent.npz")
    assert format_of(Path("a/B.NPZ")) == "npz"


@pytest.mark.parametrize("name", OWN)
def test_damaged_bytes_are_refused(name: str) -> None:
    data = EXPORTERS[name].write(noisy())
    random = np.random.default_rng(2)
    for _ in range(60):
        damaged = bytearray(data)
        damaged[int(random.integers(len(data)))] ^= 1 << int(random.integers(8))
        cut = damaged[: int(random.integers(len(data)))]
        for attempt in (bytes(damaged), bytes(cut)):
            try:
                loaded = read(attempt, name)
            except InputError as error:
                message = str(error)
                assert len(message.splitlines()) == 1, message
            else:
                assert loaded.id == noisy().id  # the flipped bit was in provenance or padding


def test_no_pickle_is_ever_read() -> None:
    class Bomb:
        def __reduce__(self) -> tuple:
            return (pytest.fail, ("a pickle was run",))

    stream = io.BytesIO()
    np.savez(stream, stlsearch=np.array([Bomb()], dtype=object))
    with pytest.raises(InputError, match="not a readable npz"):
        read(stream.getvalue(), "npz")


def test_npz_that_unpacks_to_gigabytes_is_refused() -> None:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive, archive.open("U_real.npy", "w") as member:
        for _ in range(65):
            member.write(bytes(2**20))
    with pytest.raises(InputError, match="unpacks to more than"):
        read(stream.getvalue(), "npz")


def test_npz_whose_header_lies_about_its_size_is_refused() -> None:
    member = io.BytesIO()
    np.lib.format.write_array_header_1_0(member, {"descr": "<f8", "fortran_order": False, "shape": (2**45,)})
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("U_real.npy", member.getvalue())
    with pytest.raises(InputError, match="not a readable npz"):
        read(stream.getvalue(), "npz")


@pytest.mark.parametrize("name", ["npz", "safetensors"])
def test_foreign_archives_are_refused(name: str) -> None:
    if name == "npz":
        stream = io.BytesIO()
        np.savez(stream, a=np.ones(3))
        data = stream.getvalue()
    else:
        text = b'{"a":{"dtype":"F64","shape":[0],"data_offsets":[0,0]}}'
        data = struct.pack("<Q", len(text)) + text
    with pytest.raises(InputError, match="not written by stlsearch"):
        read(data, name)
