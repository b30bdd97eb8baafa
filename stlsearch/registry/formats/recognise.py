"""Which format a file is in, by its ending and its first characters: several formats share an ending, some have none."""

from __future__ import annotations

import re

from stlsearch.errors import InputError
from stlsearch.registry.formats import npz, perminov_json, perminov_txt, plinopt
from stlsearch.registry.formats.arrays import HEADER
from stlsearch.registry.formats.scheme import Source

LOOKED_AT = 200_000  # bytes of a text
PROSE = (".md", ".rst", ".html", ".htm", ".tex", ".bib", ".ipynb")  # may quote a format
_NUMPY, _ZIP = b"\x93NUMPY", b"PK\x03\x04"
_EXP = re.compile(r"^[-+0-9 */.(]*a\(?[0-9].*\*.*b\(?[0-9].*\*.*c\(?[0-9]", re.MULTILINE)
_ARRAYS = re.compile(r"(?:array\(|=\s*[\[(])\s*[\[(]")
_HASH = re.compile(r"^[ \t]*#[ \t]*$", re.MULTILINE)
_ENTRIES = re.compile(r"[-+0-9/.xi() \t\r\n]+")


def recognised(source: Source) -> str | None:
    """The name of the format, None when it looks like none.

    Raises:
        InputError: a .json file that is no JSON.
    """
    ending = source.path.suffix.lower()
    if source.data[:6] == _NUMPY:
        return "flip-cpd"
    if source.data[:4] == _ZIP or ending == ".npz":
        names = npz.names(source.data)
        return "alphatensor" if names and HEADER not in names and not _is_ours(names) else "npz"
    if ending == ".safetensors":
        return "safetensors"
    if ending == ".json":
        return _json(source)
    try:
        text = source.data[:LOOKED_AT].decode("utf-8-sig", "ignore").lstrip()
    except ValueError:
        return None
    return _text(source, text, ending)


def _text(source: Source, text: str, ending: str) -> str | None:
    if not text or "\0" in text or ending in PROSE:
        return None
    if re.match(r"\{\s*\{", text):
        return "kauers"
    if text.startswith("{"):
        try:
            return _json(source)
        except InputError:
            return None
    if "Triad" in text:
        return "maple"
    if ending == ".sms" or plinopt.is_text(text):
        return "plinopt"
    if perminov_txt.is_text(text):
        return "perminov-txt"
    if _EXP.search(text):
        return "exp"
    if ending == ".py" or not _HASH.search(text):
        return "alphaevolve" if ending in (".py", ".txt", "") and _ARRAYS.search(text) else None
    entries = "\n".join(line for line in text.splitlines()[:-1] if not line.strip().startswith("#"))
    return "fast-matmul" if _ENTRIES.fullmatch(entries) else None


def _json(source: Source) -> str | None:
    document = source.document
    if perminov_json.is_catalogue(document):
        return "perminov-json"
    known = isinstance(document, dict) and ("format" in document or any(key in document for key in ("U", "V", "W", "u", "v", "w", "Ueps")))
    return "json" if known else None


def _is_ours(names: list[str]) -> bool:
    return any(name in ("U_real", "V_real", "W_real") for name in names)
