"""The README is true: its code runs, its commands exist, its pictures are there."""

import re
from pathlib import Path

import click
import pytest
import torch
from click.testing import CliRunner

from stlsearch.commands import COMMANDS, cli, main
from stlsearch.registry.store import open_registry

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_network_example_runs_as_written(capsys):
    code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[0]
    assert len(code.strip().splitlines()) <= 8
    torch.manual_seed(0)
    names: dict = {}
    exec(code, names)  # our own README
    assert [type(module).__name__ for module in names["model"]] == ["STLLinear", "GELU", "STLLinear"]
    assert "113.2M" in capsys.readouterr().out


def test_the_operator_example_runs_as_written():
    code = re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)[1]
    assert len(code.strip().splitlines()) <= 8
    names: dict = {}
    exec(code, names)  # our own README
    x, weight, y = names["x"], names["weight"], names["y"]
    assert y.shape == (x @ weight).shape
    error = float((y - x @ weight).square().sum() / (x @ weight).square().sum())
    assert error == pytest.approx(names["basis"].error, rel=0.1)


def test_every_command_is_documented_and_every_documented_command_exists():
    table = README.split("## The commands")[1].split("\n## ")[0]
    named = {
        word for row in table.splitlines() if row.startswith("| `") for word in re.findall(r"`(?:stlsearch )?([a-z]+)", row.split("|")[1])
    }
    assert named == set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_that_names_its_options(name):
    result = CliRunner().invoke(cli, [name, "--help"])
    assert result.exit_code == 0
    assert result.output.startswith("Usage:")
    assert len(result.output.split("Options:")[0].strip().splitlines()) >= 3


def test_pictures_and_pages_exist():
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"


def test_commands_in_the_documents_parse():
    """Every `stlsearch ...` line of the documents names a command and options that exist."""
    lines = []
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")):
        lines += re.findall(r"^    (?:\$ )?(?:.*&& )?stlsearch (.+)$", page.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert len(lines) >= 5
    for line in lines:
        name, *rest = line.split()
        command = cli.get_command(None, name)
        if isinstance(command, click.Group):
            command = command.commands[rest[0]]
        known = {option for parameter in command.params for option in parameter.opts}
        assert {word for word in rest if word.startswith("--")} <= known, line


def test_version_is_the_package_s(capsys):
    assert main(["--version"]) == 0
    assert re.match(r"stlsearch \d+\.\d+\.\d+", capsys.readouterr().out)


def test_torch_of_the_constraints_is_the_tested_one():
    assert f"torch=={torch.__version__.split('+')[0]}" in (ROOT / "constraints.txt").read_text() or "dev" in torch.__version__


def test_algorithms_named_in_the_documents_are_shipped_and_unambiguous():
    named = {
        name
        for page in (README, (ROOT / "docs" / "inits.md").read_text(encoding="utf-8"))
        for name in re.findall(r"\b\d+x\d+x\d+_r\d\w*", page)
    }
    assert len(named) >= 5
    for name in named:
        assert open_registry().get(name).layer == "shipped"
