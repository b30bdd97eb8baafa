"""AlphaEvolve's decompositions (arXiv:2506.13131): Python text with three arrays (dim, rank) of integers, halves and complex numbers.

    decomposition_222 = (np.array([[1, 0, ...], ...], dtype=np.float32), np.array([[0.5+0.5j, ...], ...]), np.array(...))

W is that of C^T. The text is parsed, never run: of its syntax tree only lists and tuples of numbers are looked at, alone or
within array(...). Every three matrices that stand together in a tuple or list are an algorithm, and so are the matrices
assigned to U, V and W.
"""

from __future__ import annotations

import ast
import re
import warnings
from collections import deque
from collections.abc import Iterator
from fractions import Fraction

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.errors import InputError
from stlsearch.registry.formats.coefficients import Entry, Factor, Number, factor_of, number, transposed
from stlsearch.registry.formats.layout import check_held, entries, sizes
from stlsearch.registry.formats.scheme import NoAlgorithmError, Scheme, Source, shape_of

MAX_NODES = 4_000_000  # of a syntax tree
MAX_TEXT = 4 * 2**20  # bytes; a syntax tree takes a hundred times as much
MAX_SIGNS = 50  # in a row: Python's parser descends with each of them
NAME = "AlphaEvolve arrays"
_ARRAYS = ("array", "asarray", "matrix")
_OURS = "Written by stlsearch."

Matrix = list[list[Entry]]


def read(source: Source) -> list[Scheme]:
    """The algorithms in such a text, not yet verified.

    Raises:
        InputError: no Python text; `NoAlgorithmError`, one that does not hold three matrices.
    """
    if _OURS in source.text[:2000]:
        raise NoAlgorithmError("a module that `stlsearch export --format python` wrote cannot be imported: export json instead")
    tree = _parsed(source.text)
    schemes = [_scheme(label, found) for label, found in _triples(tree)]
    if not schemes:
        raise NoAlgorithmError("no decomposition found: expected name = (np.array([[...]]), np.array([[...]]), np.array([[...]]))")
    return schemes


def write(algorithm: BilinearAlgorithm) -> bytes:
    """Python text of one decomposition; fractions of small denominators 2^k, and floats, are written so that nothing is lost."""
    check_held(algorithm, "alphaevolve", "complex numbers")
    if algorithm.exact is not None:
        for factor in algorithm.exact:
            if factor.denominator & (factor.denominator - 1):
                raise InputError(f"alphaevolve holds fractions of powers of 2 only, and {algorithm.name} has others: maple holds them")
    lines = [f"# {algorithm.name}, arrays (dim, rank), W of C^T", "import numpy as np", ""]
    lines.append(f"decomposition_{'x'.join(map(str, sizes(algorithm)))} = (")
    for rows in entries(algorithm, "C^T"):
        lines += ["    np.array(["]
        lines += [f"        [{', '.join(map(_literal, column))}]," for column in zip(*rows, strict=True)]
        lines += ["    ]),"]
    return "\n".join([*lines, ")", ""]).encode()


def _parsed(text: str) -> ast.Module:
    if len(text) > MAX_TEXT:
        raise InputError(f"Python text of more than {MAX_TEXT // 2**20} MiB is not parsed")
    if re.search(rf"(?:[-+~]\s*){{{MAX_SIGNS}}}", text):
        raise InputError(f"not Python text of arrays: {MAX_SIGNS} signs in a row")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # about the text's own style
            return ast.parse(text)
    except SyntaxError as error:
        raise InputError(f"not Python text: {error.msg} at line {error.lineno}") from None
    except (ValueError, MemoryError, RecursionError):
        raise InputError("not Python text of arrays: nested too deeply, or it holds a null byte") from None


