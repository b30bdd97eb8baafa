"""A small character model with dense, narrower, 2:4 sparse and Strassen-Tile layers: perplexity against multiplications.

    python examples/char_lm/train.py            # everything, 20 to 25 minutes on one core
    python examples/char_lm/train.py --quick    # seconds, to see it work
    python examples/char_lm/train.py --kinds dense,stl24 --seeds 1
    python examples/char_lm/train.py --from benchmarks/results/char-lm.json

Every finished run is written to --output at once; the same command continues where it was interrupted. The tables are explained in
docs/language.md.
"""

from __future__ import annotations

import argparse
import datetime
import json
import math
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NoReturn

import torch
from measure import future_influence, macs, narrow, neighbours_influence, validate, validate_honestly
from model import GPT, Config, kept_products, sample, stl
from report import print_report
from sparse import apply_masks, find_masks
from text import ROOT, Text, all_windows, project_text, random_windows
from torch import nn

from stlsearch import __version__
from stlsearch.devices import describe_device
from stlsearch.nn import parameter_groups
from stlsearch.registry.atomic import write_atomic
from stlsearch.registry.store import open_registry

BASES = {16: "4x4x4_r16_R_26415362", 24: "4x4x4_r24_R_35105461", 32: "4x4x4_r32_R_c605c1ed"}  # the front of g <= 30
HONEST = 128  # windows on which a model that leaks is validated character by character
PROMPT = "The basis of rank 24 "


@dataclass(frozen=True)
class Kind:
    """What one model is made of."""

    rank: int | None = None  # of the Strassen-Tile layers; None is dense
    mixing: bool = True  # the shipped basis; without it, products of the definition, which mix neither samples nor characters
    rows: str = "batch"
    learn: str = ""
    as_cheap_as: int | None = None  # dense, but narrower: at most the multiplications of this rank
    sparse: bool = False


KINDS = {
    "dense": Kind(),
    **{f"narrow{rank}": Kind(as_cheap_as=rank) for rank in BASES},
    "2:4": Kind(sparse=True),
    **{f"stl{rank}": Kind(rank) for rank in BASES},
    **{f"stl{rank}-learned": Kind(rank, learn="UW") for rank in BASES},
    "kept24": Kind(24, mixing=False),
    "stl24-tokens": Kind(24, rows="tokens"),
}
DEFAULT = [name for name in KINDS if name not in ("narrow16", "narrow32", "stl16-learned", "stl32-learned")]
AT_ONCE = "2:4 at once"  # the trained dense model, pruned: a by-product of "dense"


@dataclass(frozen=True)
class Settings:
    """What all models have in common."""

    config: Config = field(default_factory=Config)
    steps: int = 240
    batch: int = 32
    rate: float = 6e-3  # AdamW's, warmed up over the first 20th, then falling to a tenth along a cosine
    decay: float = 0.1


def build(kind: Kind, settings: Settings) -> GPT:
    """A model at random, from torch's global seed."""
    if kind.as_cheap_as:
        return GPT(narrow(settings.config, macs(settings.config, rank=kind.as_cheap_as)["total"]))
    if kind.rank is None:
        return GPT(settings.config)
    algorithm = open_registry().get(BASES[kind.rank]).algorithm if kind.mixing else kept_products(kind.rank)
    return GPT(settings.config, stl(algorithm, rows=kind.rows, learn=kind.learn))


