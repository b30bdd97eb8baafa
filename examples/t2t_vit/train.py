"""Train a T2T-ViT, dense or with Strassen-Tile layers (arXiv 2503.12211) in the place of its linear ones.

    pip install -c constraints.txt '.[examples]'
    python examples/t2t_vit/train.py --data digits
    python examples/t2t_vit/train.py --data digits --rank 24

train a small one on scikit-learn's digits, in one and in two minutes of one core. T2T-ViT-7 on ImageNet-1K by the recipe of
arXiv 2101.11986, on eight GPUs, and what a step of it costs on random images:

    torchrun --nproc-per-node 8 examples/t2t_vit/train.py --data imagenet --root IMAGENET --rank 24 --amp bfloat16 --resume
    python examples/t2t_vit/train.py --data synthetic --rank 24 --amp bfloat16 --batch 512 --samples 8192

Results go to stdout, progress to stderr, files to --out: a checkpoint after every epoch, from which --resume goes on as if nothing
had been, and at the end model.safetensors (the moving average of the weights, if there is one) with config.json. No epoch is
picked by its test accuracy: what is reported is the last one.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from data import ImageFolder, Share, Source, digits, generator, synthetic
from mixing import erase, mix
from network import MODELS, MovingAverage, build, find_basis, load_checkpoint, save_checkpoint, save_model
from options import parse, settings
from torch import Tensor, nn

import stlsearch
from stlsearch.devices import describe_device, resolve_device
from stlsearch.errors import InputError, RegistryError
from stlsearch.nn import parameter_groups
from stlsearch.nn.models import T2TViT, count_parameters, mac_breakdown

LOWEST_RATE = 0.01  # of the peak, where the cosine ends
REPORT_SECONDS = 20.0  # between two lines of progress


class Run:
    """One training run: its network, optimiser, average and data, and the epochs done so far."""

    def __init__(self, options: argparse.Namespace, device: torch.device, rank: int, world: int) -> None:
        self.options, self.device, self.rank, self.world = options, device, rank, world
        self.log: list[dict[str, Any]] = []
        self.basis = find_basis(options.basis, options.rank, options.tile)
        size = options.image_size or MODELS[options.model]().image_size
        share = Share(options.batch, options.seed, rank, world)
        self.source = source_of(options, size, share, device)
        sizes = {"image_size": size, "channels": self.source.channels, "classes": self.source.classes}
        self.config = {"model": options.model, "options": sizes | {"drop_path": options.drop_path}}
        learn = "" if options.learn == "none" else options.learn
        seed_everything(options.seed)
        self.model = build(self.config, self.basis, layers=options.layers, learn=learn).to(device)
        self.average = MovingAverage(self.model, options.average) if options.average else None
        groups = parameter_groups(
            self.model, options.rate, decay=options.weight_decay, encoded=options.rate_encoded, bases=options.rate_bases
        )
        self.optimizer = torch.optim.AdamW(groups)
        self.peaks = [group["lr"] for group in self.optimizer.param_groups]
        self.forward: Callable[[Tensor], Tensor] = self.model
        if world > 1:
            self.forward = nn.parallel.DistributedDataParallel(self.model, device_ids=[device] if device.type == "cuda" else None)
        if options.compile:
            self.forward = torch.compile(self.forward)

    @property
    def checkpoint(self) -> Path:
        return self.options.out / "checkpoint.pt"

    def resume(self) -> None:
        """Go on from the checkpoint."""
        state = load_checkpoint(self.checkpoint, settings(self.options))
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average:
            self.average.model.load_state_dict(state["average"])
        self.log = list(state["log"])
        self.say(f"resumed after epoch {len(self.log)} of {self.options.epochs}")

    def save(self) -> None:
        """Replace the checkpoint. Random numbers need no state in it: they follow from the seed, the epoch and the process."""
        if self.rank == 0:
            state = {
                "model": self.model.state_dict(),
                "average": self.average.model.state_dict() if self.average else None,
                "optimizer": self.optimizer.state_dict(),
                "log": self.log,
                "settings": settings(self.options),
            }
            save_checkpoint(self.checkpoint, state)

    def train(self) -> None:
        """Every epoch that is left, or those up to --stop-after."""
        last = min(self.options.epochs, self.options.stop_after or self.options.epochs)
        for epoch in range(len(self.log), last):
            row = {"epoch": epoch + 1, **self.train_epoch(epoch), "accuracy": self.accuracy(self.model)}
            if self.average:
                row["accuracy_average"] = self.accuracy(self.average.model)
            self.log.append(row)
            self.save()
            self.say(f"epoch {row['epoch']:3d}/{self.options.epochs}  {describe(row)}")

    def train_epoch(self, epoch: int) -> dict[str, float]:
        """One pass over the training images: the mean loss, the last rate, seconds, images a second (reading included)."""
        options, steps = self.options, self.source.steps
        seed_everything(options.seed, epoch, self.rank)
        self.model.train()
        total, done = torch.zeros((), device=self.device), 0
        begun = reported = time.monotonic()
        for images, labels in self.source.train(epoch):
            step = epoch * steps + done
            factor = rate_factor(step, options.warmup * steps, options.epochs * steps)
            for group, peak in zip(self.optimizer.param_groups, self.peaks, strict=True):
                group["lr"] = factor * peak
            total += self.train_step(images, labels)
            if self.average:
                self.average.update(self.model, step)
            done += 1
            if self.rank == 0 and time.monotonic() - reported > REPORT_SECONDS:
                reported = time.monotonic()
                rate = done * options.batch / (reported - begun)
                self.say(f"  step {done}/{steps}  loss {total.item() / done:.4f}  {rate:.0f} images/s")
        loss = self.sum_over_processes(total) / (done * self.world)  # .item() within: the device has finished
        if not math.isfinite(loss):
            raise InputError(f"the loss is {loss} in epoch {epoch + 1}; try a smaller --rate, a longer --warmup or --clip 1")
        seconds = time.monotonic() - begun
        return {"loss": loss, "rate": options.rate * factor, "seconds": seconds, "images_per_second": done * options.batch / seconds}

    def train_step(self, images: Tensor, labels: Tensor) -> Tensor:
        """One step of the optimiser; returns the loss without waiting for the device."""
        options = self.options
        images, targets = mix(erase(images, options.erase), labels, self.source.classes, options.mixup, options.cutmix)
        self.optimizer.zero_grad(set_to_none=True)
        with self.precision():
            logits = self.forward(images)
        loss = nn.functional.cross_entropy(logits.float(), targets, label_smoothing=options.smoothing)
        loss.backward()
        if options.clip:
            nn.utils.clip_grad_norm_(self.model.parameters(), options.clip)
        self.optimizer.step()
        return loss.detach()

    @torch.no_grad()
    def accuracy(self, model: T2TViT) -> float:
        """The part of the test images that is classified correctly."""
        model.eval()
        right, seen = torch.zeros((), device=self.device), 0
        for images, labels in self.source.test():
            with self.precision():
                right += (model(images).argmax(1) == labels).sum()
            seen += len(labels)
        return self.sum_over_processes(right) / self.sum_over_processes(torch.tensor(float(seen), device=self.device))

    def precision(self) -> torch.autocast:
        """Mixed precision, if it was asked for."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.options.amp == "bfloat16")

    def sum_over_processes(self, value: Tensor) -> float:
        if self.world > 1:
            dist.all_reduce(value)
        return value.item()

    def finish(self) -> dict[str, Any]:
        """Save the trained network, or nothing if epochs are left; what was reached, as JSON values."""
        parameters, trained = count_parameters(self.model)
        result: dict[str, Any] = {
            "data": self.options.data,
            "model": self.options.model,
            "layers": self.options.layers if self.basis else "dense",
            "basis": self.basis and self.basis.name,
            "epochs": len(self.log),
            "finished": len(self.log) == self.options.epochs,
            "parameters": parameters,
            "trained_parameters": trained,
            "macs": mac_breakdown(self.model),
            "padded_macs": mac_breakdown(self.model, padded=True)["total"],
            "out": str(self.options.out),
        }
        if self.log:
            keys = ("loss", "accuracy", "accuracy_average", "images_per_second")
            result |= {key: self.log[-1][key] for key in keys if key in self.log[-1]}
            result["seconds"] = sum(row["seconds"] for row in self.log)
        if result["finished"] and self.rank == 0:
            made = {"stlsearch": stlsearch.__version__, "device": describe_device(self.device), "processes": self.world}
            config = self.config | {"result": result, "settings": settings(self.options), "made_with": made, "log": self.log}
            save_model(self.options.out, self.average.model if self.average else self.model, config)
        return result

    def say(self, text: str) -> None:
        if self.rank == 0:
            print(text, file=sys.stderr, flush=True)


