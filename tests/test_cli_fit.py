"""`stlsearch fit` and `stlsearch compare` as a user meets them."""

import json
import os
import signal
import sys
import time
from pathlib import Path

import pytest
from processes import interruptible

from stlsearch.commands import main
from stlsearch.registry.codec import loads

CHECKOUT = Path(__file__).parent.parent
QUICK = ["--init", "random", "--restarts", "4", "--iterations", "20"]


def test_fit_prints_measures_and_registers_the_basis(run, tmp_path):
    code, out, err = run("fit", "--tile", "2", "--rank", "5", *QUICK)
    assert code == 0
    rows = dict(line.split(maxsplit=1) for line in out.splitlines() if not line.startswith(("best in", "found by")))
    algorithm = loads((tmp_path / "registry" / f"{rows['name']}.json").read_text())
    assert algorithm.rank == 5
    assert rows["rel_sq_error"].startswith(f"{algorithm.error:.6g} (e, squared")
    assert "random als: 4 restarts" in err
    assert "best in the registry" in out
    again = run("fit", "--tile", "2", "--rank", "5", *QUICK)[1]
    assert "best in the registry  2x2x2_r5_R_" in again


def test_fit_json_is_versioned_and_same_seed_repeats(run):
    first, again, other = (
        json.loads(run("fit", "--tile", "2x2x3", "--rank", "8", "--json", "--seed", seed, *QUICK)[1]) for seed in ("3", "3", "4")
    )
    assert first["version"] == 1
    assert first["algorithm"]["id"] == again["algorithm"]["id"] != other["algorithm"]["id"]
    assert first["reproducible"] is True
    assert first["total_error"]["bfloat16"] == pytest.approx(
        first["algorithm"]["rel_sq_error"] + first["algorithm"]["amplification"] * 2.0**-16
    )
    assert again["best_in_registry"]["id"] == first["algorithm"]["id"]


def test_the_recorded_command_reproduces_the_basis(run, tmp_path):
    options = ["fit", "--tile", "2x2x3", "--rank", "7", *QUICK, "--seed", "9", "--max-amplification", "123.456789"]
    document = json.loads(run(*options, "--json")[1])
    stored = loads(Path(document["algorithm"]["path"]).read_text())
    command = stored.provenance["command"].split()
    assert command[:2] == ["stlsearch", "fit"]
    replayed = json.loads(run(*command[1:], "--json")[1])
    assert replayed["algorithm"]["id"] == stored.id


def test_fit_out_writes_the_same_basis(run, tmp_path):
    target = tmp_path / "basis.json"
    code, out, _ = run("fit", "--tile", "2", "--rank", "6", *QUICK, "--out", str(target))
    assert code == 0
    assert loads(target.read_text()).name in out


def test_a_rank_above_the_exact_one_says_so(run):
    code, out, _ = run("fit", "--tile", "2", "--rank", "8")
    assert code == 0
    assert "rank 8 is not needed" in out
    assert "2x2x2_r7_Z" in out


def test_known_starts_from_a_registered_algorithm(run):
    name = json.loads(run("fit", "--tile", "2", "--rank", "7", "--json")[1])["algorithm"]["name"]
    code, out, _ = run("fit", "--tile", "2", "--rank", "6", "--init", f"known:{name}", "--restarts", "4", "--json")
    assert code == 0
    stored = loads(Path(json.loads(out)["algorithm"]["path"]).read_text())
    assert stored.provenance["parents"][0]["name"] == name
    assert stored.error == pytest.approx(0.125, abs=2e-3)


def test_time_limit_marks_the_result(run):
    code, out, _ = run("fit", "--tile", "3", "--rank", "12", "--init", "random", "--iterations", "1000000", "--time-limit", "0.4", "--json")
    assert code == 0
    assert json.loads(out)["status"] == "time limit"
    assert json.loads(out)["reproducible"] is False


@pytest.mark.skipif(os.name == "nt", reason="POSIX signals")
def test_ctrl_c_saves_the_best_so_far_and_exits_130(tmp_path):
    command = [
        sys.executable,
        str(CHECKOUT / "cli.py"),
        "fit",
        "--tile",
        "3",
        "--rank",
        "13",
        "--init",
        "random",
        "--iterations",
        "10000000",
    ]
    with interruptible([*command, "--registry", str(tmp_path)]) as process:
        assert process.stderr is not None
        process.stderr.readline()  # the first progress line: the solver is running
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == 130, err
    (stored,) = tmp_path.glob("*.json")
    algorithm = loads(stored.read_text())
    assert algorithm.provenance["status"] == "interrupted"
    assert "cut short, not reproducible" in out
    assert stored.stem in out


def test_a_complete_run_replaces_the_provenance_of_one_cut_short(run):
    options = ["fit", "--tile", "2", "--rank", "5", "--init", "random", "--restarts", "4", "--iterations", "20", "--json"]
    stored = Path(json.loads(run(*options)[1])["algorithm"]["path"])
    stored.write_text(stored.read_text().replace('"status": "finished"', '"status": "interrupted"'))
    assert loads(stored.read_text()).provenance["status"] == "interrupted"
    assert json.loads(run(*options)[1])["algorithm"]["path"] == str(stored)
    assert loads(stored.read_text()).provenance["status"] == "finished"


