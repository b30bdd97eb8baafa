"""The registry: one JSON file an algorithm, in two layers.

The shipped layer comes with the package and is never written; the user's layer is a folder of
their own. A file is called `<name>.json` after `BilinearAlgorithm.name`, so looking an algorithm up
by tile, rank or id reads only the files it needs. Writers never meet: every algorithm has its own
file, and a file appears by renaming.
"""

from __future__ import annotations

import difflib
import os
import re
import tempfile
from dataclasses import dataclass
from functools import cache, lru_cache
from pathlib import Path

import stlsearch
from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError, RegistryError
from stlsearch.metric import Metric
from stlsearch.registry import codec
from stlsearch.registry.atomic import write_atomic
from stlsearch.registry.text import read_bytes
from stlsearch.targets import Target

ENVIRONMENT = "STLSEARCH_HOME"
MOST_LISTED = 6  # names in an error message


@dataclass(frozen=True)
class Entry:
    """One registered algorithm, with the file and the layer ("shipped", "user", or "file") it came from."""

    algorithm: BilinearAlgorithm
    path: Path
    layer: str


@dataclass(frozen=True)
class Broken:
    """A file that was skipped, and why, in one line."""

    path: Path
    reason: str


@dataclass(frozen=True)
class Registry:
    """Algorithms in the shipped folder (read-only) and in the user's `folder`. Either may be absent.

    Where both hold the same name the user's file is used: whatever is wrong with it, the user can mend.
    """

    folder: Path | None
    shipped: Path | None = None

    def add(self, algorithm: BilinearAlgorithm) -> Path:
        """Store an algorithm and return its file; one that is there already is left as it is.

        But a complete provenance replaces that of a run cut short (its `status` says so) that got equally far.

        Raises:
            InputError: it could not be loaded again (not exact as claimed, provenance that JSON cannot hold).
            RegistryError: no folder, an unwritable one, a full disk, or another algorithm under the same name.
        """
        data = codec.dumps(algorithm).encode()
        codec.loads(data)  # nothing is stored that would be refused afterwards
        known = self._files().get(algorithm.name)
        if known and (stored := self._stored(known[0])):
            if stored.id != algorithm.id:
                raise RegistryError(f"{known[0]} holds another algorithm whose id begins with the same 8 digits")
            if known[1] == "shipped" or not (_cut_short(stored) and not _cut_short(algorithm)):
                return known[0]
        path = self._made_folder() / f"{algorithm.name}.json"
        write_atomic(path, data)
        return path

    def check_writable(self) -> None:
        """Create the user's folder and try a file in it, so that a long computation does not find out at its end.

        Raises:
            RegistryError: no folder, or an unwritable one.
        """
        folder = self._made_folder()
        try:
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise RegistryError(f"cannot write to the registry {folder}: {error.strerror or error}") from None

    def entries(self) -> tuple[list[Entry], list[Broken]]:
        """Every algorithm sorted by target, rank, e and g, and every file that could not be used."""
        return self.find()

    def find(
        self,
        target: Target | None = None,
        rank: int | None = None,
        *,
        exact: bool | None = None,
        max_amplification: float | None = None,
    ) -> tuple[list[Entry], list[Broken]]:
        """The algorithms that meet every condition given, sorted by target, rank, e and g, and the broken files met.

        Raises:
            RegistryError: a folder that cannot be read.
        """
        found, broken = [], []
        for stem, (path, layer) in self._files().items():
            name = _NAME.fullmatch(stem)
            if name and ((target and name["slug"] != target.slug) or (rank is not None and int(name["rank"]) != rank)):
                continue
            try:
                algorithm = self._load(path)
            except InputError as error:
                if os.path.lexists(path):  # else another process has just removed it
                    broken.append(Broken(path, str(error)))
                continue
            if target is not None and algorithm.target != target:  # two tensors may share the 8 digits of their names
                continue
            if exact is not None and algorithm.is_exact != exact:
                continue
            if max_amplification is not None and algorithm.amplification > max_amplification:
                continue
            found.append(Entry(algorithm, path, layer))
        return sorted(found, key=_order), broken

    def best(
        self,
        target: Target,
        rank: int,
        *,
        max_amplification: float | None = None,
        exact: bool | None = None,
        metric: Metric | None = None,
    ) -> Entry | None:
        """The registered algorithm of exactly that rank with the lowest e, then the lowest g; None when there is none.

        Only algorithms usable on real matrices count: none over Z2, Zp or complex numbers. Without a metric, those made for
        one do not count either; with one, all count, and e and g are those under it.
        """
        if metric is None:
            found, _ = self.find(target, rank, exact=exact, max_amplification=max_amplification)
            return next((entry for entry in found if entry.algorithm.is_real and entry.algorithm.metric is None), None)
        measured = []
        for entry in self.find(target, rank, exact=exact)[0]:
            if entry.algorithm.is_real:
                e, g = metric.error(entry.algorithm), metric.amplification(entry.algorithm)
                if max_amplification is None or g <= max_amplification:
                    measured.append((e, g, entry.algorithm.name, entry))
        return min(measured, key=lambda item: item[:3])[3] if measured else None

    def get(self, name: str) -> Entry:
        """The algorithm called `name`: a name, a unique prefix of one, the beginning of an id, or a .json file.

        Raises:
            InputError: unknown or ambiguous name (with the candidates), or a broken or tampered file.
            RegistryError: a file that cannot be read.
        """
        path, layer = self.locate(name)
        try:
            algorithm = self._load(path, named=layer != "file")
        except InputError as error:
            raise InputError(f"{path}: {error}") from None
        if _ID.fullmatch(name) and layer != "file" and not algorithm.id.startswith(name):
            raise InputError(f"no algorithm has the id {name}; {algorithm.name} has {algorithm.id}")
        return Entry(algorithm, path, layer)

    def locate(self, name: str) -> tuple[Path, str]:
        """The file and layer of what `get` would load, without loading it.

        Raises:
            InputError: unknown or ambiguous name.
        """
        if name.endswith(".json") or os.sep in name:
            path = Path(name).expanduser()
            if not path.exists():
                raise InputError(f"no such file: {name}")
            return path, "file"
        return self._resolve(name, self._files())

    def remove(self, name: str) -> Path:
        """Delete an algorithm (a broken file too) from the user's layer and return the file that was there.

        Raises:
            InputError: unknown or ambiguous name, or an algorithm that is only in the shipped layer.
            RegistryError: it cannot be deleted.
        """
        files = self._files()
        own = {stem: (path, "user") for stem, path in self._layer(self.folder).items()}
        if not any(_matches(name, stem) for stem in own) and any(_matches(name, stem) for stem in files):
            path, _ = self._resolve(name, files)
            raise InputError(f"{path.stem} is shipped with stlsearch and cannot be removed")
        path, _ = self._resolve(name, own)
        try:
            path.unlink()
        except OSError as error:
            raise RegistryError(f"cannot remove {path}: {error.strerror or error}") from None
        return path

    def _made_folder(self) -> Path:
        if self.folder is None:
            raise RegistryError("this registry has no folder to write to")
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RegistryError(f"cannot create the registry {self.folder}: {error.strerror or error}") from None
        return self.folder

    def _files(self) -> dict[str, tuple[Path, str]]:
        """File stem -> (file, layer); the user's files come before the shipped ones."""
        shipped = {stem: (path, "shipped") for stem, path in self._layer(self.shipped).items()}
        return {**shipped, **{stem: (path, "user") for stem, path in self._layer(self.folder).items()}}

    @staticmethod
    def _layer(folder: Path | None) -> dict[str, Path]:
        if folder is None:
            return {}
        try:
            return {path.stem: path for path in sorted(folder.iterdir()) if path.suffix == ".json" and not path.name.startswith(".")}
        except FileNotFoundError:
            return {}  # a registry begins as a folder that does not exist yet
        except OSError as error:
            raise RegistryError(f"cannot read the registry {folder}: {error.strerror or error}") from None

    @staticmethod
    def _load(path: Path, named: bool = True) -> BilinearAlgorithm:
        try:
            status = path.stat()
            algorithm = _verified(path, status.st_mtime_ns, status.st_size, status.st_ino)
        except OSError as error:
            raise InputError(f"cannot be read: {error.strerror or error}") from None
        if named and path.stem != algorithm.name:
            raise InputError(f"the file must be named {algorithm.name}.json, after what it holds; rename it or use `stlsearch import`")
        return algorithm

    def _stored(self, path: Path) -> BilinearAlgorithm | None:
        try:
            return self._load(path)
        except InputError:  # a broken file is replaced
            return None

    def _resolve(self, name: str, files: dict[str, tuple[Path, str]]) -> tuple[Path, str]:
        if name in files:
            return files[name]
        matches = [stem for stem in files if _matches(name, stem)]
        if len(matches) == 1:
            return files[matches[0]]
        if matches:
            more = f" and {len(matches) - MOST_LISTED} more" if len(matches) > MOST_LISTED else ""
            raise InputError(f"{name!r:.80} is ambiguous, it may be {', '.join(matches[:MOST_LISTED])}{more}")
        close = difflib.get_close_matches(name[:200], files, MOST_LISTED, cutoff=0.5)
        hint = f"close names: {', '.join(close)}" if close else "`stlsearch list` shows what there is"
        raise InputError(f"no algorithm is called {name!r:.80}; {hint}")