def source_of(options: argparse.Namespace, size: int, share: Share, device: torch.device) -> Source:
    """The images that were asked for."""
    if options.data == "digits":
        return digits(size, options.samples, share, options.shift, device)
    if options.data == "synthetic":
        reference = MODELS[options.model]()
        return synthetic(size, reference.channels, reference.classes, options.samples, share, device)
    return ImageFolder(options.root, size, share, options.randaugment, options.workers, device)


def rate_factor(step: int, warmup: float, steps: int) -> float:
    """The learning rate over its peak at a step counted from 0: linear to `warmup` steps, then a cosine down to a hundredth."""
    if step < warmup:
        return (step + 1) / (warmup + 1)
    done = (step - warmup) / max(steps - warmup, 1)
    return LOWEST_RATE + (1 - LOWEST_RATE) * (1 + math.cos(math.pi * done)) / 2


def seed_everything(*numbers: int) -> None:
    """Seed the default generators of all devices from a tuple of numbers."""
    torch.manual_seed(generator(*numbers).initial_seed())


def describe(row: dict[str, Any]) -> str:
    """A line about an epoch."""
    average = f" (average {row['accuracy_average']:.4f})" if "accuracy_average" in row else ""
    return f"loss {row['loss']:.4f}  accuracy {row['accuracy']:.4f}{average}  {row['images_per_second']:.0f} images/s"


