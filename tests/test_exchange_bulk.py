"""Folders of files, reported and taken in, and the commands that import and export."""

from __future__ import annotations

import os
import re
import signal
from pathlib import Path

import pytest
from exchange_samples import (
    FOREIGN,
    files_of,
    gaussian_strassen,
    over,
    tall,
    winograd_like,
)
from samples import definition, noisy, strassen, strassen_mod_2
from test_cli_registry import Session

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.bulk import Intake, collect, summary
from stlsearch.commands import main
from stlsearch.constructions.classical import laderman
from stlsearch.registry import codec
from stlsearch.registry.formats import EXPORTERS
from stlsearch.registry.store import Registry

# Bulk import


def test_a_folder_gives_a_report(tmp_path: Path) -> None:
    folder = tmp_path / "found"
    (folder / "deeper" / ".hidden").mkdir(parents=True)
    registry = Registry(tmp_path / "registry")
    registry.add(definition(2, 2, 2))
    registry.add(laderman())
    files_of(strassen(), "fast-matmul", folder, "a_strassen")
    files_of(winograd_like(), "plinopt", folder, "b_equivalent")
    files_of(laderman(), "kauers", folder / "deeper", "c_known")
    files_of(definition(2, 2, 3), "exp", folder / "deeper", "d_new")
    (folder / "e_broken.exp").write_text("(a11)*(b11)*(c12)\n(a12)*(b21)*(c11)\n")
    (folder / "f_broken.json").write_text("{")
    (folder / "README.md").write_text("# Schemes\n\n[[1, 2], [3, 4]]\n")
    (folder / "package.json").write_text('{"name": "x"}')
    (folder / "empty.txt").touch()
    (folder / "tool.py").write_text("import numpy as np\nx = [np.array([1, 2])]\n")
    (folder / "deeper" / ".hidden" / "x.json").write_text("{")
    (folder / "loop").symlink_to(folder)
    rows = []
    for dry_run in (True, False):
        intake = Intake(registry, dry_run)
        rows = [row for path in collect([folder]) for row in intake.take(path)]
        assert len(registry.find()[0]) == (2 if dry_run else 4)
    found = {row.path.name: (row.verdict, row.detail) for row in rows}
    assert found["a_strassen"] == ("better", "rank 7 instead of 8")
    assert found["b_equivalent_L.sms"] == ("duplicate", f"is equivalent to {strassen().name}")
    assert found["c_known.m"] == ("duplicate", f"is {laderman().name}")
    assert found["d_new.exp"] == ("new", "")
    assert found["e_broken.exp"][0] == "invalid"
    assert found["f_broken.json"] == ("invalid", "not valid JSON: Expecting property name enclosed in double quotes at line 1, column 2")
    assert {name for name, (verdict, _) in found.items() if verdict == "skipped"} == {"README.md", "package.json", "empty.txt", "tool.py"}
    assert summary(rows) == {"new": 1, "better": 1, "duplicate": 2, "invalid": 2, "skipped": 4}
    assert len(found) == 10
    again = Intake(registry)
    assert summary([row for path in collect([folder]) for row in again.take(path)])["duplicate"] == 4
    assert not any("deeper" in str(path) for path in collect([folder], recursive=False))


def test_better_is_within_the_ring(tmp_path: Path) -> None:
    intake = Intake(Registry(tmp_path / "registry"))
    verdicts = []
    for index, algorithm in enumerate((definition(2, 2, 2), over(3), strassen_mod_2(), strassen(), noisy(rank=5))):
        path = tmp_path / f"{index}.json"
        path.write_text(codec.dumps(algorithm))
        verdicts += [(row.verdict, row.detail) for row in intake.take(path)]
    assert verdicts[:3] == [("new", ""), ("better", "rank 7 instead of 8"), ("better", "rank 7 instead of 8")]
    assert verdicts[3] == ("better", "rank 7 instead of 8")  # the same over Q, and over Z it can do more
    assert verdicts[4] == ("new", "")


