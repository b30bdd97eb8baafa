"""`stlsearch search` and `stlsearch frontier` as a user meets them."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from processes import interruptible

from stlsearch.commands import main
from stlsearch.registry.codec import loads

CHECKOUT = Path(__file__).parent.parent


@pytest.fixture
def run(tmp_path, capsys):
    def call(*args):
        code = main([*args, "--registry", str(tmp_path / "registry")])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def test_search_finds_strassen_s_rank_and_records_how(run, tmp_path):
    code, out, _ = run("search", "--tile", "2", "--target-rank", "7", "--seed", "1", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["reached"]
    assert document["algorithm"]["rank"] == 7
    stored = loads(Path(document["algorithm"]["path"]).read_text())
    assert stored.is_ternary
    assert stored.provenance["command"] == "stlsearch search --tile 2x2x2 --target-rank 7 --seed 1"


def test_search_that_ends_above_the_target_keeps_what_it_found_and_exits_1(run):
    code, out, _ = run("search", "--tile", "2", "--target-rank", "6", "--max-flips", "30000")
    assert code == 1
    assert "above the target 6" in out


@pytest.mark.parametrize(("option", "value"), [("--target-rank", "0"), ("--target-rank", "9"), ("--max-flips", "0"), ("--seed", "-1")])
def test_search_bad_input_is_one_line_and_code_2(run, option, value):
    arguments = {"--tile": "2", "--target-rank": "7", option: value}
    code, out, err = run("search", *(word for pair in arguments.items() for word in pair))
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_keeps_the_lowest_rank_and_exits_130(tmp_path):
    command = [sys.executable, str(CHECKOUT / "cli.py"), "search", "--tile", "3", "--target-rank", "5", "--max-flips", "900000000"]
    with interruptible([*command, "--registry", str(tmp_path)]) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first progress line
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    assert "stopped" in out
    (stored,) = tmp_path.glob("3x3x3_*.json")
    assert loads(stored.read_text()).rank < 27


def test_frontier_lists_the_best_of_each_rank_beside_random_starts(run, tmp_path):
    for rank in ("5", "6"):
        for seed in ("0", "1"):
            fitted = ["fit", "--tile", "2", "--rank", rank, "--init", "random", "--restarts", "4", "--iterations", "30", "--seed", seed]
            assert run(*fitted)[0] == 0
    picture = tmp_path / "front.svg"
    code, out, _ = run("frontier", "--tile", "2", "--random", "4", "--plot", str(picture), "--json")
    assert code == 0
    front = json.loads(out)["front"]
    assert [row["rank"] for row in front] == [5, 6, 7]
    assert front[0]["rel_sq_error"] > front[1]["rel_sq_error"] > front[2]["rel_sq_error"] == 0
    assert 0.24 < front[0]["random_rel_sq_error"] < 0.6
    assert front[2]["random_rel_sq_error"] is None
    assert "keep r of 8 products" in picture.read_text()
    rows = run("frontier", "--tile", "2")[1].splitlines()
    assert rows[0].split()[:2] == ["rank", "FLOP"]
    assert len(rows) == 4


def test_frontier_search_fills_every_rank_resumes_and_only_ever_improves(run, tmp_path):
    search = ["frontier", "--tile", "2", "--ranks", "3-6", "--json"]
    code, out, err = run(*search, "--steps", "4")
    assert code == 0
    first = {row["rank"]: row["rel_sq_error"] for row in json.loads(out)["front"]}
    assert sorted(first) == [3, 4, 5, 6, 7]
    assert err.count(", registered") == 4
    assert first[6] == pytest.approx(0.125, abs=1e-3)
    assert first[3] > first[4] > first[5] > first[6] > first[7] == 0
    (state,) = (tmp_path / "registry").glob(".frontier-2x2x2-0.state")
    done = json.loads(state.read_text())["steps"]
    assert done >= 4  # a strategy that does not apply counts as a step too
    _, out, err = run(*search, "--steps", "3")
    second = {row["rank"]: row["rel_sq_error"] for row in json.loads(out)["front"]}
    steps = re.findall(r"^rank \d+, \w+: e (\S+), g \S+, before ([\d.]+)(, registered)?$", err, flags=re.MULTILINE)
    assert len(steps) == 3
    for found, before, registered in steps:  # registered when better by more than a ten-thousandth, and only then
        assert float(found) <= float(before) if registered else float(found) >= float(before) * (1 - 2e-4)
    assert json.loads(state.read_text())["steps"] >= done + 3
    assert all(second[rank] <= first[rank] for rank in first)


def test_frontier_search_records_commands_that_reproduce_its_bases(run, tmp_path):
    assert run("frontier", "--tile", "2x2x3", "--ranks", "8-9", "--steps", "2")[0] == 0
    for path in (tmp_path / "registry").glob("2x2x3_*.json"):
        stored = loads(path.read_text())
        assert {"--device", "--threads", "--seed", "--penalty"} <= set(stored.provenance["command"].split())
        replayed = run(*stored.provenance["command"].split()[1:], "--json")[1]
        assert json.loads(replayed)["algorithm"]["id"] == stored.id


def test_frontier_search_survives_a_damaged_state_file(run, tmp_path):
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / ".frontier-2x2x2-0.state").write_text('{"steps": "many"')
    assert run("frontier", "--tile", "2", "--ranks", "6", "--steps", "1")[0] == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--ranks", "7", "--steps", "1"],
        ["--ranks", "5"],
        ["--ranks", "9", "--steps", "1"],
        ["--ranks", "6-3", "--steps", "1"],
        ["--ranks", "a", "--steps", "1"],
        ["--steps", "0"],
    ],
)
def test_frontier_bad_input_is_one_line_and_code_2(run, options):
    code, out, err = run("frontier", "--tile", "2", *options)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
