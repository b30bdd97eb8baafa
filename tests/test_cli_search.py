"""`stlsearch search` and `stlsearch frontier` as a user meets them."""

import json
import os
import re
import signal
import sys
from pathlib import Path

import pytest
from processes import interruptible
from test_gaussian_rounding import in_complex_basis
from test_rounding import numeric

from stlsearch.constructions.classical import strassen
from stlsearch.parents import Parents
from stlsearch.registry.codec import loads
from stlsearch.registry.store import Registry
from stlsearch.solvers.polish import Goal
from stlsearch.targets import Target

CHECKOUT = Path(__file__).parent.parent


def test_search_finds_strassen_s_rank_and_records_how(run, nothing_shipped):
    code, out, _ = run("search", "--tile", "2", "--target-rank", "7", "--seed", "1", "--walkers", "1", "--json")
    assert code == 0
    document = json.loads(out)
    assert document["reached"]
    assert document["algorithm"]["rank"] == 7
    stored = loads(Path(document["algorithm"]["path"]).read_text())
    assert stored.is_ternary
    assert stored.provenance["command"] == "stlsearch search --tile 2x2x2 --target-rank 7 --seed 1 --walkers 1"
    assert (document["stored"], document["equivalent"]) == (True, None)


def test_search_names_the_registered_algorithm_that_it_has_found_in_another_basis(run, tmp_path):
    search = ("search", "--tile", "2", "--rank", "7", "--seed", "1", "--walkers", "1")
    code, out, err = run(*search)
    assert code == 0
    assert re.search(rf"^name +{strassen().name}$", out, flags=re.MULTILINE)
    assert err == f"not stored: {strassen().name}, which is registered, is the same in another basis, and no worse\n"
    assert not list((tmp_path / "registry").glob("*.json"))
    document = json.loads(run(*search, "--json")[1])
    assert (document["stored"], document["equivalent"]) == (False, strassen().name)
    assert document["algorithm"]["id"] == strassen().id
    code, out, err = run(*search, "--ring", "Z3")  # of another characteristic
    assert (code, err) == (0, "")
    assert len(list((tmp_path / "registry").glob("2x2x2_r7_Z3_*.json"))) == 1


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


def test_numeric_search_finds_stores_and_records_how(run, nothing_shipped):
    search = ["search", "--tile", "2x2x3", "--rank", "11", "--method", "numeric", "--seed", "2", "--count", "2", "--json"]
    code, out, _ = run(*search)
    assert code == 0
    document = json.loads(out)
    assert (document["reached"], document["status"], document["exact"]) == (True, "reached", 2)
    assert document["starts"] >= document["converged"] > 0
    for row in document["algorithms"]:
        stored = loads(Path(row["path"]).read_text())
        assert (stored.rank, stored.error) == (11, 0)
        assert stored.provenance["command"] == "stlsearch search --tile 2x2x3 --target-rank 11 --method numeric --seed 2 --count 2"
    again = json.loads(run(*search)[1])
    assert [row["id"] for row in again["algorithms"]] == [row["id"] for row in document["algorithms"]]


def test_numeric_search_over_gaussian_rationals_of_any_target(run, nothing_shipped):
    search = ["search", "--target", "complex", "--rank", "2", "--method", "numeric", "--ring", "Q(i)"]
    code, out, _ = run(*search, "--json")
    assert code == 0
    (row,) = json.loads(out)["algorithms"]
    stored = loads(Path(row["path"]).read_text())
    assert (stored.rank, stored.ring, stored.error) == (2, "Q(i)", 0)
    assert stored.provenance["command"] == "stlsearch search --target complex --target-rank 2 --method numeric --ring 'Q(i)'"
    code, out, err = run(*search[:5])
    assert (code, out) == (2, "")
    assert "--method numeric" in err


def test_numeric_search_that_runs_out_of_starts_exits_1(run):
    code, out, _ = run("search", "--tile", "2", "--rank", "6", "--method", "numeric", "--max-starts", "64")
    assert code == 1
    assert "budget" in out


