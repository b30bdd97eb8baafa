"""The registry: lookups, two layers, atomic writes, concurrent writers, broken files."""

from __future__ import annotations

import errno
import json
import multiprocessing
import os
from pathlib import Path

import pytest
from samples import every_kind, karatsuba, noisy, strassen, strassen_mod_2

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError, RegistryError
from stlsearch.registry import codec
from stlsearch.registry.store import Registry, open_registry, shipped_folder
from stlsearch.targets import Target

SQUARE = Target.matmul(2, 2, 2)


@pytest.fixture
def registry(tmp_path: Path) -> Registry:
    return Registry(tmp_path / "own", tmp_path / "shipped")


def ship(registry: Registry, algorithm: BilinearAlgorithm) -> Path:
    return Registry(registry.shipped).add(algorithm)


def test_add_then_get_every_kind(registry: Registry) -> None:
    for algorithm in every_kind()[:-1]:  # the last is Strassen again, with a metric
        path = registry.add(algorithm)
        assert path == registry.folder / f"{algorithm.name}.json"  # type: ignore[operator]
        entry = registry.get(algorithm.name)
        assert (entry.algorithm.id, entry.path, entry.layer) == (algorithm.id, path, "user")
    found, broken = registry.entries()
    assert len(found) == len(every_kind()) - 1
    assert broken == []


def test_adding_again_changes_nothing(registry: Registry) -> None:
    path = registry.add(strassen(first=True))
    before = path.read_bytes()
    assert registry.add(strassen(first=False)) == path
    assert path.read_bytes() == before


def test_what_is_shipped_is_not_stored_again(registry: Registry) -> None:
    path = ship(registry, strassen())
    assert registry.add(strassen()) == path
    assert registry.folder is not None
    assert not registry.folder.exists()


def test_a_broken_file_is_replaced_by_adding(registry: Registry) -> None:
    path = registry.add(strassen())
    path.write_text(path.read_text()[:100])
    registry.add(strassen())
    assert registry.get(path.stem).algorithm.id == strassen().id


def test_an_inexact_claim_of_exactness_is_not_stored(registry: Registry) -> None:
    good = strassen().exact
    assert good is not None
    wrong = BilinearAlgorithm.from_exact(SQUARE, good[0], good[1], good[1], verify=False)
    with pytest.raises(InputError, match="not exact over Z"):
        registry.add(wrong)
    assert registry.entries() == ([], [])


def test_two_algorithms_under_one_name_are_told_apart(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(BilinearAlgorithm, "name", property(lambda self: "same_r1_R_00000000"))
    registry.add(noisy(seed=1))
    with pytest.raises(RegistryError, match="another algorithm"):
        registry.add(noisy(seed=2))
    assert registry.get("same").algorithm.id == noisy(seed=1).id


def test_lookup_by_prefix_id_and_path(registry: Registry) -> None:
    algorithm = strassen()
    path = registry.add(algorithm)
    registry.add(noisy(seed=1))
    for name in (algorithm.name, "2x2x2_r7", algorithm.id, algorithm.id[:4], algorithm.id[:20], str(path)):
        assert registry.get(name).algorithm.id == algorithm.id, name
    assert registry.get(str(path)).layer == "file"
    other = algorithm.id[:12] + ("0" if algorithm.id[12] != "0" else "1")
    with pytest.raises(InputError, match="no algorithm has the id"):
        registry.get(other)


def test_unknown_and_ambiguous_names_list_candidates(registry: Registry) -> None:
    names = sorted(registry.add(noisy(seed=seed)).stem for seed in range(8))
    with pytest.raises(InputError, match=r"ambiguous.* and 2 more") as caught:
        registry.get("2x2x2_r5")
    assert all(name in str(caught.value) for name in names[:6])
    with pytest.raises(InputError, match=f"no algorithm is called.*{names[0]}"):
        registry.get(names[0] + "0")
    with pytest.raises(InputError, match="stlsearch list"):
        registry.get("laderman")
    with pytest.raises(InputError, match="no such file"):
        registry.get("absent.json")


def test_broken_files_are_reported_and_skipped(registry: Registry) -> None:
    path = registry.add(strassen())
    folder = path.parent
    (folder / "2x2x2_r7_Z_00000000.json").write_text("{")
    (folder / "mine.json").write_text(path.read_text())
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "note.txt").write_text("not an algorithm")
    found, broken = registry.entries()
    assert [entry.path for entry in found] == [path]
    reasons = {report.path.name: report.reason for report in broken}
    assert set(reasons) == {"2x2x2_r7_Z_00000000.json", "mine.json", "folder.json", "pipe.json"}
    assert "not valid JSON" in reasons["2x2x2_r7_Z_00000000.json"]
    assert path.name in reasons["mine.json"]
    assert "not a regular file" in reasons["pipe.json"]
    with pytest.raises(InputError, match="not valid JSON"):
        registry.get("2x2x2_r7_Z_00000000")
    assert registry.remove("mine").name == "mine.json"


def test_tampered_files_are_refused(registry: Registry) -> None:
    path = registry.add(noisy())
    document = json.loads(path.read_text())
    document["factors"]["U"]["real"][0][0] *= 1.5
    path.write_text(json.dumps(document))
    with pytest.raises(InputError, match="tampered"):
        registry.get(path.stem)
    assert registry.entries()[0] == []