def train(model: GPT, text: Text, settings: Settings, seed: int, *, sparse: bool = False) -> list[float]:
    """The training losses, in nats per character. The batches depend on the seed alone, so that models see the same ones.

    A sparse model is dense for half of the steps, then pruned to 2:4, and keeps its zeros: the same budget as the others.
    """
    generator = torch.Generator().manual_seed(seed)
    groups = parameter_groups(model, settings.rate, decay=settings.decay)
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.99))
    warm = max(settings.steps // 20, 1)

    def rate(step: int) -> float:
        falling = (1 + math.cos(math.pi * (step - warm) / max(settings.steps - warm, 1))) / 2
        return (step + 1) / warm if step < warm else 0.1 + 0.9 * falling

    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, rate)
    history, masks = [], {}
    for step in range(settings.steps):
        if sparse and step == settings.steps // 2:
            masks = find_masks(model.blocks)
            apply_masks(masks)
        windows = random_windows(text.train, settings.batch, settings.config.context, generator)  # (B, T + 1)
        loss = nn.functional.cross_entropy(model(windows[:, :-1]).flatten(0, 1), windows[:, 1:].flatten())
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        apply_masks(masks)
        history.append(float(loss.detach()))
    return history


def run(name: str, seed: int, text: Text, settings: Settings) -> list[dict]:
    """Train and measure one model; the records of what it gave, two for the dense one."""
    kind, began = KINDS[name], time.perf_counter()
    torch.manual_seed(seed)
    model = build(kind, settings)
    history = train(model, text, settings, seed, sparse=kind.sparse)
    seconds = time.perf_counter() - began
    windows = all_windows(text.validation, settings.config.context)
    cost = {"rank": kind.rank, "mixing": kind.mixing} if kind.rank else {"density": 0.5 if kind.sparse else 1.0}

    def record(name: str, model: GPT, cost: dict, **more: object) -> dict:
        nats = float(validate(model, windows).mean())
        return {
            "kind": name,
            "seed": seed,
            "nats": nats,
            "macs": macs(model.config, **cost),
            "macs_alone": macs(model.config, **cost, batch=1)["total"],
            "dim": model.config.dim,
            "parameters": sum(parameter.numel() for parameter in model.parameters()),
            "seconds": round(seconds, 1),
            **more,
        }

    prompt = text.encode(PROMPT).expand(4, -1)
    continued = sample(model, prompt, 160, generator=torch.Generator().manual_seed(seed))
    records = [
        record(
            name,
            model,
            cost,
            training_nats=sum(history[-20:]) / len(history[-20:]),
            future_influence=future_influence(model, windows),
            neighbours=neighbours_influence(model, windows, space=int(text.encode(" ")[0])),
            sample=text.decode(continued[0]),
        )
    ]
    if kind.rows == "tokens":
        some = windows[:HONEST]
        falsely, honestly = validate(model, some).mean(0), validate_honestly(model, some).mean(0)  # (T,)
        places = {
            name: [float(nats[place::4].mean()) for place in range(4)] for name, nats in (("falsely", falsely), ("honestly", honestly))
        }
        records[0]["leak"] = {"falsely": float(falsely.mean()), "honestly": float(honestly.mean()), "places": places}
    if name == "dense":
        apply_masks(find_masks(model.blocks))
        records.append(record(AT_ONCE, model, {"density": 0.5}))
    return records


