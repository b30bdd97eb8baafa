"""What commands say of an algorithm that was to be stored, and of its equivalent in the registry."""

from __future__ import annotations

import click

from stlsearch.identity.duplicates import Stored


def report_equivalent(stored: Stored) -> None:
    """Name on stderr the registered algorithm that is the same in another basis, where there is one."""
    if stored.remark is not None:
        click.echo(stored.remark, err=True)


def stored_keys(stored: Stored | None) -> dict[str, object]:
    """Whether an algorithm was kept, and which registered one is the same in another basis, for JSON output."""
    if stored is None:
        return {"stored": False, "equivalent": None}
    return {"stored": stored.is_kept, "equivalent": None if stored.equivalent is None else stored.equivalent.algorithm.name}


def saved_row(stored: Stored) -> tuple[str, str]:
    """Where an algorithm is, as a row of a table."""
    return ("saved" if stored.is_kept else "registered", str(stored.entry.path))
