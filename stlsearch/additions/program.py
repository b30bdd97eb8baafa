"""A straight-line program: a linear map computed by additions and scalings, one after the other.

Values are numbered, the inputs first, then the results of the instructions. An instruction is one or two terms (coefficient, value):
t = c1 a, or t = c1 a + c2 b. An output is a term too. An addition is an instruction of two terms; every coefficient other than -1, 0 and 1
is a scaling. Signs are free.

Turning all arrows round gives a program of the transposed matrix (Tellegen's theorem), which takes r - c additions more for an r x c matrix
without zero rows and columns. So a program for the decoder W^T, with c outputs of r products, can be found as an encoder W.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

import numpy as np

from stlsearch.errors import InputError

Coefficient = int | Fraction
Term = tuple[Coefficient, int]
ZERO: Term = (0, 0)


@dataclass(frozen=True)
class Program:
    """A linear map of `inputs` values.

    Attributes:
        inputs: how many.
        instructions: of one or two terms each, which come earlier; instruction k makes value inputs + k.
        outputs: terms; (0, 0) for zero.

    Raises:
        InputError: an instruction that needs a later value, or has no or more than two terms.
    """

    inputs: int
    instructions: tuple[tuple[Term, ...], ...]
    outputs: tuple[Term, ...]

    def __post_init__(self) -> None:
        for number, terms in enumerate([*self.instructions, *((output,) for output in self.outputs)]):
            known = self.inputs + min(number, len(self.instructions))
            if not 1 <= len(terms) <= 2 or not all(0 <= value < known for _, value in terms):
                raise InputError(f"instruction {number} of a straight-line program must add one or two of the {known} values before it")

    @property
    def additions(self) -> int:
        """Additions and subtractions."""
        return sum(len(terms) - 1 for terms in self.instructions)

    @property
    def scalings(self) -> int:
        """Multiplications by coefficients other than -1, 0 and 1."""
        terms = [term for instruction in self.instructions for term in instruction] + list(self.outputs)
        return sum(coefficient not in (-1, 0, 1) for coefficient, _ in terms)

    def evaluate(self, values: Sequence | np.ndarray) -> list:
        """The outputs for `inputs` numbers or arrays; exact where their arithmetic is.

        Raises:
            InputError: another number of values.
        """
        if len(values) != self.inputs:
            raise InputError(f"this straight-line program takes {self.inputs} values, not {len(values)}")
        known = list(values)
        for terms in self.instructions:
            known.append(_sum(terms, known))
        return [_sum((output,), known) for output in self.outputs]

    @cached_property
    def matrix(self) -> tuple[tuple[Fraction, ...], ...]:
        """The matrix it multiplies by, one row an output."""
        unit = np.array([[Fraction(int(i == j)) for j in range(self.inputs)] for i in range(self.inputs)], dtype=object)
        return tuple(tuple(row) for row in self.evaluate(unit))

    def computes(self, rows: Sequence[Sequence[Coefficient]]) -> bool:
        """Whether it multiplies by that matrix, in exact arithmetic."""
        return [list(row) for row in self.matrix] == [list(row) for row in rows]

    def transposed(self) -> Program:
        """The program of the transposed matrix with all arrows turned round."""
        inputs, instructions = len(self.outputs), list[tuple[Term, ...]]()
        incoming: list[list[Term]] = [[] for _ in range(self.inputs + len(self.instructions))]
        for number, (coefficient, value) in enumerate(self.outputs):
            if coefficient != 0:
                incoming[value].append((coefficient, number))

        def add(terms: tuple[Term, ...]) -> Term:
            instructions.append(terms)
            return 1, inputs + len(instructions) - 1

        def gathered(terms: list[Term]) -> Term:
            while len(terms) > 1:
                terms = [*terms[2:], add((terms[0], terms[1]))]
            return terms[0] if terms else ZERO

        for value in reversed(range(self.inputs, self.inputs + len(self.instructions))):
            operands = self.instructions[value - self.inputs]
            coefficient, source = gathered(incoming[value])
            if coefficient == 0:
                continue
            if coefficient not in (-1, 1) and len(operands) > 1:
                coefficient, source = add(((coefficient, source),))
            for factor, operand in operands:
                incoming[operand].append((coefficient * factor, source))
        outputs = tuple(gathered(incoming[value]) for value in range(self.inputs))
        return Program(inputs, tuple(instructions), outputs).tidied()

    def tidied(self, signs: Sequence[int] | None = None) -> Program:
        """The same map without unused instructions; in an instruction of two terms the first is not subtracted.

        Args:
            signs: 1 or -1 for each input, which is to be multiplied by it first.
        """
        used = {value for coefficient, value in self.outputs if coefficient != 0}
        for number in reversed(range(len(self.instructions))):
            if self.inputs + number in used:
                used.update(value for _, value in self.instructions[number])
        wanted = self._signs(used)
        alias: dict[int, Term] = {value: (1 if signs is None else signs[value], value) for value in range(self.inputs)}
        instructions: list[tuple[Term, ...]] = []
        for number, terms in enumerate(self.instructions):
            if self.inputs + number not in used:
                continue
            terms = tuple((coefficient * alias[value][0], alias[value][1]) for coefficient, value in terms)
            sign = wanted[self.inputs + number]
            if all(sign * coefficient < 0 for coefficient, _ in terms):
                sign = -sign
            instructions.append(tuple(sorted(((coefficient * sign, value) for coefficient, value in terms), key=lambda term: term[0] < 0)))
            alias[self.inputs + number] = (sign, self.inputs + len(instructions) - 1)
        outputs = tuple((c * alias[value][0], alias[value][1]) if c != 0 else ZERO for c, value in self.outputs)
        return Program(self.inputs, tuple(instructions), outputs)

    def _signs(self, used: set[int]) -> dict[int, int]:
        """The sign with which each instruction is best computed, for outputs without one and sums with a term that is added."""
        added = {value for coefficient, value in self.outputs if coefficient > 0}
        wanted = {value: -1 for coefficient, value in self.outputs if coefficient < 0 and value not in added}
        for value in reversed(range(self.inputs, self.inputs + len(self.instructions))):
            terms = self.instructions[value - self.inputs]
            sign = wanted.setdefault(value, 1)
            if value in used and all(sign * coefficient * wanted.get(operand, 1) < 0 for coefficient, operand in terms):
                free = [operand for _, operand in terms if operand >= self.inputs and operand not in wanted]
                wanted.update((operand, -1) for operand in free[:1])
        return wanted


def _sum(terms: Sequence[Term], known: Sequence) -> object:
    parts = [
        known[value] if coefficient == 1 else -known[value] if coefficient == -1 else coefficient * known[value]
        for coefficient, value in terms
    ]
    return parts[0] if len(parts) == 1 else parts[0] + parts[1]
