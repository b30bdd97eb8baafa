"""Initialisation strategies by name; each docstring says where it comes from and why it should help."""

from __future__ import annotations

from collections.abc import Callable

from stlsearch.errors import InputError
from stlsearch.inits.deflated import known, strassen
from stlsearch.inits.fourier import fourier
from stlsearch.inits.kron import kron
from stlsearch.inits.polynomial import polynomial
from stlsearch.inits.random import random, random_small
from stlsearch.inits.request import Request, Start
from stlsearch.inits.subtiles import subtiles

INITS: dict[str, Callable[[Request], Start]] = {
    "random": random,
    "random-small": random_small,
    "strassen": strassen,
    "kron": kron,
    "polynomial": polynomial,
    "fourier": fourier,
    "subtiles": subtiles,
    "known": known,
}


def find_init(name: str) -> tuple[Callable[[Request], Start], str]:
    """The strategy of ``name`` and the argument after its colon: ``"known:4x4x4_r48"``.

    Raises:
        InputError: unknown name, or an argument for a strategy that takes none; the message lists the valid ones.
    """
    strategy, _, argument = name.partition(":")
    if strategy not in INITS:
        raise InputError(f"unknown init {name!r}; valid: {', '.join(INITS)} (known:NAME)")
    if argument and strategy != "known":
        raise InputError(f"init {strategy} takes no argument, {argument!r} was given; only known:NAME does")
    return INITS[strategy], argument


__all__ = ["INITS", "Request", "Start", "find_init"]
