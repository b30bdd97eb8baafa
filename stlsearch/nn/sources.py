"""Models from folders, built by the library they belong to: transformers, timm, or none. No code of a folder is run, no pickle read."""

from __future__ import annotations

import importlib
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from stlsearch.errors import InputError
from stlsearch.nn.folder import load
from stlsearch.nn.skeleton import build_skeleton, guess_table
from stlsearch.nn.state import KEY, VERSION, is_converted, read_json, read_state


@dataclass(frozen=True)
class Source:
    """A model's folder or file, and which library builds it.

    Attributes:
        path: the folder, or the single .safetensors file.
        kind: "transformers", "timm", "stlsearch" (it has a table of layers) or "tensors" (it has nothing else).
        config: config.json, empty for a single file.
    """

    path: Path
    kind: str
    config: dict = field(default_factory=dict)

    @staticmethod
    def of(path: str | Path) -> Source:
        """Look at a folder or file.

        Raises:
            InputError: there is none, or its config.json belongs to no library that is known.
        """
        path = Path(path)
        try:
            path.stat()
        except FileNotFoundError:
            raise InputError(f"there is no file or folder {path}") from None
        except (OSError, ValueError) as error:
            raise InputError(f"cannot read {str(path)!r:.80}: {getattr(error, 'strerror', None) or error}") from None
        if path.is_file():
            if path.suffix != ".safetensors":
                raise InputError(f"{path} is no .safetensors file; a folder with config.json and model.safetensors is a model too")
            return Source(path, "tensors")
        if not path.is_dir():
            raise InputError(f"{path} is neither a file nor a folder")
        if not (path / "config.json").is_file():
            raise InputError(f"{path} holds no config.json; a single .safetensors file can do without")
        config = read_json(path / "config.json")
        for key, kind in (("model_type", "transformers"), ("architecture", "timm"), (KEY, "stlsearch")):
            if key in config:
                return Source(path, kind, config)
        raise InputError(f"{path / 'config.json'} has none of 'model_type' (transformers), 'architecture' (timm) and {KEY!r}")

    @property
    def runs(self) -> bool:
        """Whether the model can be run, else it is a stand-in, see `stlsearch.nn.skeleton`."""
        return self.kind in ("transformers", "timm")

    def build(self) -> torch.nn.Module:
        """The model as it is made, without the weights of the folder; on the meta device where that is the default.

        Raises:
            InputError: a library that is not installed, or a config that it refuses.
        """
        if self.kind == "transformers":
            with refusals(self.path):
                config = self._config()
                return self._class(config)(config)
        if self.kind == "timm":
            with refusals(self.path):
                return library("timm").create_model(f"local-dir:{self.path.resolve()}", pretrained=False)
        raise InputError(f"{self.path} does not say of which class its model is: only the program that owns it can build it")

    def open(self) -> torch.nn.Module:
        """The model with its weights, converted layers included; a stand-in for one that cannot be run.

        Raises:
            InputError: as for `build` and `stlsearch.nn.load`, weights that are missing, or a converted model of no library.
        """
        if not self.runs:
            state = read_state(self.path)
            if state.layers:
                raise InputError(f"{self.path} is converted already")
            return build_skeleton(state.tensors, self.table(state.tensors))
        if self.kind == "transformers" and not is_converted(self.path):
            # Its own loader knows how names have changed between versions.
            with refusals(self.path), _silence():
                config = self._config()
                options: dict[str, Any] = {"use_safetensors": True, "local_files_only": True, "trust_remote_code": False, "dtype": "auto"}
                model, report = self._class(config).from_pretrained(self.path, config=config, output_loading_info=True, **options)
            if missing := sorted(report["missing_keys"]):
                raise InputError(f"{self.path} lacks {missing[0]}, which its config asks for ({len(missing)} missing)")
            if unknown := sorted(report["unexpected_keys"]):
                warnings.warn(f"{self.path} holds {unknown[0]}, which its model has no place for ({len(unknown)} left out)", stacklevel=2)
            return model
        return load(self.build(), self.path)

    def table(self, tensors: dict[str, torch.Tensor]) -> dict[str, dict]:
        """The layers of a model that cannot be run.

        Raises:
            InputError: a table of another version, or none.
        """
        if self.kind == "tensors":
            return guess_table(tensors)
        held = self.config.get(KEY)
        if not isinstance(held, dict) or held.get("version") != VERSION or not isinstance(held.get("layers"), dict):
            raise InputError(f"{self.path / 'config.json'}: the table under {KEY!r} is of no version that this stlsearch reads ({VERSION})")
        return held["layers"]

    def example(self, model: torch.nn.Module, batch: int, tokens: int) -> Any:
        """Random inputs of the sizes that the config names: images, or so many tokens.

        Raises:
            InputError: a model of other inputs, or of fewer positions than tokens.
        """
        generator = torch.Generator().manual_seed(0)
        if self.kind == "timm":
            return torch.randn(batch, *_timm_size(model), generator=generator)
        config: Any = model.config
        wanted = getattr(model, "main_input_name", "")
        if wanted == "pixel_values" and (size := getattr(config, "image_size", None)):
            height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
            return {wanted: torch.randn(batch, getattr(config, "num_channels", 3), height, width, generator=generator)}
        text = config.get_text_config()
        if wanted != "input_ids" or not isinstance(words := getattr(text, "vocab_size", None), int):
            raise InputError(f"{self.path}: no example is known for a model whose input is {wanted!r}; stlsearch.nn.convert takes your own")
        most = getattr(text, "max_position_embeddings", None)
        if isinstance(most, int) and 0 < most < tokens:
            raise InputError(f"{self.path}: the model has {most} positions, fewer than {tokens} tokens")
        inputs = {wanted: torch.randint(words, (batch, tokens), generator=generator)}
        if getattr(config, "is_encoder_decoder", False):
            inputs["decoder_input_ids"] = inputs[wanted]
        return inputs

    def _config(self) -> Any:
        if (self.path / "adapter_config.json").exists():  # which transformers would load, pickled too
            raise InputError(f"{self.path} holds an adapter: merge it into the model first")
        for kind in _kernels(self.config):  # which transformers would download and run
            raise InputError(f"{self.path}: its config asks for {kind!r:.80}, code from elsewhere; take that out")
        return library("transformers").AutoConfig.from_pretrained(self.path, trust_remote_code=False, local_files_only=True)

    def _class(self, config: Any) -> Any:
        """The class of the model: what the config calls its architecture, else the one transformers has for its type."""
        transformers = library("transformers")
        for name in config.architectures or ():
            found = getattr(transformers, str(name), None)
            if isinstance(found, type) and issubclass(found, transformers.PreTrainedModel):
                return found
            raise InputError(f"{self.path}: transformers has no architecture {name!r:.80} (code of a folder is never run)")
        return transformers.AutoModel._model_mapping[type(config)]


