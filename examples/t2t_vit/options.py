"""The options of train.py, and the settings that each data set starts from."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

RECIPES: dict[str, dict[str, Any]] = {
    "imagenet": {  # T2T-ViT's own (arXiv 2101.11986): 512 images a step, whatever the number of processes
        "model": "t2t_vit_7",
        "epochs": 310,
        "warmup": 10,
        "batch": 512,
        "rate": 1e-3,
        "rate_encoded": 1.0,
        "rate_bases": 0.3,
        "weight_decay": 0.03,
        "drop_path": 0.1,
        "randaugment": 9.0,
        "mixup": 0.8,
        "cutmix": 1.0,
        "smoothing": 0.1,
        "erase": 0.0,
        "shift": 0,
        "average": 0.99996,
        "workers": 8,
    },
    "digits": {  # 1500 images of 10 classes: a digit mirrored, mixed or turned is another one, so it is only shifted
        "model": "t2t_vit_digits",
        "epochs": 30,
        "warmup": 3,
        "batch": 100,
        "rate": 3e-3,
        "rate_encoded": 1.0,
        "rate_bases": 0.3,
        "weight_decay": 0.03,
        "drop_path": 0.0,
        "randaugment": 0.0,
        "mixup": 0.0,
        "cutmix": 0.0,
        "smoothing": 0.1,
        "erase": 0.0,
        "shift": 2,
        "average": 0.99,
        "workers": 0,
    },
}
RECIPES["synthetic"] = RECIPES["imagenet"] | {"epochs": 1, "warmup": 0, "batch": 64, "workers": 0}

# What changes how a run computes or where it writes, but is no part of what is trained: free to differ when it is resumed.
FREE = ("out", "resume", "restart", "json", "device", "workers", "stop_after", "root", "compile")


class Parser(argparse.ArgumentParser):
    """Answers bad input with one line and exit code 2."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"Error: {message}\n")


def parse(arguments: list[str] | None, description: str | None) -> argparse.Namespace:
    """The options; those not given come from the recipe of the data set."""
    parser = Parser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("--data", choices=sorted(RECIPES), required=True, help="imagenet: any folder of train/CLASS/*.jpg and val/CLASS/*.jpg")
    add("--root", type=Path, help="that folder")
    add("--samples", type=_count, help="training images: random ones (default 1024), or of the digits (default all)")
    add("--out", type=Path, help="folder to write to (default runs/DATA-dense or runs/DATA-rRANK)")
    add("--resume", action="store_true", help="continue from OUT/checkpoint.pt if it is there")
    add("--restart", action="store_true", help="begin anew although OUT holds a run")
    add("--stop-after", type=_count, metavar="EPOCH", help="stop with a checkpoint after this epoch")
    add("--json", action="store_true", help="one line of JSON to stdout instead of a table")
    add("--device", default="auto", help="auto, cpu or cuda (default %(default)s)")
    add("--seed", type=int, default=0)

    layers = parser.add_argument_group("Strassen-Tile layers")
    add = layers.add_argument
    add("--rank", type=int, default=0, help="best registered basis of this rank; 0 leaves the network dense (default)")
    add("--tile", type=_count, default=4, help="tile of that basis (default %(default)s)")
    add("--basis", metavar="NAME", help="a basis by name or file instead")
    add("--layers", choices=("backbone", "all"), default="backbone", help="the blocks' linear layers, or T2T module and head too")
    add("--learn", choices=("none", "U", "W", "UW"), default="UW", help="factors trained, a basis per layer (default %(default)s)")

    recipe = parser.add_argument_group("recipe (default by --data: imagenet / digits)")

    def setting(flag: str, kind: Any, text: str) -> None:
        name = flag.strip("-").replace("-", "_")
        values = f"{RECIPES['imagenet'][name]} / {RECIPES['digits'][name]}"
        recipe.add_argument(flag, type=kind, help=f"{text} ({values})")

    recipe.add_argument("--model", choices=("t2t_vit_7", "t2t_vit_digits"))
    recipe.add_argument("--image-size", type=_count, help="pixels, where the model's own are not wanted")
    setting("--epochs", _count, "epochs of the cosine schedule")
    setting("--warmup", _positive, "epochs of linear warm-up among them")
    setting("--batch", _count, "images a step, over all processes")
    setting("--rate", _positive, "peak learning rate of AdamW; falls to a hundredth")
    setting("--rate-encoded", _positive, "rate of encoded weights as a multiple of --rate and of the basis' steady rate")
    setting("--rate-bases", _positive, "rate of learned bases as a multiple of --rate")
    setting("--weight-decay", _positive, "of matrices; biases, norms and bases have none")
    setting("--drop-path", _probability, "probability of skipping a branch of the last block")
    setting("--randaugment", _positive, "magnitude of RandAugment, 0 to 10, 0 is off; images of a folder only")
    setting("--mixup", _positive, "alpha of mixup, 0 is off")
    setting("--cutmix", _positive, "alpha of CutMix, 0 is off")
    setting("--smoothing", _probability, "label smoothing")
    setting("--erase", _probability, "probability of erasing a rectangle")
    setting("--shift", int, "largest shift in pixels; images in memory only")
    setting("--average", _probability, "decay a step of the weights' moving average, 0 is off")
    setting("--workers", int, "processes that read images")
    recipe.add_argument("--clip", type=_positive, default=0.0, help="largest norm of the gradient, 0 is off (default)")
    recipe.add_argument("--amp", choices=("none", "bfloat16"), default="none", help="mixed precision (default %(default)s)")
    recipe.add_argument("--compile", action="store_true", help="train through torch.compile")

    options = parser.parse_args(arguments)
    for name, value in RECIPES[options.data].items():
        if getattr(options, name) is None:
            setattr(options, name, value)
    if options.data == "imagenet" and options.root is None:
        parser.error("--data imagenet needs --root FOLDER with train/CLASS/*.jpg and val/CLASS/*.jpg")
    if options.resume and options.restart:
        parser.error("--resume continues a run and --restart begins it anew: give one of them")
    if options.out is None:
        kind = "dense" if not (options.rank or options.basis) else f"r{options.rank}" if options.rank else Path(options.basis).stem
        options.out = Path("runs") / f"{options.data}-{kind}"
    return options


def settings(options: argparse.Namespace) -> dict[str, Any]:
    """The options that decide what is trained, as JSON values: a resumed run needs the same."""
    return {name: value for name, value in sorted(vars(options).items()) if name not in FREE}


def _count(text: str) -> int:
    if (value := int(text)) < 1:
        raise argparse.ArgumentTypeError(f"at least 1 is needed, not {text}")
    return value


def _positive(text: str) -> float:
    if not 0 <= (value := float(text)) < float("inf"):
        raise argparse.ArgumentTypeError(f"a number of at least 0 is needed, not {text}")
    return value


def _probability(text: str) -> float:
    if not 0 <= (value := float(text)) < 1:
        raise argparse.ArgumentTypeError(f"a number from 0 to below 1 is needed, not {text}")
    return value
