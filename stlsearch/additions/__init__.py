"""Fewer additions: straight-line programs of the three linear maps, and sparse cores between changes of basis."""

from stlsearch.additions.counting import Additions, count
from stlsearch.additions.program import Program

__all__ = ["Additions", "Program", "count"]