@contextmanager
def without_memory(source: Source) -> Iterator[torch.nn.Module]:
    """A model of a library without any values, inside the mode in which it can be run for its sizes' sake."""
    with torch.device("meta"):
        model = source.build().eval()
    with FakeTensorMode(allow_non_fake_inputs=True):
        made: dict[torch.Tensor, Any] = {}  # tied weights stay tied
        for module in model.modules():
            for values in (module._parameters, module._buffers):
                for name, tensor in values.items():
                    if tensor is not None and tensor not in made:
                        empty = torch.empty_like(tensor, device="cpu")
                        made[tensor] = torch.nn.Parameter(empty, tensor.requires_grad) if values is module._parameters else empty
                    values[name] = None if tensor is None else made[tensor]
        yield model


def library(name: str) -> ModuleType:
    """An optional library.

    Raises:
        InputError: it is not installed, or does not work.
    """
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        raise InputError(f"{error.name} is missing, which this model needs: pip install 'stlsearch[networks]'") from None
    except Exception as error:
        raise InputError(f"{name} is installed but cannot be imported: {error!s:.200}") from None


@contextmanager
def refusals(path: Path) -> Iterator[None]:
    """What a library says against a model in one line."""
    try:
        yield
    except InputError:
        raise
    except Exception as error:  # libraries have classes of their own, such as huggingface_hub's for fields of a wrong type
        if isinstance(error, MemoryError) or "memory" in str(error):
            raise
        if "ignore_mismatched_sizes" in str(error):  # advice of transformers to those who call it
            raise InputError(f"{path}: the weights have other sizes than its config says") from None
        text = " ".join(str(error).split())
        if not text or isinstance(error, KeyError):  # whose text is the key alone
            text = f"{type(error).__name__} {text}"
        raise InputError(f"{path}: {text:.300}") from None


@contextmanager
def _silence() -> Iterator[None]:
    """No progress bar and no report of transformers: printing is for the command line."""
    logging = library("transformers").utils.logging
    shown, level = logging.is_progress_bar_enabled(), logging.get_verbosity()
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if shown:
            logging.enable_progress_bar()


def _kernels(value: Any) -> Iterator[str]:
    """Implementations that a config, or one within it, wants from the hub: "owner/name" instead of a word."""
    for key, held in value.items() if isinstance(value, dict) else ():
        if key.endswith("_implementation"):
            yield from (str(each) for each in (held.values() if isinstance(held, dict) else [held]) if "/" in str(each))
        else:
            yield from _kernels(held)


def _timm_size(model: torch.nn.Module) -> tuple[int, int, int]:
    """(channels, height, width): what the model was built for, else what its weights were trained on."""
    config: Any = getattr(model, "pretrained_cfg", None) or {}
    channels, height, width = config.get("input_size", (3, 224, 224))
    patches: Any = getattr(model, "patch_embed", None)
    if (size := getattr(patches, "img_size", None)) is not None:
        height, width = size
    return channels, height, width