class Parser(argparse.ArgumentParser):
    """Bad options are answered in one line, with exit code 2."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message}", file=sys.stderr)
        raise SystemExit(2)


def parse() -> argparse.Namespace:
    parser = Parser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--kinds",
        default=",".join(DEFAULT),
        help=f"of {', '.join(KINDS)}; default: all but narrow16, narrow32, stl16-learned, stl32-learned",
    )
    parser.add_argument("--seeds", type=int, default=3)
    for name, kind in (("steps", int), ("batch", int), ("rate", float)):
        parser.add_argument(f"--{name}", type=kind, default=getattr(Settings(), name), help="default: %(default)s")
    for name in ("dim", "layers", "heads", "context"):
        parser.add_argument(f"--{name}", type=int, default=getattr(Config(), name), help="default: %(default)s")
    parser.add_argument("--text", type=Path, help="a file to learn instead of the project's pages and docstrings")
    parser.add_argument("--output", type=Path, help="where finished runs are kept; default: char-lm.json, with --quick char-lm-quick.json")
    parser.add_argument("--from", dest="source", type=Path, help="print the tables of this file and train nothing")
    parser.add_argument("--quick", action="store_true", help="a tiny model, few steps, two seeds, five kinds")
    parser.add_argument("--json", action="store_true", help="print the runs as JSON instead of tables")
    parser.add_argument("--samples", action="store_true", help="also print some text of each kind")
    options = parser.parse_args()
    if options.quick:
        quick = {
            "kinds": "dense,2:4,stl24,kept24,stl24-tokens",
            "seeds": 2,
            "steps": 40,
            "batch": 16,
            "dim": 32,
            "layers": 1,
            "context": 32,
        }
        for name, value in quick.items():
            if getattr(options, name) == parser.get_default(name):
                setattr(options, name, value)
    options.output = options.output or Path("char-lm-quick.json" if options.quick else "char-lm.json")
    if unknown := [name for name in options.kinds.split(",") if name not in KINDS]:
        parser.error(f"unknown kind {unknown[0]!r}; valid: {', '.join(KINDS)}")
    numbers = {name: getattr(options, name) for name in ("seeds", "steps", "batch", "dim", "layers", "heads", "context", "rate")}
    if small := [f"--{name} {value}" for name, value in numbers.items() if not value > 0]:
        parser.error(f"{small[0]} is not above 0")
    if options.dim % options.heads or options.dim % 4:
        parser.error(f"--dim {options.dim} is no multiple of 4 and of --heads {options.heads}")
    if options.context >= 512:
        parser.error(f"--context {options.context} is not below 512, half a chunk of the text")
    return options


def load(path: Path) -> dict:
    """The document of an earlier run; anything else ends the program in one line."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(document["runs"], list):
            raise TypeError
    except (OSError, ValueError, KeyError, TypeError) as error:
        fail(f"{path} holds no runs of this program: {error.__class__.__name__}")
    return document


def fail(message: str) -> NoReturn:
    print(f"error: {message}", file=sys.stderr)
    raise SystemExit(2)


def main() -> None:
    """Train what is missing, keep it, print the tables."""
    options = parse()
    torch.set_num_threads(1)
    if options.source:
        show(load(options.source), options)
        return
    try:
        text = Text.of(options.text.read_text(encoding="utf-8") if options.text else project_text())
    except (OSError, ValueError) as error:
        fail(f"{options.text or ROOT}: {error}")
    config = Config(options.dim, options.layers, options.heads, options.context)
    settings = Settings(config, options.steps, options.batch, options.rate)
    shared = {
        "settings": asdict(settings),
        "text": {"sha256": text.sha256, "characters": text.size, "train": text.train.numel(), "validation": text.validation.numel()},
    }
    document = shared | {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "command": " ".join(["python examples/char_lm/train.py", *sys.argv[1:]]),
        "stlsearch": __version__,
        "torch": torch.__version__,
        "device": describe_device(torch.device("cpu")),
        "bases": BASES,
        "runs": [],
    }
    if options.output.exists():
        earlier = load(options.output)
        if any(earlier.get(key) != value for key, value in shared.items()):
            fail(f"{options.output} holds runs of another text or of other settings; choose another --output")
        document["runs"] = earlier["runs"]
    try:
        for seed in range(options.seeds):
            for name in options.kinds.split(","):
                if any((known["kind"], known["seed"]) == (name, seed) for known in document["runs"]):
                    continue
                records = run(name, seed, text, settings)
                document["runs"] += records
                write_atomic(options.output, (json.dumps(document, indent=1) + "\n").encode())
                for each in records:
                    print(
                        f"{each['kind']:<14} seed {seed}: perplexity {math.exp(each['nats']):.3f}, {each['seconds']} s",
                        file=sys.stderr,
                        flush=True,
                    )
    except KeyboardInterrupt:
        show(document, options)
        raise SystemExit(130) from None
    show(document, options)


def show(document: dict, options: argparse.Namespace) -> None:
    if options.json:
        print(json.dumps(document))
    else:
        print_report(document, samples=options.samples)


if __name__ == "__main__":
    main()
