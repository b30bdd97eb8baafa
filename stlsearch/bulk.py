"""Many files at once: every algorithm found is compared with the registry, and added when it is new.

Verdicts, one an algorithm:

- better: exact, of lower rank than every registered algorithm for the same tile that is exact over its ring;
- new: any other that the registry lacks, or holds only in a basis that is worse in some respect;
- duplicate: the same algorithm (equal `id`), or one that is equivalent to a registered one and no better
  (`stlsearch.identity.duplicates`). It is not added;
- invalid: a file of a known format that cannot be read, or an algorithm that does not verify, with the reason;
- skipped: a file that is no algorithm: of no known format, too large, or a family in eps.
"""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.identity.duplicates import known_equivalent
from stlsearch.records import implied_by
from stlsearch.registry.families import read_family
from stlsearch.registry.formats import finished, load, plinopt
from stlsearch.registry.formats.eps_entries import FamilyError
from stlsearch.registry.formats.scheme import NoAlgorithmError, Scheme
from stlsearch.registry.store import Registry
from stlsearch.registry.text import MAX_BYTES
from stlsearch.targets import Target

VERDICTS = ("new", "better", "duplicate", "invalid", "skipped")

Shape = tuple[int, int, int]


@dataclass(frozen=True)
class Row:
    """What became of one algorithm, or of a file without one.

    Attributes:
        path: the file.
        label: which of the file's algorithms it is, "" when there is but one.
        verdict: one of `VERDICTS`.
        detail: of which it is a duplicate, which rank it improves, or what is wrong.
        format: the name of the file's format, None when it is not known.
        algorithm: None for what is invalid or skipped.
        remarks: what had to be found out to read it.
    """

    path: Path
    label: str
    verdict: str
    detail: str
    format: str | None = None
    algorithm: BilinearAlgorithm | None = None
    remarks: tuple[str, ...] = ()


def collect(paths: Iterable[Path], recursive: bool = True) -> list[Path]:
    """The files named and those in the folders named, sorted within each, hidden ones left out; of PLinOpt's three in a folder only L.

    Raises:
        InputError: a path that does not exist, or a folder that cannot be read.
    """
    found: dict[Path, None] = {}
    for path in paths:
        if not os.path.isdir(path):  # noqa: PTH112 (the methods of Path raise on names that are too long)
            if not os.path.exists(path):  # noqa: PTH110
                if not plinopt.is_beginning(path):
                    raise InputError(f"{path}: no such file or folder")
                path = plinopt.paths(path)[0]
            found[path] = None
            continue
        for file in _in_folder(path, recursive):
            if not _is_second_part(file):
                found[file] = None
    return list(found)


def summary(rows: Sequence[Row]) -> dict[str, int]:
    """How many there are of each verdict."""
    counts = Counter(row.verdict for row in rows)
    return {verdict: counts[verdict] for verdict in VERDICTS}


@dataclass
class Intake:
    """Takes files into a registry, one `take` a file.

    Attributes:
        registry: where new algorithms are added.
        dry_run: add nothing; what would have been added counts as there for the files that follow.
        keep_equivalent: add what is a registered algorithm in another basis too.
        format: of every file, by default recognised.
        ring, shape: asked for of every file, as in `formats.read_all`.
    """

    registry: Registry
    dry_run: bool = False
    format: str | None = None
    ring: str | None = None
    shape: Shape | None = None
    keep_equivalent: bool = False
    _held: dict[Target, list[BilinearAlgorithm]] = field(default_factory=dict, repr=False)

    def take(self, path: Path) -> Iterator[Row]:
        """Read a file and add what is new, algorithm by algorithm; never fails for what a file holds.

        Raises:
            RegistryError: a registry that cannot be read or written.
        """
        try:
            name, items = self._loaded(path)
        except FamilyError:
            yield self._family(path)
        except NoAlgorithmError as error:
            yield Row(path, "", "skipped", str(error))
        except (InputError, OSError) as error:
            yield Row(path, "", "invalid", _less(str(error), path))
        else:
            for item in items:
                yield self._row(path, name, item)

    def _loaded(self, path: Path) -> tuple[str, list[BilinearAlgorithm | Scheme]]:
        if not path.is_file():
            raise NoAlgorithmError("not a regular file")
        size = path.stat().st_size
        if not size or size > MAX_BYTES:
            raise NoAlgorithmError(f"larger than {MAX_BYTES // 2**20} MiB" if size else "empty")
        name, items = load(path, self.format, self.shape)
        if name is None:
            raise NoAlgorithmError("of no known format")
        return name, items

    def _row(self, path: Path, format_name: str, item: BilinearAlgorithm | Scheme) -> Row:
        label = item.label if isinstance(item, Scheme) else ""
        try:
            read = finished(item, format_name, self.ring, self.shape)
        except InputError as error:
            return Row(path, label, "invalid", str(error), format_name)
        verdict, detail = self._compared(read.algorithm)
        if verdict != "duplicate":
            try:
                if not self.dry_run:
                    self.registry.add(read.algorithm)
            except InputError as error:  # what could not be loaded again
                return Row(path, label, "invalid", str(error), format_name)
            self._registered(read.algorithm.target).append(read.algorithm)
        return Row(path, label, verdict, detail, format_name, read.algorithm, read.remarks)

    def _compared(self, algorithm: BilinearAlgorithm) -> tuple[str, str]:
        held = self._registered(algorithm.target)
        if any(other.id == algorithm.id for other in held):
            return "duplicate", f"is {algorithm.name}"
        twin = known_equivalent(algorithm, held)
        if twin is not None:
            same = f"is equivalent to {twin.algorithm.name}"
            if not twin.gains and not self.keep_equivalent:
                return "duplicate", same
            return "new", f"{same}, with {' and '.join(twin.gains)}" if twin.gains else same
        ranks = [other.rank for other in held if other.is_exact and other.ring in implied_by(algorithm.ring)]
        if not algorithm.is_exact or not ranks:
            return "new", ""
        best = min(ranks)
        return ("better", f"rank {algorithm.rank} instead of {best}") if algorithm.rank < best else ("new", f"best registered: rank {best}")

    def _registered(self, target: Target) -> list[BilinearAlgorithm]:
        if target not in self._held:
            self._held[target] = [entry.algorithm for entry in self.registry.find(target)[0]]
        return self._held[target]

    @staticmethod
    def _family(path: Path) -> Row:
        try:
            family = read_family(path)
        except InputError as error:
            return Row(path, "", "invalid", _less(str(error), path))
        order = "exact at every eps" if family.order is None else f"order {family.order}"
        what = f"a family in eps for {family.target.slug} of rank {family.rank}, verified ({order})"
        return Row(path, "", "skipped", f"{what}: `stlsearch border at` registers a member")


def _in_folder(folder: Path, recursive: bool) -> list[Path]:
    found = []

    def refuse(error: OSError) -> None:
        raise InputError(f"{error.filename}: cannot be read: {error.strerror or error}")

    for where, folders, names in os.walk(folder, onerror=refuse):  # links to folders are not followed: they may go round
        folders[:] = sorted(name for name in folders if not name.startswith(".")) if recursive else []
        found += [Path(where) / name for name in sorted(names) if not name.startswith(".")]
    return found


def _is_second_part(path: Path) -> bool:
    """R.sms or P.sms of an algorithm whose L.sms is there, and brings them along."""
    if path.suffix != ".sms" or path.name.endswith("L.sms"):
        return False
    try:
        return plinopt.paths(path)[0].is_file()
    except InputError:
        return False


def _less(message: str, path: Path) -> str:
    return message.removeprefix(f"{path}: ")