def table(result: dict[str, Any]) -> str:
    """The result for people."""
    rows = {key: str(result[key]) for key in ("model", "layers", "basis", "epochs") if result[key] is not None}
    rows["parameters"] = f"{result['parameters']:,} ({result['trained_parameters']:,} trained)"
    rows["MACs an image"] = f"{result['macs']['total'] / 1e6:,.1f} M ({result['padded_macs'] / 1e6:,.1f} M with padded tiles)"
    if "accuracy" in result:
        rows["test accuracy"] = f"{result['accuracy']:.4f}"
        if "accuracy_average" in result:
            rows["  of the average"] = f"{result['accuracy_average']:.4f}"
        rows["training"] = f"{result['seconds']:.1f} s, {result['images_per_second']:.0f} images/s in the last epoch"
    rows["files"] = result["out"] if result["finished"] else f"{result['out']} (epochs are left: --resume)"
    return "\n".join(f"{name:<20}{value}" for name, value in rows.items())


@contextmanager
def processes(device: str) -> Iterator[tuple[torch.device, int, int]]:
    """(device, rank, number of processes): those of torchrun, or this one alone."""
    chosen = resolve_device(device)
    if "WORLD_SIZE" not in os.environ:
        yield chosen, 0, 1
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", 0)))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo")
    try:
        yield chosen, dist.get_rank(), dist.get_world_size()
    finally:
        dist.destroy_process_group()


def train(options: argparse.Namespace) -> None:
    """The whole run."""
    with processes(options.device) as (device, rank, world):
        run = Run(options, device, rank, world)
        there = run.checkpoint.exists()
        if there and not (options.resume or options.restart):
            raise InputError(f"{options.out} holds a run; --resume continues it, --restart begins anew, or give another --out")
        if rank == 0:
            try:
                options.out.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(f"cannot write to {options.out}: {error.strerror or error}") from None
        if there and options.resume:
            run.resume()
        run.train()
        result = run.finish()
        if rank == 0:
            print(json.dumps(result) if options.json else table(result))


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0, 2 for bad input (one line on stderr), 130 for Ctrl-C (the last checkpoint stays)."""
    try:
        train(parse(arguments, __doc__))
    except SystemExit as stop:  # of argparse
        return int(stop.code or 0)
    except (InputError, RegistryError) as error:
        # What fails in a reading process arrives with its traceback; the message is the last line.
        print(f"Error: {str(error).strip().splitlines()[-1].removeprefix('stlsearch.errors.InputError: ')}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("Interrupted; --resume goes on after the last finished epoch.", file=sys.stderr)
        return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
