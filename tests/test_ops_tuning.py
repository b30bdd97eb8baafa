"""Tables of launch parameters: what they hold, who takes them, and what no table may hold."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch

from stlsearch.errors import InputError
from stlsearch.evaluate.tune import Tuned, tune
from stlsearch.ops import Bases, backend, encode_weights, library, tuning
from stlsearch.registry.store import open_registry
from stlsearch.targets import Target

CPU = torch.device("cpu")


def test_sizes_fall_into_classes():
    assert tuning.key("multiply", torch.bfloat16, 24, 2048, 2000, 2300) == "multiply bfloat16 32 2048x2048x2048"
    assert tuning.key("encode", torch.float8_e4m3fn, 7, 1, 3000, 0) == "encode float8_e4m3fn 16 1x4096"
    assert tuning.key("decode", torch.float32, 49, 3100) == "decode float32 64 4096"


def test_a_table_holds_for_its_block_only():
    name = tuning.key("encode", torch.float32, 24, 64, 64)
    assert tuning.choice("encode", CPU, torch.float32, 24, 64, 64) == {}
    with tuning.tuned({name: {"warps": 2}}):
        assert tuning.choice("encode", CPU, torch.float32, 24, 70, 60) == {"warps": 2}
        assert tuning.choice("encode", CPU, torch.float32, 24, 200, 60) == {}
        with tuning.tuned({}):
            assert tuning.choice("encode", CPU, torch.float32, 24, 64, 64) == {}
        assert tuning.choice("encode", CPU, torch.float32, 24, 64, 64) == {"warps": 2}
    assert tuning.choice("encode", CPU, torch.float32, 24, 64, 64) == {}


def test_a_device_takes_the_table_with_its_name(monkeypatch, tmp_path):
    name = tuning.key("decode", torch.bfloat16, 24, 4096, 4096)
    tuning.save_table({name: {"bytes": 8192, "warps": 8}}, tmp_path / "tables" / tuning.file_name("NVIDIA H200 (SXM)"), date="today")
    monkeypatch.setattr(tuning, "FOLDER", tmp_path / "tables")
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda index: ["NVIDIA H200 (SXM)", "another"][index])
    tuning._shipped.cache_clear()
    found = [tuning.choice("decode", torch.device("cuda", index), torch.bfloat16, 24, 4096, 4096) for index in (0, 1)]
    tuning._shipped.cache_clear()
    assert found == [{"bytes": 8192, "warps": 8}, {}]
    assert [path.name for path in (tmp_path / "tables").iterdir()] == ["nvidia-h200-sxm.json"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "is no table of launch parameters"),
        ("[]", "is no table of launch parameters"),
        ('{"stlsearch_tuning": 1}', "is no table of launch parameters"),
        ('{"stlsearch_tuning": 2, "table": {}}', "of another format than 1"),
        ('{"stlsearch_tuning": 1, "table": {"encode x": {"threads": 4}}}', "'encode x' cannot be {'threads': 4}; valid: bytes, warps"),
        ('{"stlsearch_tuning": 1, "table": {"encode x": {"warps": 2.5}}}', "valid: bytes, warps"),
        ('{"stlsearch_tuning": 1, "table": {"": {}}, "x": 1}', "no such operation"),
    ],
)
def test_broken_tables_are_refused(tmp_path, text, message):
    (tmp_path / "table.json").write_text(text)
    with pytest.raises(InputError, match=message):
        tuning.load_table(tmp_path / "table.json")
    with pytest.raises(InputError, match="is no table"):
        tuning.load_table(tmp_path / "missing.json")


def test_the_fastest_that_is_right_is_chosen():
    def call():
        warps = tuning.choice("encode", CPU, torch.float32, 24, 64, 64).get("warps", 4)
        if warps == 16:
            raise RuntimeError("out of resources")
        return torch.ones(4) * (2 if warps == 1 else float("nan") if warps == 3 else 1)

    def seconds(function):
        function()
        return 1 / tuning.choice("encode", CPU, torch.float32, 24, 64, 64).get("warps", 4)

    found, name = Tuned(), tuning.key("encode", torch.float32, 24, 64, 64)
    candidates = [{"warps": warps} for warps in (1, 2, 3, 8, 16)]
    assert found.choose(name, candidates, call, seconds) == 1 / 8
    assert found.table == {name: {"warps": 8}}
    assert found.seconds == {name: {"rule": 1 / 4, "fastest": 1 / 8}}
    assert [line.rpartition("}")[2] for line in found.refused] == [": differs by 1", ": differs by nan", ": RuntimeError: out of resources"]


def test_without_kernels_there_is_nothing_to_tune():
    bases = Bases.prepare(open_registry().best(Target.matmul(4, 4, 4), 24).algorithm)
    x = torch.ones(8, 8)
    with pytest.raises(InputError, match="there is nothing to tune"):
        tune(x, encode_weights(x, bases), bases)


def test_who_decodes_with_the_products(monkeypatch):
    """By the backend, else by the table of the device, and only where there are kernels that can."""
    kernels = SimpleNamespace(can_decode=lambda dtype, height, width: height * width <= 64)
    planes, weight, decoder = torch.ones(24, 2, 2), torch.ones(24, 2, 2), torch.ones(24, 16)
    name = tuning.key("product_decode", torch.float32, 24, 2, 2, 2)

    def fuses(table, *, height=4):
        with tuning.tuned(table):
            return library.fuses(planes, weight, decoder, height, 4)

    assert not fuses({name: {"fused": True}})
    monkeypatch.setattr(library, "triton_path", lambda: kernels)
    monkeypatch.setattr(library, "module_for", lambda tensor: kernels)
    assert [fuses(table) for table in ({name: {"fused": True}}, {name: {"fused": False}}, {})] == [True, False, False]
    with backend("fused"):
        assert fuses({})
        assert not fuses({}, height=32)
    with backend("unfused"):
        assert not fuses({name: {"fused": True}})


def test_tables_that_come_with_the_package_can_be_read():
    for path in tuning.FOLDER.glob("*.json"):
        assert tuning.load_table(path), path
        assert json.loads(path.read_text())["device"]["name"]
