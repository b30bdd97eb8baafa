"""One training run from its description, and a file that keeps the results of many."""

from __future__ import annotations

import contextlib
import datetime
import json
import math
import signal
import sys
import time
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path

import torch
from networks import Network, SmallSTL, backbone_macs, backbone_weights
from starts import basis_named
from tasks import TASKS, Task
from torch import nn

from stlsearch import __version__
from stlsearch.devices import describe_device
from stlsearch.errors import InputError
from stlsearch.nn import Basis, STLLinear, parameter_groups, steady_rate
from stlsearch.registry.atomic import check_destination, write_atomic

BATCH, BLOCKS, DECAY, WARM_UP = 32, 2, 0.02, 0.1
RATE = {"digits": 3e-3, "photos": 1e-2}
"""AdamW's rate for dense networks, and the multiples below: measured by rates.py."""
ENCODED = 1.0  # times `steady_rate`, for encoded weights
LEARNED = 0.3  # for learned bases


@dataclass(frozen=True)
class Run:
    """What to train. Equal runs give equal results for the same versions and device.

    Attributes:
        task: a key of `tasks.TASKS`.
        width: D.
        basis: a name of `starts.BASES`, or "dense".
        rank: r; 0 for dense.
        learn: factors that are learned, "" or "UW", one basis a layer.
        rate: the peak of AdamW's learning rate, for all but encoded weights and bases.
        encoded, bases: multiples of it for encoded weights and learned bases. With `ruled`, encoded is that of `steady_rate`.
        start: how encoded weights start, "encoded" or "independent" (`stlsearch.nn.initial`), or "dense": the encoding of the weights
            of a dense network trained for as many steps, at `dense_rate`.
    """

    task: str
    width: int
    seed: int
    steps: int
    rate: float
    basis: str = "dense"
    rank: int = 0
    learn: str = ""
    encoded: float = 1.0
    bases: float = 0.0
    ruled: bool = False
    start: str = "encoded"
    dense_rate: float = 0.0

    def of_seed(self, seed: int) -> Run:
        """The same with another seed."""
        return replace(self, seed=seed)


def tuned(task: str, width: int, steps: int, basis: str, rank: int, learn: str, start: str = "encoded", dense_rate: float = 0.0) -> Run:
    """A Strassen-Tile run of seed 0 at the measured rates: the same rule for every basis."""
    bases = LEARNED if learn else 0.0
    return Run(task, width, 0, steps, RATE[task], basis, rank, learn, ENCODED, bases, ruled=True, start=start, dense_rate=dense_rate)


def build(run: Run, task: Task) -> Network:
    """The network of a run, at random from torch's generator."""
    if run.basis == "dense":
        return Network(task, run.width, BLOCKS)
    algorithm = basis_named(run.basis, run.rank, run.seed)
    start = "encoded" if run.start == "dense" else run.start
    linear = partial(SmallSTL, algorithm=algorithm, learn=run.learn, start=start)
    return Network(task, run.width, BLOCKS, linear)


def perform(run: Run) -> dict[str, object]:
    """Train, test, and say what it cost."""
    began = time.perf_counter()
    task = _task(run.task, run.seed)
    torch.manual_seed(run.seed)
    network = build(run, task)
    if run.start == "dense":
        _inherit(network, _dense(run.task, run.width, run.seed, run.steps, run.dense_rate))
    train_loss = fit_network(network, task, run)
    network.eval()
    with torch.no_grad():
        x, y = task.test
        output = network(x)
        loss, score = float(task.loss(output, y)), task.score(output, y)
    rank = run.rank or None
    algorithm = None if rank is None else basis_named(run.basis, run.rank, run.seed)
    return {
        "run": asdict(run),
        "score": score if math.isfinite(loss) else None,
        "loss": loss if math.isfinite(loss) else None,
        "train_loss": train_loss if math.isfinite(train_loss) else None,
        "macs": backbone_macs(run.width, BLOCKS, rank),
        "weights": backbone_weights(run.width, BLOCKS, rank),
        "algorithm": algorithm.name if algorithm else None,
        "e": algorithm.error if algorithm else None,
        "seconds": round(time.perf_counter() - began, 2),
    }


