"""The text: this project's own pages and docstrings, as numbers, in chunks for training and chunks for validation."""

from __future__ import annotations

import ast
import hashlib
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).resolve().parents[2]
LEFT_OUT = "language.md"  # it quotes what was measured on this text, and would change it
VOCABULARY = 128  # the 127 commonest characters, and one that stands for all others
OTHER = "\N{REPLACEMENT CHARACTER}"
CHUNK = 1024  # characters
HELD_OUT = 10  # every tenth chunk validates


def project_text(root: Path = ROOT) -> str:
    """README.md, then docs/*.md, then every docstring of stlsearch/**/*.py, all in the order of their names."""
    pages = [root / "README.md", *(page for page in sorted((root / "docs").glob("*.md")) if page.name != LEFT_OUT)]
    parts = [page.read_text(encoding="utf-8") for page in pages]
    for module in sorted((root / "stlsearch").rglob("*.py")):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef) and (docstring := ast.get_docstring(node)):
                parts.append(docstring)
    return "\n\n".join(parts)


@dataclass(frozen=True)
class Text:
    """A text cut into chunks that do not overlap.

    Attributes:
        train: (chunks, CHUNK) numbers of characters.
        validation: likewise, every `HELD_OUT`-th chunk. A rest shorter than a chunk is dropped.
        alphabet: the characters in the order of their numbers.
        sha256: of the text in UTF-8.
        size: its characters.
    """

    train: Tensor
    validation: Tensor
    alphabet: str
    sha256: str
    size: int

    @staticmethod
    def of(text: str) -> Text:
        """Cut a text up. It needs at least `HELD_OUT` chunks."""
        if len(text) < CHUNK * HELD_OUT:
            raise ValueError(f"a text of at least {CHUNK * HELD_OUT} characters is needed, not of {len(text)}")
        common = Counter(text).most_common()
        common.sort(key=lambda pair: (-pair[1], pair[0]))
        alphabet = OTHER + "".join(character for character, _ in common if character != OTHER)[: VOCABULARY - 1]
        numbers = {character: number for number, character in enumerate(alphabet)}
        ids = torch.tensor([numbers.get(character, 0) for character in text])
        chunks = ids[: len(ids) // CHUNK * CHUNK].view(-1, CHUNK)  # (chunks, CHUNK)
        held_out = torch.arange(len(chunks)) % HELD_OUT == HELD_OUT - 1
        return Text(chunks[~held_out], chunks[held_out], alphabet, hashlib.sha256(text.encode()).hexdigest(), len(text))

    def encode(self, text: str) -> Tensor:
        """(T,) numbers of characters."""
        return torch.tensor([max(self.alphabet.find(character), 0) for character in text])

    def decode(self, ids: Tensor) -> str:
        """The text of (T,) numbers; those that no character has are shown as `OTHER`."""
        return "".join(self.alphabet[number] if number < len(self.alphabet) else OTHER for number in ids.tolist())


def random_windows(chunks: Tensor, batch: int, context: int, generator: torch.Generator) -> Tensor:
    """(batch, context + 1) characters from anywhere within a chunk, never across two."""
    row = torch.randint(len(chunks), (batch, 1), generator=generator)
    start = torch.randint(chunks.shape[1] - context, (batch, 1), generator=generator)
    return chunks[row, start + torch.arange(context + 1)]


def all_windows(chunks: Tensor, context: int) -> Tensor:
    """(windows, context + 1): every chunk from its start, side by side, each character predicted once at most.

    Shuffled, so that the neighbours in a batch are strangers, as they are in training; as many as a multiple of four.
    """
    cut = chunks.unfold(1, context + 1, context).flatten(0, 1)  # (windows, context + 1)
    cut = cut[torch.randperm(len(cut), generator=torch.Generator().manual_seed(0))]
    return cut[: len(cut) // 4 * 4]