def test_families_in_eps_are_verified_and_skipped(tmp_path: Path) -> None:
    (tmp_path / "border").write_text("x\n#\n1\n#\nxi\n")
    (tmp_path / "wrong").write_text("x\n#\n1\n#\n1\n")
    intake = Intake(Registry(tmp_path / "registry"))
    rows = {row.path.name: row for path in collect([tmp_path / "border", tmp_path / "wrong"]) for row in intake.take(path)}
    assert rows["border"].verdict == "skipped"
    assert "a family in eps for 1x1x1 of rank 1, verified (exact at every eps)" in rows["border"].detail
    assert rows["wrong"].verdict == "invalid"


def test_a_twin_must_be_over_the_ring_or_a_smaller_one(tmp_path: Path) -> None:
    algorithms = [
        gaussian_strassen(),
        over(3),
        strassen(),
        winograd_like(),
        over(4),
        gaussian_strassen(),
        strassen_mod_2(),
        definition(2, 2, 2),
    ]
    intake = Intake(Registry(tmp_path / "registry"), dry_run=True)
    rows = []
    for index, algorithm in enumerate(algorithms):
        rows += intake.take(files_of(algorithm, "maple", tmp_path, str(index)))
    verdicts = ["new", "new", "new", "duplicate", "duplicate", "duplicate", "new", "new"]
    assert [row.verdict for row in rows] == verdicts
    assert rows[3].detail == f"is equivalent to {strassen().name}"
    assert rows[5].detail == f"is {gaussian_strassen().name}"


def test_a_twin_that_is_written_better_is_new_and_others_are_on_request(tmp_path: Path) -> None:
    files = [files_of(algorithm, "maple", tmp_path, str(index)) for index, algorithm in enumerate((winograd_like(), strassen(), over(3)))]
    for keep, last in ((False, "duplicate"), (True, "new")):
        intake = Intake(Registry(tmp_path / f"registry{keep}"), keep_equivalent=keep)
        rows = [row for path in files for row in intake.take(path)]
        assert [row.verdict for row in rows] == ["new", "new", last]
        assert (
            rows[1].detail
            == f"is equivalent to {winograd_like().name}, with 18 additions instead of 22 and amplification 4 instead of 5.75"
        )
        assert rows[2].detail == f"is equivalent to {strassen().name}"
        assert len(intake.registry.find()[0]) == 2 + keep


# The commands


