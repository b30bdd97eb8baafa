"""Processes that the tests start and interrupt."""

from __future__ import annotations

import signal
import subprocess


def interruptible(command: list[str]) -> subprocess.Popen:
    """A process that Ctrl-C reaches, also where the tests themselves run in the background (where SIGINT is ignored)."""
    return subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
