"""Libraries that tests can do without."""

import importlib

import pytest


def optional(name):
    """The library, or a skipped test where it is missing or, such as timm beside another build of torchvision, cannot be imported."""
    try:
        return importlib.import_module(name)
    except Exception as error:
        pytest.skip(f"{name} cannot be imported: {error!s:.80}")
