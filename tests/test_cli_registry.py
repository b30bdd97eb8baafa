"""The commands that compute nothing: list, show, verify, best, export, import, rm."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from samples import karatsuba, noisy, strassen, strassen_mod_2

from stlsearch.commands import main
from stlsearch.registry import codec
from stlsearch.registry.store import Registry

COMMANDS = ("list", "show", "verify", "best", "export", "import", "rm")


class Session:
    """Runs commands against one registry and keeps what they print."""

    def __init__(self, folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.registry = Registry(folder)
        self.capsys = capsys

    def __call__(self, command: str, *arguments: object, code: int = 0) -> str:
        got = main([command, "--registry", str(self.registry.folder), *map(str, arguments)])
        captured = self.capsys.readouterr()
        self.err = captured.err
        assert got == code, captured.err
        if code == 2:
            assert captured.out == ""
            assert len(captured.err.splitlines()) == 1
            assert captured.err.startswith("error: ")
            return captured.err
        return captured.out

    def json(self, command: str, *arguments: object, code: int = 0) -> dict:
        document = json.loads(self(command, *arguments, "--json", code=code))
        assert document["version"] == 1
        return document


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr("stlsearch.registry.store.shipped_folder", lambda: None)
    monkeypatch.delenv("STLSEARCH_HOME", raising=False)
    session = Session(tmp_path / "registry", capsys)
    for algorithm in (strassen(source="Strassen, 1969"), strassen_mod_2(), karatsuba(), noisy(), noisy(rank=7)):
        session.registry.add(algorithm)
    return session


def broken(run: Session) -> str:
    """Change one coefficient of Strassen's algorithm in its file."""
    path = run.registry.locate(strassen().name)[0]
    path.write_text(path.read_text().replace("[1, 0, 0, 1]", "[1, 0, 0, 2]", 1))
    return path.stem


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "STLSEARCH_HOME" in text
    assert len(text.splitlines()) > 8


def test_list_is_a_sorted_table(run: Session) -> None:
    lines = run("list").splitlines()
    assert lines[0].split() == ["name", "tile", "rank", "ring", "rel_sq_error", "g", "metric", "e_metric", "where"]
    assert [line.split()[0] for line in lines[1:]] == [entry.algorithm.name for entry in run.registry.entries()[0]]
    row = next(line.split() for line in lines if line.startswith(strassen().name))
    assert row[1:] == ["2x2x2", "7", "Z", "0", "4", "white", "user"]


def test_list_filters(run: Session) -> None:
    def names(*arguments: object) -> set[str]:
        return {row["name"] for row in run.json("list", *arguments)["algorithms"]}

    assert names("--tile", 2, "--rank", 7, "--exact") == {strassen().name, strassen_mod_2().name}
    assert names("--inexact") == {noisy().name, noisy(rank=7).name}
    assert names("--max-amplification", 4, "--tile", "2x2x2") == {strassen().name, strassen_mod_2().name}
    assert names("--tile", "2x3x4") == set()
    assert run("list", "--tile", 9) == "no algorithm matches\n"


def test_list_names_broken_files_and_goes_on(run: Session) -> None:
    name = broken(run)
    assert name not in run("list")
    assert f"{name}.json: not exact over Z" in run.err
    report = run.json("list")["broken"]
    assert [Path(file["path"]).stem for file in report] == [name]


def test_show(run: Session) -> None:
    text = run("show", "2x2x2_r7_Z_")
    for part in (
        "m1 = (a11 + a22)(b11 + b22)",
        "c11 = m1 + m4 - m5 + m7",
        "exact over Z2, Z3, Z, Z[1/2], Q, Q(i)",
        "source: Strassen, 1969",
    ):
        assert part in text
    document = run.json("show", strassen().id)["algorithm"]
    assert document["name"] == strassen().name
    assert document["additions"] == 18
    assert document["nonzeros"] == [12, 12, 12]
    assert len(document["formulas"]) == 11
    inexact = run.json("show", noisy().name)["algorithm"]
    assert inexact["rel_sq_error"] == noisy().error
    assert inexact["rel_error"] ** 2 == pytest.approx(noisy().error)
    assert inexact["exact_over"] == []
    assert "R, inexact" in run("show", noisy().name)


def test_show_lets_no_file_drive_the_terminal(run: Session) -> None:
    run.registry.remove(noisy().name)
    run.registry.add(noisy().with_provenance(note="\x1b[2J\x9b1m wiped"))
    text = run("show", noisy().name)
    assert "\x1b" not in text
    assert "\x9b" not in text
    assert "\\x1b[2J" in text