@pytest.mark.parametrize(
    "options",
    [["--method", "magic"], ["--method", "numeric", "--max-flips", "5"], ["--count", "2"], ["--method", "numeric", "--ring", "R"]],
)
def test_search_options_that_do_not_go_together_are_one_line_and_code_2(run, options):
    code, out, err = run("search", "--tile", "2", "--rank", "7", *options)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_round_makes_a_numeric_algorithm_exact_and_refuses_what_is_far_from_any(run, tmp_path):
    start = numeric(strassen(), seed=3)
    Registry(tmp_path / "registry").add(start)
    code, out, _ = run("round", start.name, "--json")
    assert code == 0
    stored = loads(Path(json.loads(out)["algorithm"]["path"]).read_text())
    assert (stored.rank, stored.ring) == (7, "Z")
    assert stored.provenance["command"] == f"stlsearch round {start.name} --ring Z --seed 0 --rounds 8"
    for arguments in (["4x4x4_r24_R_de5d3afb"], ["nothing"], [stored.name], [start.name, "--ring", "Z7"], [start.name, "--rounds", "0"]):
        code, out, err = run("round", *arguments)
        assert (code, out) == (2, ""), arguments
        assert len(err.splitlines()) == 1


def test_round_finds_the_integers_behind_a_complex_algorithm(run, tmp_path):
    start = in_complex_basis(strassen(), seed=5)
    Registry(tmp_path / "registry").add(start)
    code, out, _ = run("round", start.name)
    assert code == 0
    assert re.search(r"^ring +Z, ", out, flags=re.MULTILINE)


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_keeps_what_a_numeric_search_has_found(tmp_path):
    command = [
        sys.executable,
        str(CHECKOUT / "cli.py"),
        "search",
        "--tile",
        "3x3x4",
        "--rank",
        "29",
        "--method",
        "numeric",
        "--count",
        "9999",
    ]
    with interruptible([*command, "--registry", str(tmp_path)]) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first progress line, after seconds of search
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "stopped" in out
    assert any(tmp_path.glob("3x3x4_r29_Z_*.json"))


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
            fitted = ["fit", "--tile", "2x5x2", "--rank", rank, "--init", "random", "--restarts", "4", "--iterations", "30", "--seed", seed]
            assert run(*fitted)[0] == 0
    picture = tmp_path / "front.svg"
    code, out, _ = run("frontier", "--tile", "2x5x2", "--random", "4", "--plot", str(picture), "--json")
    assert code == 0
    front = json.loads(out)["front"]
    assert [row["rank"] for row in front] == [5, 6]
    assert 1 > front[0]["rel_sq_error"] > front[1]["rel_sq_error"] > 0.5
    assert 0.6 < front[0]["random_rel_sq_error"] < 0.9
    assert "keep r of 20 products" in picture.read_text()
    rows = run("frontier", "--tile", "2x5x2")[1].splitlines()
    assert rows[0].split()[:2] == ["rank", "FLOP"]
    assert len(rows) == 3
    exact = json.loads(run("frontier", "--tile", "2", "--random", "4", "--json")[1])["front"][-1]
    assert (exact["rank"], exact["rel_sq_error"], exact["random_rel_sq_error"]) == (7, 0, None)


def test_frontier_search_fills_every_rank_resumes_and_only_ever_improves(run, tmp_path):
    search = ["frontier", "--tile", "2x5x2", "--ranks", "3-6", "--json"]
    code, out, err = run(*search, "--steps", "4")
    assert code == 0
    first = {row["rank"]: row["rel_sq_error"] for row in json.loads(out)["front"]}
    assert sorted(first) == [3, 4, 5, 6]
    assert err.count(", registered") == 4
    assert 0.85 > first[3] > first[4] > first[5] > first[6] > 0.5
    (state,) = (tmp_path / "registry").glob(".frontier-2x5x2-1000.0-0.state")
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
    assert run("frontier", "--tile", "2x5x2", "--ranks", "5-6", "--steps", "3")[0] == 0
    files = list((tmp_path / "registry").glob("2x5x2_*.json"))
    assert len(files) >= 2
    for path in files:
        stored = loads(path.read_text())
        assert {"--device", "--threads", "--seed", "--penalty"} <= set(stored.provenance["command"].split())
        replayed = run(*stored.provenance["command"].split()[1:], "--json")[1]
        assert json.loads(replayed)["algorithm"]["id"] == stored.id


