"""JSON: the registry's own document (docs/format.md), and plain algorithms of other people."""

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.registry import codec
from stlsearch.registry.formats import perminov_json, plain
from stlsearch.registry.formats.eps_entries import is_family, refuse_family
from stlsearch.registry.formats.scheme import Scheme, Source


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The document as UTF-8 text."""
    return codec.dumps(algorithm).encode()


def read(source: Source) -> list[BilinearAlgorithm | Scheme]:
    """The algorithm of whichever JSON document it is; raises InputError for anything else."""
    document = source.document
    if perminov_json.is_reduced(document):
        return [perminov_json.expanded(document)]  # type: ignore[arg-type]
    if plain.is_plain(document):
        return [plain.scheme_of(document)]  # type: ignore[arg-type]
    if is_family(document):
        raise refuse_family()
    return [codec.decode(document)]