def _triples(tree: ast.Module) -> Iterator[tuple[str, list[Matrix]]]:
    named: dict[str, Matrix] = {}
    budget = MAX_NODES
    for statement in tree.body:
        label, value = "", None
        if isinstance(statement, ast.Assign) and len(statement.targets) == 1 and isinstance(statement.targets[0], ast.Name):
            label, value = statement.targets[0].id, statement.value
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            label, value = statement.target.id, statement.value
        elif isinstance(statement, ast.Expr):
            value = statement.value
        if value is None:
            continue
        if label in ("U", "V", "W") and (matrix := _matrix(value)) is not None:
            named[label] = matrix
            continue
        waiting = deque([(label, value)])
        while waiting and budget > 0:
            name, node = waiting.popleft()
            budget -= 1
            if isinstance(node, ast.Call) and not _is_array(node):
                waiting += [(name, item) for item in node.args]
            elif isinstance(node, ast.Dict):
                waiting += [(str(getattr(key, "value", name)), item) for key, item in zip(node.keys, node.values, strict=True)]
            elif isinstance(node, ast.Tuple | ast.List):
                matrices = [matrix for item in node.elts if (matrix := _matrix(item)) is not None] if len(node.elts) == 3 else []
                if len(matrices) == 3:
                    yield name, matrices
                elif not _is_number_row(node):
                    waiting += [(name, item) for item in node.elts]
    if len(named) == 3:
        yield "", [named[name] for name in "UVW"]


def _is_array(node: ast.Call) -> bool:
    name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id if isinstance(node.func, ast.Name) else ""
    return name in _ARRAYS and bool(node.args)


def _is_number_row(node: ast.Tuple | ast.List) -> bool:
    return not node.elts or _is_number(node.elts[0])


def _is_number(node: ast.expr) -> bool:
    """Whether an expression looks like a coefficient; names, texts and the like belong to other code of the file."""
    return isinstance(node, ast.UnaryOp | ast.BinOp) or (isinstance(node, ast.Constant) and type(node.value) in (int, float, complex))


def _matrix(node: ast.expr) -> Matrix | None:
    """The matrix that an expression writes, None when it is no list of lists of numbers."""
    if isinstance(node, ast.Call):
        if not _is_array(node):
            return None
        node = node.args[0]
    if not isinstance(node, ast.Tuple | ast.List) or not node.elts:
        return None
    rows = []
    for row in node.elts:
        if not isinstance(row, ast.Tuple | ast.List) or not row.elts or not _is_number(row.elts[0]):
            return None
        rows.append([_entry(item) for item in row.elts])
    return rows


def _entry(node: ast.expr) -> Entry:
    value = _value(node)
    return (value[0], value[1]) if value[1] else value[0]


def _value(node: ast.expr, depth: int = 0) -> tuple[Number, Number]:
    """Real and imaginary part of an arithmetic expression of numbers, without running anything."""
    if depth > 8:
        raise InputError(f"line {node.lineno}: a coefficient is written too deeply")
    if isinstance(node, ast.Constant):
        if type(node.value) is complex:
            return number(node.value.real), number(node.value.imag)
        if type(node.value) in (int, float):
            return number(node.value), 0
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        real, imaginary = _value(node.operand, depth + 1)
        return (-real, -imaginary) if isinstance(node.op, ast.USub) else (real, imaginary)
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.Add | ast.Sub | ast.Mult | ast.Div):
        (a, b), (c, d) = _value(node.left, depth + 1), _value(node.right, depth + 1)
        if isinstance(node.op, ast.Add):
            return a + c, b + d
        if isinstance(node.op, ast.Sub):
            return a - c, b - d
        if isinstance(node.op, ast.Mult):
            return a * c - b * d, a * d + b * c
        if d or not c:
            raise InputError(f"line {node.lineno}: a coefficient is divided by {'a complex number' if d else '0'}")
        return (a / c if isinstance(a, float) else Fraction(a) / c), (b / c if isinstance(b, float) else Fraction(b) / c)
    raise InputError(f"line {node.lineno}: a coefficient must be a number, not {type(node).__name__}")


def _scheme(label: str, matrices: list[Matrix]) -> Scheme:
    factors = [factor_of(name, matrix) for name, matrix in zip("UVW", matrices, strict=True)]
    if not _per_product(factors):
        factors = [transposed(factor) for factor in factors]
    return Scheme((factors[0], factors[1], factors[2]), provenance={"imported": NAME}, label=label[:60])


def _per_product(factors: list[Factor]) -> bool:
    """Whether a row is a product; AlphaEvolve has a column per product, which is assumed where the shapes do not tell."""
    if len({factor.shape[1] for factor in factors}) == 1:
        try:
            shape_of([factor.shape[0] for factor in factors])
        except InputError:
            return True
        return False
    return True


def _literal(value: Entry) -> str:
    if isinstance(value, tuple):
        real, imaginary = (float(part) for part in value)
        return f"{real!r}{imaginary:+}j" if real else f"{imaginary!r}j"
    return str(value) if isinstance(value, int) else repr(float(value))