def test_frontier_search_registers_the_members_of_its_pool_shows_them_and_goes_on_from_them(run, nothing_shipped, tmp_path):
    search = ["frontier", "--tile", "1x2x3", "--ranks", "4", "--pool", "3", "--within", "30"]
    code, out, err = run(*search, "--steps", "4", "--json")
    assert code == 0
    (row,) = json.loads(out)["front"]
    members = [member["name"] for member in row["pool"]]
    assert members[0] == row["name"]
    assert 2 <= len(members) <= 3
    assert "registered for the pool" in err
    table = run(*search[:3], *search[5:])[1].splitlines()[1:]
    assert [line.split()[-1] for line in table] == members  # the registry is all that a pool is kept in
    files = {path.stem: loads(path.read_text()) for path in (tmp_path / "registry").glob("1x2x3_*.json")}
    parents = Parents(Goal(), 3, 0.3)
    parents.update(files.values())
    assert [basis.name for basis in parents.pool(Target.matmul(1, 2, 3), 4)] == members
    replayed = run(*files[members[1]].provenance["command"].split()[1:], "--json")[1]
    assert json.loads(replayed)["algorithm"]["name"] == members[1]
    _, _, err = run(*search, "--steps", "2")
    assert len(re.findall(r"^rank 4, ", err, flags=re.MULTILINE)) == 2


def test_lines_of_fits_record_every_command_back_to_what_began_them(run, tmp_path):
    assert run("construct", "strassen")[0] == 0
    _, out, _ = run("fit", "--tile", "2", "--rank", "6", "--init", "known:2x2x2_r7_Z_2fe6dac1", "--restarts", "4", "--json")
    first = json.loads(out)["algorithm"]["name"]
    _, out, _ = run("fit", "--tile", "2", "--rank", "5", "--init", f"hop:{first}", "--restarts", "4", "--json")
    second = loads((tmp_path / "registry" / f"{json.loads(out)['algorithm']['name']}.json").read_text()).provenance
    (parent,) = second["parents"]
    assert parent["name"] == first
    assert [root["name"] for root in parent["roots"]] == ["2x2x2_r7_Z_2fe6dac1"]
    assert second["lineage"][-1].startswith("stlsearch fit --tile 2x2x2 --rank 6")
    assert "--rank 5" in second["command"]


def test_a_basis_made_for_another_goal_does_not_keep_its_rank_from_other_strategies(run):
    _, _, err = run("frontier", "--tile", "2", "--ranks", "6", "--steps", "8", "--max-amplification", "900")
    strategies = re.findall(r"^rank 6, (\w+): e ", err, flags=re.MULTILINE)
    assert len(strategies) == 8
    assert "hop" in strategies
    assert len(set(strategies)) > 1


def test_frontier_minimises_the_total_error_of_a_dtype(run):
    code, out, _ = run("frontier", "--tile", "2", "--ranks", "6", "--steps", "1", "--optimize-for", "e4m3", "--json")
    assert code == 0
    row = next(row for row in json.loads(out)["front"] if row["rank"] == 6)
    assert row["score"] == pytest.approx(row["rel_sq_error"] + row["amplification"] / 256, rel=1e-9)
    table = run("frontier", "--tile", "2", "--optimize-for", "e4m3")[1].splitlines()
    assert "e+g*u^2" in table[0]


def test_frontier_search_survives_a_damaged_state_file(run, tmp_path):
    (tmp_path / "registry").mkdir()
    (tmp_path / "registry" / ".frontier-2x2x2-1000.0-0.state").write_text('{"steps": "many"')
    assert run("frontier", "--tile", "2", "--ranks", "6", "--steps", "1")[0] == 0


@pytest.mark.parametrize(
    "options",
    [
        ["--ranks", "7", "--steps", "1"],
        ["--ranks", "5"],
        ["--pool", "0"],
        ["--pool", "2", "--within", "-1"],
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
