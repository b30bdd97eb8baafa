"""Live progress on stderr: one line rewritten in a terminal, occasional lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time

import click

from stlsearch.recorder import Progress

TERMINAL_SECONDS = 0.1
LOG_SECONDS = 5.0


class ProgressLine:
    """Shows a fit's progress. Call it with every `Progress`, and `close` it before printing anything else."""

    def __init__(self) -> None:
        self.terminal = sys.stderr.isatty()
        self.last = float("-inf")
        self.stage = ""
        self.width = 0

    def __call__(self, progress: Progress) -> None:
        now = time.monotonic()
        wait = TERMINAL_SECONDS if self.terminal else LOG_SECONDS
        if now - self.last < wait and progress.stage == self.stage:
            return
        self.last, self.stage = now, progress.stage
        starts = f"{progress.restarts} restart{'s' if progress.restarts > 1 else ''}"
        text = f"[{progress.seconds:6.1f} s] {progress.stage}: {starts}, iteration {progress.iteration}"
        if progress.error < float("inf"):
            text += f", best e {progress.error:.5f} at g {progress.amplification:.3g}"
        if self.terminal:
            text = text[: shutil.get_terminal_size().columns - 1]  # a wrapped line could not be rewritten
            click.echo("\r" + text.ljust(self.width), nl=False, err=True)
            self.width = len(text)
        else:
            click.echo(text, err=True)

    def close(self) -> None:
        """End the line, so that what follows starts on a fresh one."""
        if self.terminal and self.width:
            click.echo("\r" + " " * self.width + "\r", nl=False, err=True)
            self.width = 0
