"""JSON: the registry's own document (docs/format.md)."""

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.registry import codec


def write(algorithm: BilinearAlgorithm) -> bytes:
    """The document as UTF-8 text."""
    return codec.dumps(algorithm).encode()


def read(data: bytes) -> BilinearAlgorithm:
    """Inverse of `write`; raises InputError for anything else."""
    return codec.loads(data)
