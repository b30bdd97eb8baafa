"""Live progress on stderr: one line rewritten in a terminal, occasional lines elsewhere."""

from __future__ import annotations

import shutil
import sys
import time

import click

from stlsearch.recorder import Progress

TERMINAL_SECONDS = 0.1
LOG_SECONDS = 5.0
SEARCH_SECONDS = 1.0  # between two lines of a search in a terminal


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


class ProgressWatch:
    """Shows a search's progress on stderr now and then, and asks it to stop after Ctrl-C."""

    def __init__(self) -> None:
        self.interrupted = False
        self.began = self.last = time.monotonic()
        self.terminal = sys.stderr.isatty()

    def interrupt(self) -> None:
        self.interrupted = True

    def __call__(self, text: str) -> bool:
        now = time.monotonic()
        if now - self.last >= (SEARCH_SECONDS if self.terminal else LOG_SECONDS):
            self.last = now
            text = f"[{now - self.began:6.1f} s] {text}"
            click.echo(("\r" if self.terminal else "") + text.ljust(90), nl=not self.terminal, err=True)
        return self.interrupted

    def close(self) -> None:
        if self.terminal:
            click.echo("\r" + " " * 90 + "\r", nl=False, err=True)