@pytest.mark.parametrize("command", ["show", "export"])
def test_tampered_files_are_refused(run: Session, command: str) -> None:
    name = broken(run)
    assert "not exact over Z" in run(command, name, code=2)


def test_verify(run: Session) -> None:
    assert "all 64 coefficients checked" in run("verify", strassen().name)
    assert run.json("verify", strassen_mod_2().name)["exact_over"] == ["Z2"]
    assert "not exact: ring R, rel_sq_error" in run("verify", noisy().name, code=1)
    name = broken(run)
    assert "the first at a" in run("verify", name, code=1)
    assert run.json("verify", name, code=1)["exact"] is False
    run("verify", "absent", code=2)


def test_verify_finds_another_s_id(run: Session, tmp_path: Path) -> None:
    path = tmp_path / "changed.json"
    path.write_text(codec.dumps(strassen()).replace(strassen().id, "0" * 64))
    assert "tampered" in run("verify", path, code=1)


def test_best(run: Session) -> None:
    assert strassen().name in run("best", "--tile", 2, "--rank", 7)
    assert run.json("best", "--tile", 2, "--rank", 7, "--inexact")["algorithm"]["name"] == noisy(rank=7).name
    assert "ranks that do: 5, 7" in run("best", "--tile", 2, "--rank", 6, code=2)
    assert "rank 9 is not valid for 2x2x2" in run("best", "--tile", 2, "--rank", 9, code=2)
    assert "none of 3x3x3 does" in run("best", "--tile", 3, "--rank", 23, code=2)


@pytest.mark.parametrize("ending", ["json", "npz", "safetensors"])
def test_export_then_import(run: Session, tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"out.{ending}"
    run("export", noisy().name, "--out", path)
    run("rm", noisy().name)
    assert run("import", path) == noisy().name + "\n"
    assert run.registry.get(noisy().name).algorithm.provenance == noisy().provenance


def test_export_to_stdout(run: Session) -> None:
    assert run("export", noisy().name) == codec.dumps(noisy())
    assert "def multiply" in run("export", noisy().name, "--format", "python")
    assert "\\begin{align*}" in run("export", noisy().name, "--format", "latex")
    assert "binary" in run("export", noisy().name, "--format", "npz", code=2)


def test_export_faults(run: Session, tmp_path: Path) -> None:
    assert "json, npz, safetensors, python, latex" in run("export", noisy().name, "--out", tmp_path / "x.pkl", code=2)
    for name in ("json", "npz", "safetensors", "python", "latex"):
        assert name in run("export", noisy().name, "--format", "pickle", code=2)
    assert "cannot write" in run("export", noisy().name, "--out", tmp_path / "absent" / "x.json", code=2)


def test_import_adds_all_or_nothing(run: Session, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    good.write_text(codec.dumps(noisy(seed=9)))
    bad.write_text("{")
    assert "bad.json: not valid JSON" in run("import", good, bad, code=2)
    assert noisy(seed=9).name not in run("list")
    run("import", good)
    assert noisy(seed=9).name in run("list")
    assert "no such file" in run("import", tmp_path / "absent.json", code=2)


def test_rm(run: Session) -> None:
    assert "removed" in run("rm", noisy().name)
    assert noisy().name not in run("list")
    assert "no algorithm is called" in run("rm", noisy().name, code=2)
    name = broken(run)
    run("rm", name)
    assert run.err == ""


@pytest.mark.parametrize("tile", ["0", "4x4", "abc", "-3", "", "2x2x2x2", "1e3", "4.5", "99999999999"])
def test_bad_tiles(run: Session, tile: str) -> None:
    assert "2x3x4" in run("list", "--tile", tile, code=2)


@pytest.mark.parametrize("rank", ["0", "-1", "2.5", "abc", "", "1e3", "9" * 30])
def test_bad_ranks(run: Session, rank: str) -> None:
    assert "a rank is an integer of at least 1" in run("list", "--rank", rank, code=2)


@pytest.mark.parametrize("value", ["0", "-1", "nan", "inf", "x"])
def test_bad_amplifications(run: Session, value: str) -> None:
    assert "expected a number above 0" in run("list", "--max-amplification", value, code=2)


def test_a_registry_that_cannot_be_used(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "file").write_text("")
    assert main(["list", "--registry", str(tmp_path / "file")]) == 2
    assert "cannot read the registry" in capsys.readouterr().err


def test_these_commands_load_no_torch(tmp_path: Path) -> None:
    code = (
        "import sys\n"
        "from stlsearch.commands import main\n"
        "assert main(['list', '--registry', sys.argv[1]]) == 0\n"
        "heavy = {'torch', 'scipy', 'sympy', 'matplotlib', 'networkx', 'jsonschema'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=True, timeout=60, cwd=Path(__file__).parent.parent)