@pytest.fixture
def run(tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Session:
    monkeypatch.setattr("stlsearch.registry.store.shipped_folder", lambda: None)
    session = Session(tmp_path / "registry", capsys)
    for algorithm in (strassen(), over(3), noisy()):
        session.registry.add(algorithm)
    return session


@pytest.mark.parametrize("name", FOREIGN)
def test_export_and_import_from_the_command_line(run: Session, tmp_path: Path, name: str) -> None:
    out = tmp_path / f"out{EXPORTERS[name].extension}"
    run("export", strassen().name, "--format", name, "--out", out)
    assert not list(tmp_path.glob(".*"))
    out = tmp_path / "out_L.sms" if name == "plinopt" else out
    run("rm", strassen().name)
    assert run("import", out) == strassen().name + "\n"
    document = run.json("import", out)
    assert document["algorithms"][0]["id"] == strassen().id
    assert document["algorithms"][0]["format"] == name


def test_what_was_found_is_said(run: Session, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = files_of(tall(), "plinopt", tmp_path)
    assert main(["import", str(path)]) == 0
    assert capsys.readouterr().err == f"{path}: read as row-major; 2x3x4 deduced from factors of 6, 12 and 8 entries\n"
    path = files_of(strassen_mod_2(), "exp", tmp_path)
    assert main(["import", str(path)]) == 0
    assert "over Z2" in capsys.readouterr().err
    assert main(["import", str(path), "--ring", "Z"]) == 2
    assert "not exact over Z: " in capsys.readouterr().err
    assert main(["import", str(path), "--ring", "Z4"]) == 2
    assert "unknown ring" in capsys.readouterr().err
    assert main(["import", str(path), "--tile", "3"]) == 2
    assert "not those of 3x3x3" in capsys.readouterr().err
    own = tmp_path / "own.json"
    own.write_text(codec.dumps(strassen()))
    assert main(["import", str(own), "--ring", "Z2"]) == 2
    assert "a ring can be asked for only of other programs' files" in capsys.readouterr().err


def test_what_is_registered_in_another_basis_is_named_and_not_added(run: Session, tmp_path: Path) -> None:
    path = files_of(winograd_like(), "json", tmp_path)
    before = run("list")
    assert run("import", path) == f"{strassen().name}\n"
    assert run.err == f"not stored: {strassen().name}, which is registered, is the same in another basis, and no worse\n"
    (row,) = run.json("import", path)["algorithms"]
    assert (row["verdict"], row["id"], row["registered"]) == ("duplicate", winograd_like().id, strassen().name)
    assert run("list") == before
    (row,) = run.json("import", path, "--keep-equivalent")["algorithms"]
    assert (row["verdict"], row["registered"]) == ("imported", winograd_like().name)
    assert row["detail"] == f"{winograd_like().name} is {strassen().name} in another basis"
    assert winograd_like().name in run("list")


def test_export_faults_are_one_line(run: Session, tmp_path: Path) -> None:
    assert "alphatensor holds integers only" in run("export", over(3).name, "--format", "alphatensor", "--out", tmp_path / "x.npz", code=2)
    assert "has floating-point numbers" in run("export", noisy().name, "--format", "kauers", code=2)
    assert "three files" in run("export", strassen().name, "--format", "plinopt", code=2)
    assert "binary" in run("export", strassen().name, "--format", "flip-cpd", code=2)
    assert "no folder" in run("export", strassen().name, "--out", tmp_path / "absent" / "x.sms", code=2)
    assert "names no format" in run("export", strassen().name, "--out", tmp_path / "x", code=2)
    assert not list(tmp_path.glob("x*"))


def test_the_report_of_a_folder(run: Session, tmp_path: Path) -> None:
    folder = tmp_path / "found"
    folder.mkdir()
    files_of(strassen(), "exp", folder, "same")
    files_of(laderman(), "maple", folder, "fresh")
    text = run("import", folder, "--dry-run")
    assert re.search(rf"same\.exp +2x2x2 +7 +Z +duplicate +is {strassen().name}", text)
    assert "1 new, 0 better, 1 duplicate, 0 invalid, 0 skipped; nothing was added" in text
    assert laderman().name not in run("list")
    (folder / "wrong.m").write_text("{{{{1}}, {{1}}, {{2}}}}")
    assert re.search(
        r"wrong\.m +invalid +not exact over Z: c11 gets a11\*b11 with coefficient 2, expected 1; 1 coef", run("import", folder, code=1)
    )
    assert laderman().name in run("list")
    document = run.json("import", folder, "--no-recursive", code=1)
    assert document["summary"] == {"new": 0, "better": 0, "duplicate": 2, "invalid": 1, "skipped": 0}
    assert [row["verdict"] for row in document["rows"]] == ["duplicate", "duplicate", "invalid"]
    assert document["rows"][1]["remarks"]
    assert "no such file or folder" in run("import", tmp_path / "absent", folder, code=2)


def test_ctrl_c_keeps_what_was_added(run: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files_of(laderman(), "maple", tmp_path, "a")
    files_of(definition(1, 2, 1), "maple", tmp_path, "b")
    taken = Intake.take

    def take(self: Intake, path: Path) -> list:
        if path.name == "b.mpl":
            raise KeyboardInterrupt
        return taken(self, path)

    monkeypatch.setattr(Intake, "take", take)
    assert "1 new" in run("import", tmp_path, "--no-recursive", code=130)
    assert laderman().name in run("list")


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_ends_an_import_of_files_after_one_that_is_named(run: Session, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = [files_of(laderman(), "maple", tmp_path, "a"), files_of(definition(1, 2, 1), "maple", tmp_path, "b")]
    added = Registry.add

    def add(self: Registry, algorithm: BilinearAlgorithm) -> Path:
        os.kill(os.getpid(), signal.SIGINT)
        return added(self, algorithm)

    monkeypatch.setattr(Registry, "add", add)
    assert run("import", *files, code=130) == f"{laderman().name}\n"
    assert "1x2x1" not in run("list")