@lru_cache(maxsize=4096)
def _verified(path: Path, modified: int, size: int, inode: int) -> BilinearAlgorithm:
    """A file's algorithm, verified once for as long as the file stays the same: searches look at all of them again and again."""
    return codec.loads(read_bytes(path))


def open_registry(path: str | Path | None = None) -> Registry:
    """The registry in `path`, else in $STLSEARCH_HOME, else in the user's data folder, over the shipped algorithms.

    The data folder is $XDG_DATA_HOME/stlsearch, by default ~/.local/share/stlsearch. Nothing is created.
    """
    chosen = path or os.environ.get(ENVIRONMENT)
    try:
        folder = Path(chosen).expanduser() if chosen else _data_folder() / "stlsearch"
    except RuntimeError:
        raise RegistryError(f"no home folder is known: give --registry or set {ENVIRONMENT}") from None
    return Registry(folder, shipped_folder())


def shipped_folder() -> Path | None:
    """Where the shipped algorithms lie: in the installed package, or `algorithms/` of a checkout."""
    package = Path(stlsearch.__file__).parent
    return next((folder for folder in (package / "shipped", package.parent / "algorithms") if folder.is_dir()), None)


@cache
def shipped_exact() -> tuple[BilinearAlgorithm, ...]:
    """The shipped algorithms that are exact on real matrices, sorted by target and rank; read once."""
    found, _ = Registry(None, shipped_folder()).find(exact=True)
    return tuple(entry.algorithm for entry in found if entry.algorithm.is_real)


_NAME = re.compile(r"(?P<slug>.+)_r(?P<rank>[0-9]{1,9})_[A-Za-z0-9]+_[0-9a-f]{8}")
_ID = re.compile(r"[0-9a-f]{4,64}")


def _data_folder() -> Path:
    configured = Path(os.environ.get("XDG_DATA_HOME", ""))
    return configured if configured.is_absolute() else Path("~/.local/share").expanduser()  # the XDG standard: ignore relative ones


def _cut_short(algorithm: BilinearAlgorithm) -> bool:
    return algorithm.provenance.get("status") in ("interrupted", "time limit")


def _matches(name: str, stem: str) -> bool:
    """A prefix of the file's stem, or 4 or more digits that begin the id (of which the stem ends with the first 8)."""
    short = stem.rpartition("_")[2]
    return stem.startswith(name) or (_ID.fullmatch(name) is not None and short.startswith(name[:8]))


def _order(entry: Entry) -> tuple:
    algorithm = entry.algorithm
    return (
        algorithm.target.kind,
        algorithm.target.shape or algorithm.target.dims,
        algorithm.rank,
        algorithm.error,
        algorithm.amplification,
        algorithm.name,
    )
