"""Initialisation strategies by name; each docstring says where it comes from and why it should help."""

from __future__ import annotations

from collections.abc import Callable

from stlsearch.errors import InputError
from stlsearch.inits.cyclic import cyclic, orbits
from stlsearch.inits.deflated import known, strassen
from stlsearch.inits.fourier import fourier
from stlsearch.inits.hopping import hop
from stlsearch.inits.kron import kron
from stlsearch.inits.modes import modes
from stlsearch.inits.polynomial import polynomial
from stlsearch.inits.pooling import pool
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
    "modes": modes,
    "pool": pool,
    "known": known,
    "hop": hop,
    "cyclic": cyclic,
    "orbits": orbits,
}
SELECTING = ("strassen", "pool", "known", "hop", "cyclic")  # return the best of a population: the restarts of one call are related
NAMED = ("known", "hop", "orbits")  # take the name of a registered algorithm after a colon
ARGUMENTS = (*NAMED, "cyclic")  # cyclic:RANK


def find_init(name: str) -> tuple[Callable[[Request], Start], str]:
    """The strategy of ``name`` and the argument after its colon: ``"known:4x4x4_r48"``.

    Raises:
        InputError: unknown name, or an argument for a strategy that takes none; the message lists the valid ones.
    """
    strategy, _, argument = name.partition(":")
    if strategy not in INITS:
        raise InputError(f"unknown init {name!r}; valid: {', '.join(INITS)} (known:NAME, hop:NAME, orbits:NAME, cyclic:RANK)")
    if argument and strategy not in ARGUMENTS:
        takers = "known:NAME, hop:NAME, orbits:NAME and cyclic:RANK"
        raise InputError(f"init {strategy} takes no argument, {argument!r} was given; only {takers} do")
    return INITS[strategy], argument


__all__ = ["INITS", "Request", "Start", "find_init"]