def fit_network(network: nn.Module, task: Task, run: Run) -> float:
    """Train by AdamW, its rate rising linearly and falling as a cosine; the mean loss of the last tenth of the steps."""
    encoded = run.encoded
    if not run.ruled and run.basis != "dense":  # a multiple of the rate itself
        encoded /= steady_rate(Basis(basis_named(run.basis, run.rank, run.seed)))
    groups = parameter_groups(network, run.rate, decay=DECAY, encoded=encoded, bases=run.bases)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, partial(_fraction, steps=run.steps))
    source = torch.Generator().manual_seed(run.seed)  # networks of one seed see the same batches
    last, tail = 0.0, max(1, run.steps // 10)
    for step in range(run.steps):
        x, y = task.batch(BATCH, source)
        optimizer.zero_grad()
        loss = task.loss(network(x), y)
        loss.backward()
        optimizer.step()
        schedule.step()
        if step >= run.steps - tail:
            last += float(loss.detach()) / tail
    return last


def _fraction(step: int, steps: int) -> float:
    rising = max(1.0, WARM_UP * steps)
    if step < rising:
        return (step + 1) / rising
    return 0.5 + 0.5 * math.cos(math.pi * (step - rising) / max(1.0, steps - rising))


_kept: dict[object, object] = {}


def _task(name: str, seed: int) -> Task:
    if name not in TASKS:
        raise InputError(f"unknown task {name!r}; valid: {', '.join(TASKS)}")
    if _kept.get("task") != (name, seed):
        _kept.update({"task": (name, seed), "data": TASKS[name](seed)})
    return _kept["data"]


def _dense(task: str, width: int, seed: int, steps: int, rate: float) -> Network:
    """A trained dense network; the last one is kept, for several bases start from it."""
    if _kept.get("dense") != (task, width, seed, steps, rate):
        run = Run(task, width, seed, steps, rate)
        torch.manual_seed(seed)
        network = build(run, _task(task, seed))
        fit_network(network, _task(task, seed), run)
        _kept.update({"dense": (task, width, seed, steps, rate), "network": network})
    return _kept["network"]


def _inherit(network: Network, dense: Network) -> None:
    """Take over a dense network's weights, those of the backbone encoded."""
    modules = dict(dense.named_modules())
    for name, module in network.named_modules():
        if isinstance(module, STLLinear):
            module.load_dense(modules[name].weight.T, modules[name].bias)
        elif isinstance(module, nn.Linear | nn.LayerNorm):
            module.load_state_dict(modules[name].state_dict())
    network.places.data.copy_(dense.places.data)


class Results:
    """Finished runs in a JSON file, found again by their description: what is there is not trained again."""

    def __init__(self, path: Path, command: str, *, readonly: bool = False) -> None:
        self.path, self.commands, self.readonly = path, [command], readonly
        self.rows: dict[str, dict] = {}
        if readonly or path.exists():
            try:
                document = json.loads(path.read_text())
                self.rows = {_key(Run(**row["run"])): row for row in document["runs"]}
                self.commands = list(dict.fromkeys([*document["commands"], command]))
            except OSError as error:
                raise InputError(f"cannot read {path}: {error.strerror or error}") from error
            except (KeyError, TypeError, ValueError) as error:
                raise InputError(f"{path} does not hold results of these commands") from error
        if not readonly:
            check_destination(path)

    def __contains__(self, run: Run) -> bool:
        return _key(run) in self.rows

    def of(self, run: Run) -> dict:
        """The finished run."""
        return self.rows[_key(run)]

    def complete(self, runs: Iterable[Run]) -> None:
        """Train what is missing, in order, each kept as soon as it is finished. Ctrl-C stops after what is finished.

        Raises:
            InputError: something is missing from a file that is only read.
        """
        missing = [run for run in dict.fromkeys(runs) if run not in self]
        if missing and self.readonly:
            raise InputError(f"{self.path} lacks {len(missing)} of the runs asked for; run the command without --from to train them")
        began = time.perf_counter()
        for number, run in enumerate(missing, 1):
            row = perform(run)
            self.rows[_key(run)] = row
            with _unhurried():
                self.save()
            left = (time.perf_counter() - began) / number * (len(missing) - number) / 60
            score = math.nan if row["score"] is None else row["score"]
            print(f"{number}/{len(missing)}  {_line(run)}: {score:.2f}  ({row['seconds']} s, {left:.1f} min left)", file=sys.stderr)

    def save(self) -> None:
        """Write the file, atomically."""
        document = {
            "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
            "commands": self.commands,
            "stlsearch": __version__,
            "torch": torch.__version__,
            "device": describe_device(torch.device("cpu")),
            "runs": list(self.rows.values()),
        }
        head, _, _ = json.dumps(document | {"runs": []}, indent=1).rpartition("[]")
        lines = ",\n".join("  " + json.dumps(row) for row in document["runs"])
        write_atomic(self.path, f"{head}[\n{lines}\n ]\n}}\n".encode())


def _key(run: Run) -> str:
    return json.dumps(asdict(run), sort_keys=True)


def _line(run: Run) -> str:
    what = f" r={run.rank} learn={run.learn or '-'} x{run.encoded:g} x{run.bases:g} {run.start}" if run.rank else ""
    return f"{run.task} D={run.width} {run.basis}{what} rate={run.rate:g} seed={run.seed}"


@contextlib.contextmanager
def _unhurried() -> Iterator[None]:
    """A Ctrl-C waits until a file is written."""
    caught: list[int] = []
    before = signal.signal(signal.SIGINT, lambda number, frame: caught.append(number))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
    if caught and before is signal.default_int_handler:
        raise KeyboardInterrupt