def test_a_shipped_algorithm_is_said_to_be_shipped(run):
    document = json.loads(run("fit", "--tile", "3", "--rank", "23", "--json")[1])
    assert document["status"] == "exact"
    assert document["algorithm"]["where"] == "shipped"


def test_compare_prints_a_table_a_verdict_and_a_picture(run, tmp_path):
    picture = tmp_path / "compare.png"
    options = ["--init", "random,kron,strassen", "--seeds", "4", "--iterations", "30", "--plot", str(picture)]
    code, out, err = run("compare", "--tile", "4", "--rank", "24", *options)
    assert code == 0
    header, *rows = out.splitlines()
    assert header.split() == ["init", "best", "e", "median", "e", "worst", "e", "missing", "g", "start", "s", "solver", "s", "p"]
    assert [row.split()[0] for row in rows[:3]] == ["random", "kron", "strassen"]
    assert "Better than random (p < 0.05): kron, strassen." in out
    assert picture.read_bytes().startswith(b"\x89PNG")
    assert "kron" in err


def test_compare_with_nothing_to_draw_says_so(run, tmp_path):
    code, out, err = run("compare", "--tile", "3", "--rank", "12", "--init", "kron", "--plot", str(tmp_path / "x.png"))
    assert code == 2
    assert "product of two" in out
    assert "nothing to draw" in err
    assert not (tmp_path / "x.png").exists()


def test_compare_json_and_a_strategy_that_does_not_apply(run):
    code, out, _ = run("compare", "--tile", "3", "--rank", "12", "--init", "random,kron", "--seeds", "3", "--iterations", "5", "--json")
    assert code == 0
    document = json.loads(out)
    random, kron = document["outcomes"]
    assert len(random["rel_sq_errors"]) == 3
    assert random["missing_products"] == pytest.approx(27 * min(random["rel_sq_errors"]))
    assert "refused" in kron


@pytest.mark.parametrize(
    ("args", "message"),
    [
        (["--tile", "0", "--rank", "5"], "tile '0'"),
        (["--tile", "4x4", "--rank", "5"], "tile '4x4'"),
        (["--tile", "abc", "--rank", "5"], "tile 'abc'"),
        (["--tile", "-3", "--rank", "5"], "tile '-3'"),
        (["--tile", "2", "--rank", "0"], "at least 1"),
        (["--tile", "2", "--rank", "-4"], "at least 1"),
        (["--tile", "2", "--rank", "3.5"], "at least 1"),
        (["--tile", "2", "--rank", "9"], "1 to 8"),
        (["--tile", "2"], "--rank"),
        (["--tile", "2", "--rank", "5", "--solver", "newton"], "valid: als, lm, sgd"),
        (["--tile", "2", "--rank", "5", "--init", "svd"], "valid: random"),
        (["--tile", "2", "--rank", "5", "--init", "known"], "known:NAME"),
        (["--tile", "2", "--rank", "5", "--init", "known:nothing"], "no algorithm is called"),
        (["--tile", "2", "--rank", "5", "--device", "tpu"], "valid: auto, cpu, cuda"),
        (["--tile", "2", "--rank", "5", "--dtype", "int8"], "valid: float64, float32"),
        (["--tile", "2", "--rank", "5", "--optimize-for", "int8"], "valid: "),
        (["--tile", "2", "--rank", "5", "--optimize-for", "bfloat16", "--max-amplification", "5"], "not both"),
        (["--tile", "2", "--rank", "5", "--max-amplification", "0"], "above 0"),
        (["--tile", "2", "--rank", "5", "--penalty", "2"], "between 0 and 1"),
        (["--tile", "2", "--rank", "5", "--time-limit", "-1"], "above 0"),
        (["--tile", "2", "--rank", "5", "--threads", "0"], "threads must be"),
        (["--tile", "2", "--rank", "5", "--restarts", "0"], "restarts must be"),
        (["--tile", "2", "--rank", "5", "--restarts", "1000000000", "--init", "random"], "fewer --restarts"),
        (["--tile", "2", "--rank", "5", "--iterations", "x"], "iterations must be"),
        (["--tile", "2", "--rank", "5", "--seed", "-1"], "seed"),
        (["--tile", "2", "--rank", "5", "--out", "/no/such/folder/a.json"], "no folder"),
    ],
)
def test_bad_input_is_one_line_and_code_2(run, args, message, tmp_path):
    code, out, err = run("fit", *args)
    assert code == 2
    assert out == ""
    assert len(err.splitlines()) == 1
    assert message in err
    assert not list(tmp_path.rglob("*.json"))


def test_cuda_without_a_device_is_refused(run):
    torch = pytest.importorskip("torch")
    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device")
    code, _, err = run("fit", "--tile", "2", "--rank", "5", "--device", "cuda")
    assert code == 2
    assert "device 'cuda' is not available" in err


@pytest.mark.parametrize(
    "args", [["--init", "random,random"], ["--init", "nothing"], ["--plot", "picture.txt"], ["--plot", "/no/such/a.png"]]
)
def test_compare_bad_input_is_one_line_and_code_2(run, args):
    code, out, err = run("compare", "--tile", "2", "--rank", "5", *args)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1


def test_a_registry_that_cannot_be_written_is_refused_before_any_work(tmp_path, capsys):
    (tmp_path / "file").write_text("")
    code = main(["fit", "--tile", "2", "--rank", "5", "--registry", str(tmp_path / "file" / "registry")])
    assert code == 2
    assert len(capsys.readouterr().err.splitlines()) == 1