def test_find_filters_and_sorts(registry: Registry) -> None:
    exact, small, large, other = strassen(), noisy(seed=1), noisy(seed=2), karatsuba()
    for algorithm in (exact, small, large, other):
        registry.add(algorithm)
    ship(registry, noisy(Target.matmul(2, 2, 3), 5))
    order = [(e.algorithm.target.slug, e.algorithm.rank) for e in registry.entries()[0]]
    assert order == [("2x2x2", 5), ("2x2x2", 5), ("2x2x2", 7), ("2x2x3", 5), ("polymul2x2", 3)]
    errors = [entry.algorithm.error for entry in registry.find(SQUARE, 5)[0]]
    assert errors == sorted([small.error, large.error])
    assert [e.algorithm.id for e in registry.find(exact=True)[0]] == [exact.id, other.id]
    limit = min(small.amplification, large.amplification)
    assert {e.algorithm.amplification for e in registry.find(SQUARE, 5, max_amplification=limit)[0]} == {limit}


def test_best_is_the_lowest_error_then_amplification_and_real(registry: Registry) -> None:
    registry.add(strassen_mod_2())
    assert registry.best(SQUARE, 7) is None
    registry.add(noisy(rank=7))
    registry.add(strassen())
    best = registry.best(SQUARE, 7)
    assert best is not None
    assert best.algorithm.id == strassen().id
    inexact = registry.best(SQUARE, 7, exact=False)
    assert inexact is not None
    assert inexact.algorithm.id == noisy(rank=7).id
    assert registry.best(SQUARE, 6) is None
    assert registry.best(Target.matmul(2, 2, 3), 7) is None


def test_only_ones_own_can_be_removed(registry: Registry) -> None:
    shipped = ship(registry, strassen())
    own = registry.add(karatsuba())
    with pytest.raises(InputError, match="shipped"):
        registry.remove(shipped.stem)
    assert registry.remove(own.stem) == own
    assert not own.exists()
    with pytest.raises(InputError, match="no algorithm is called"):
        registry.remove(own.stem)


@pytest.mark.parametrize("function", ["os.fsync", "os.replace"])
def test_a_full_disk_leaves_nothing_behind(registry: Registry, monkeypatch: pytest.MonkeyPatch, function: str) -> None:
    old = registry.add(strassen())

    def fail(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(function, fail)
    with pytest.raises(RegistryError, match="No space left"):
        registry.add(noisy())
    assert list(old.parent.iterdir()) == [old]
    assert registry.get(old.stem).algorithm.id == strassen().id


def test_interrupting_a_write_leaves_nothing_behind(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", interrupt)
    with pytest.raises(KeyboardInterrupt):
        registry.add(strassen())
    assert registry.folder is not None
    assert list(registry.folder.iterdir()) == []


def test_an_unusable_folder_is_one_clear_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        for attempt in (lambda at=folder: Registry(at).add(strassen()), lambda at=folder: Registry(at).check_writable()):
            with pytest.raises(RegistryError, match=str(tmp_path)):
                attempt()
    with pytest.raises(RegistryError, match="no folder"):
        Registry(None).add(strassen())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_an_unwritable_folder_is_one_clear_error(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with pytest.raises(RegistryError, match="cannot write"):
        Registry(tmp_path).add(strassen())


def test_trying_a_folder_leaves_it_empty(registry: Registry, monkeypatch: pytest.MonkeyPatch) -> None:
    registry.check_writable()
    assert registry.folder is not None
    assert list(registry.folder.iterdir()) == []

    def fail(*_: object, **__: object) -> None:
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.setattr("tempfile.TemporaryFile", fail)
    with pytest.raises(RegistryError, match="Read-only"):
        registry.check_writable()


def _write(folder: Path, seeds: range) -> None:
    registry = Registry(folder)
    for seed in seeds:
        registry.add(noisy(seed=seed))


def test_concurrent_writers_lose_nothing(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    workers = [context.Process(target=_write, args=(tmp_path, seeds)) for seeds in (range(0, 20), range(10, 30), range(0, 30))]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(30)
        assert worker.exitcode == 0
    found, broken = Registry(tmp_path).entries()
    assert {entry.algorithm.id for entry in found} == {noisy(seed=seed).id for seed in range(30)}
    assert broken == []
    assert all(path.suffix == ".json" for path in tmp_path.iterdir())


def test_files_follow_the_umask(registry: Registry) -> None:
    before = os.umask(0o027)
    try:
        assert registry.add(strassen()).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_where_the_registry_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("XDG_DATA_HOME", raising=False)
    monkeypatch.delenv("STLSEARCH_HOME", raising=False)
    assert open_registry().folder == tmp_path / "home/.local/share/stlsearch"
    monkeypatch.setenv("XDG_DATA_HOME", "relative")
    assert open_registry().folder == tmp_path / "home/.local/share/stlsearch"
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    assert open_registry().folder == tmp_path / "data/stlsearch"
    monkeypatch.setenv("STLSEARCH_HOME", str(tmp_path / "env"))
    assert open_registry().folder == tmp_path / "env"
    assert open_registry(tmp_path / "given").folder == tmp_path / "given"
    assert not any(tmp_path.iterdir())


def test_every_shipped_file_loads() -> None:
    found, broken = Registry(None, shipped_folder()).entries()
    assert broken == []
    assert all(entry.layer == "shipped" for entry in found)


def test_a_file_that_loads_is_the_codec_s(registry: Registry) -> None:
    path = registry.add(strassen())
    assert path.read_text(encoding="utf-8") == codec.dumps(strassen())
