"""Nested lists in braces or brackets, {{1, 0}, {0, -1/2}}, without recursion: a file cannot nest too deeply for the reader."""

from __future__ import annotations

import re

from stlsearch.errors import InputError

MAX_DEPTH = 8


def parse_nested(text: str, brackets: str) -> list:
    """Lists of lists of the texts between commas. `brackets` are the opening and the closing character.

    Raises:
        InputError: brackets that do not match or nest more than `MAX_DEPTH` deep, or something beside the list.
    """
    opening, closing = brackets[0], brackets[1]
    stack: list[list] = [[]]
    expecting = True  # an item, not a comma
    for match in re.finditer(rf"[{re.escape(brackets)},]|[^{re.escape(brackets)},\s][^{re.escape(brackets)},]*", text):
        token = match[0]
        if token == opening:
            if not expecting or len(stack) > MAX_DEPTH:
                raise InputError(f"'{opening}' where a comma is expected" if not expecting else f"nested more than {MAX_DEPTH} deep")
            stack.append([])
        elif token == closing:
            if len(stack) < 2 or (expecting and stack[-1]):
                raise InputError(f"'{closing}' without its '{opening}'" if len(stack) < 2 else f"'{closing}' after a comma")
            done = stack.pop()
            stack[-1].append(done)
            expecting = False
        elif token == ",":
            if expecting or len(stack) < 2:
                raise InputError("a comma where an item is expected")
            expecting = True
        else:
            if not expecting or len(stack) < 2:
                raise InputError(f"{token.strip()!r:.40} is not within the list")
            stack[-1].append(token.strip())
            expecting = False
    if len(stack) != 1 or len(stack[0]) != 1:
        raise InputError(f"'{opening}' without its '{closing}'" if len(stack) > 1 else "expected one list")
    return stack[0][0]
