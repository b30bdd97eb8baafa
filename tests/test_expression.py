"""The expression language of `stlsearch construct`, and the command."""

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stlsearch.commands import main
from stlsearch.constructions.classical import laderman, standard, strassen, toom
from stlsearch.constructions.expression import construct, parse
from stlsearch.constructions.transforms import compose, cyclic, direct_sum, permute, transpose
from stlsearch.errors import InputError


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("strassen", strassen()),
        (" ( laderman ) ", laderman()),
        ("standard(2, 3,4)", standard(2, 3, 4)),
        ("toom(3,2)", toom(3, 2)),
        ("strassen*strassen", compose(strassen(), strassen())),
        ("compose(strassen, standard(1,2,1))", compose(strassen(), standard(1, 2, 1))),
        ("strassen +p standard(2,2,1)", direct_sum(strassen(), standard(2, 2, 1), "p")),
        ("direct_sum(strassen, standard(1,2,2), n)", direct_sum(strassen(), standard(1, 2, 2), "n")),
        ("strassen +m standard(1,1,1) * standard(2,1,2)", direct_sum(strassen(), standard(2, 1, 2), "m")),
        ("transpose(cyclic(standard(1,2,3)))", transpose(cyclic(standard(1, 2, 3)))),
        ("permute(standard(1,2,3), 2,3,1)", permute(standard(1, 2, 3), (2, 3, 1))),
    ],
)
def test_what_expressions_build(text, expected):
    algorithm = construct(text)
    assert algorithm.target == expected.target
    assert sorted(map(tuple, algorithm.U.tolist())) == sorted(map(tuple, expected.U.tolist()))
    assert algorithm.error == 0
    assert algorithm.provenance["expression"] == " ".join(text.split())


def test_registered_names_come_from_the_lookup():
    asked = []

    def lookup(name):
        asked.append(name)
        return laderman() if name == "3x3x3_r23_Z_d02fb355" else None

    algorithm = construct("3x3x3_r23_Z_d02fb355 * strassen", lookup)
    assert algorithm.rank == 161
    assert asked == ["3x3x3_r23_Z_d02fb355"]
    assert algorithm.provenance["parents"] == [{"id": laderman().id, "name": laderman().name}]
    with pytest.raises(InputError, match="unknown name 'nobody' at position 12; valid: standard, strassen"):
        construct("strassen * nobody", lookup)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a name or '\\(' at position 1, found the end"),
        ("strassen*", "position 10"),
        ("strassen * )", "position 12, found '\\)'"),
        ("strassen strassen", "position 10"),
        ("strassen + strassen", "expected '\\*', '\\+n', '\\+m', '\\+p' or the end at position 10"),
        ("(strassen", "position 10"),
        ("strassen)", "position 9"),
        ("strassen(2)", "takes no arguments"),
        ("standard(2,2)", "takes \\(integer, integer, integer\\), not 2"),
        ("standard(2,x,2)", "an integer at position 12"),
        ("standard(0,2,2)", "1\\.\\."),
        ("standard(99,99,99)", "too large"),
        ("toom(400,400)", "too large"),
        ("*".join(["strassen"] * 6), "too large"),
        ("*".join(["strassen"] * 40), "more than 32 operators"),
        ("(" * 40 + "strassen" + ")" * 40, "nested deeper"),
        ("cyclic(" * 4000, "characters"),
        ("strassen; import os", "position 9, found ';'"),
        ("direct_sum(strassen,strassen,q)", "n, m or p"),
        ("permute(strassen,1,1,2)", "1, 2, 3"),
        ("strassen*gauss", "matrix products"),
        ("strassen +n laderman", "cannot be summed"),
    ],
)
def test_bad_expressions_are_one_clear_line(text, message):
    with pytest.raises(InputError, match=message) as caught:
        construct(text)
    assert "\n" not in str(caught.value)


@given(st.text(alphabet="strassen(),*+nmp 123é\n.", max_size=40))
def test_the_parser_never_fails_otherwise(text):
    with suppress(InputError):
        assert parse(text).name


def test_the_command_stores_and_prints(tmp_path, capsys):
    registry = ["--registry", str(tmp_path / "mine")]
    assert main(["construct", "strassen*winograd", *registry, "--out", str(tmp_path / "copy.json")]) == 0
    name, *rows = capsys.readouterr().out.splitlines()
    assert name.startswith("4x4x4_r49_Z_")
    assert dict(row.split()[:2] for row in rows)["amplification"] == "28"
    assert (tmp_path / "copy.json").read_bytes() == (tmp_path / "mine" / f"{name}.json").read_bytes()
    assert main(["construct", f"{name} +p standard(4,4,1)", *registry, "--json"]) == 0
    document = json.loads(capsys.readouterr().out)
    assert (document["version"], document["algorithm"]["tile"], document["algorithm"]["rank"]) == (1, [4, 4, 5], 65)


@pytest.mark.parametrize("text", ["nobody", "strassen +", "strassen**strassen"])
def test_the_command_refuses_bad_expressions(text, tmp_path, capsys):
    assert main(["construct", text, "--registry", str(tmp_path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert not list(tmp_path.iterdir())
