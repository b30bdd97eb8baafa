"""Checkpoints of searches: all that decides how one goes on, in one file, and the checks before anything of it is used.

A checkpoint is an npz archive without Python objects: arrays, and a header of JSON text with the options of the search and its
counts. It is written beside its place and renamed, so that it is whole whatever interrupts the writer. A search that goes on from it
does what it would have done without the interruption, bit for bit. That holds for walks that are compiled alike: `VERSION` is raised
when the moves of the walks change, and files of other versions are refused.

Compiled walks follow the indices of a state without looking at them. A state from a file is therefore compared with one built anew from
its terms: the same factors, chains and lists, in any order.
"""

from __future__ import annotations

import io
import json
import zipfile
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from stlsearch.errors import InputError
from stlsearch.registry.atomic import write_atomic
from stlsearch.search.flip_state import (
    BITS,
    COUNT,
    HEADS,
    LISTED,
    MAX_TERMS,
    MINUS,
    MODES,
    NEXT,
    NONE,
    PLACE,
    PLUS,
    PREVIOUS,
    RANK,
    RECORDS,
    RING,
    SHIFT,
    SIGN,
    WORDS,
)

FORMAT, VERSION = "stlsearch checkpoint", 1
HEADER = "header"
MAX_BYTES = 2**30  # unpacked: more than `flips.MAX_WALKERS` take


def write(path: Path, method: str, options: Mapping[str, object], counts: Mapping[str, object], arrays: Mapping[str, np.ndarray]) -> None:
    """Write a checkpoint, or nothing.

    Args:
        method: of the search, "flips" or "sizes".
        options: that decide its course, plain JSON values; `read` wants the same again.
        counts: where it stands, plain JSON values.

    Raises:
        RegistryError: the file cannot be written.
    """
    header = json.dumps({"format": FORMAT, "version": VERSION, "method": method, "options": options, "counts": counts})
    stream = io.BytesIO()
    np.savez_compressed(stream, allow_pickle=False, **{HEADER: np.frombuffer(header.encode(), dtype=np.uint8)}, **arrays)
    write_atomic(path, stream.getvalue())


def read(path: Path, method: str, options: Mapping[str, object]) -> tuple[dict, dict[str, np.ndarray]]:
    """(counts, arrays) of a checkpoint of the same search. Nothing is unpickled; what is in it has yet to be checked.

    Raises:
        InputError: no such file, not a checkpoint, one of another version or method, or of a search with other options.
    """
    try:
        with zipfile.ZipFile(path) as archive:
            if sum(member.file_size for member in archive.infolist()) > MAX_BYTES:
                raise InputError(f"{path}: unpacks to more than {MAX_BYTES // 2**20} MiB")
        with np.load(path, allow_pickle=False) as archive:
            arrays = {name: archive[name] for name in archive.files}
        header = json.loads(arrays.pop(HEADER).tobytes())
        form, version, made, stored, counts = (header.get(key) for key in ("format", "version", "method", "options", "counts"))
    except InputError:
        raise
    except OSError as error:
        raise InputError(f"cannot read the checkpoint {path}: {error.strerror or error}") from None
    except Exception:  # zipfile, zlib, NumPy and json raise a dozen kinds on damaged bytes, all of one meaning
        raise InputError(f"{path} is not a checkpoint of a search, or it is damaged") from None
    if form != FORMAT or not isinstance(stored, dict) or not isinstance(counts, dict):
        raise InputError(f"{path} is not a checkpoint of a search, or it is damaged")
    if version != VERSION:
        raise InputError(f"{path} is a checkpoint of version {version!r:.20}; this stlsearch goes on from version {VERSION} only")
    if made != method:
        raise InputError(f"{path} is a checkpoint of a search by {made!r:.20}, not by {method!r}")
    for name, value in options.items():
        if stored.get(name) != value:
            raise InputError(f"{path} is a checkpoint of a search with {name} {stored.get(name)!r:.80}, not {value!r:.80}")
    return counts, arrays


def number_in(counts: Mapping[str, object], name: str, most: int = 2**63) -> int:
    """A whole number of at least 0 among the counts of a checkpoint.

    Raises:
        InputError: it is missing, or something else, or above `most`.
    """
    value = counts.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value <= most:
        raise InputError(f"the checkpoint is damaged: its count {name!r} is {value!r:.40}")
    return value


def check_state(state: np.ndarray, fresh: np.ndarray) -> None:
    """Whether a walk can safely go on from a state, given one that `flip_state.load` made of the same terms, random numbers apart.

    Raises:
        InputError: factors that are not normalised, or an index that does not belong to the terms.
    """
    if _view(state) != _view(fresh):
        raise InputError("the checkpoint is damaged: the index of a state does not belong to its terms")


def check_rank(state: np.ndarray) -> None:
    """Whether an array can be a state at all, so that its terms can be read.

    Raises:
        InputError: another type or size, or too many terms.
    """
    if state.dtype != np.uint64 or state.shape != (WORDS,) or int(state[int(RANK)]) > MAX_TERMS:
        raise InputError("the checkpoint is damaged: an array that is not the state of a walk")


def _view(state: np.ndarray) -> object:
    """The parts of a state that its terms decide, chains and lists sorted; None if they contradict each other."""
    rank, count, none = int(state[int(RANK)]), int(state[int(COUNT)]), int(NONE)
    records = state[int(RECORDS) :].reshape(MAX_TERMS * 4, 8)[: 4 * rank].tolist()
    listed = state[int(LISTED) :][: min(count, 4 * MAX_TERMS)].tolist()
    slots = [slot for slot in range(4 * rank) if slot % 4 < 3]
    valid = set(slots)
    if len(listed) != count or not valid.issuperset(listed) or any(records[slot][int(PLACE)] != place for place, slot in enumerate(listed)):
        return None
    chains, seen = {}, 0
    heads = state[int(HEADS) : int(LISTED)]
    for place in np.flatnonzero(heads != NONE).tolist():
        chain, previous, slot = [], none, int(heads[place])
        while slot != none:
            if slot not in valid or records[slot][int(PREVIOUS)] != previous or seen == len(slots):
                return None
            chain.append(slot)
            seen += 1
            previous, slot = slot, records[slot][int(NEXT)]
        chains[place] = sorted(chain)
    factors = [(records[slot][int(PLUS)], records[slot][int(MINUS)], records[slot][int(PLACE)] == none) for slot in slots]
    signs = [records[slot][int(SIGN)] for slot in range(0, 4 * rank, 4)]
    kind = [int(state[int(word)]) for word in (RING, BITS, SHIFT, MODES)]
    return kind, rank, sorted(listed), chains, factors, signs
