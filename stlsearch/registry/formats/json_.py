"""JSON: the registry's own document (docs/format.md), and plain algorithms of other people."""

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry import codec
from stlsearch.registry.formats import plain
from stlsearch.registry.text import parse


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The document as UTF-8 text."""
    return codec.dumps(algorithm).encode()


def read(data: bytes) -> BilinearAlgorithm:
    """Inverse of `write`, and the reader of plain JSON (see `plain`); raises InputError for anything else."""
    document = parse(data)
    if plain.is_plain(document):
        return plain.decode(document)  # type: ignore[arg-type]
    if isinstance(document, dict) and ("Ueps" in document or document.get("format") == "stlsearch.border"):
        raise InputError("this is a family with a parameter eps: `stlsearch border at FILE --eps 0.1` registers a member of it")
    return codec.decode(document)
