"""`stlsearch bench` from the command line: its table, its files, and every way to call it wrongly."""

import json
import os

import pytest
import torch
from test_ops import STRASSEN

from stlsearch.algorithm import BilinearAlgorithm
from stlsearch.commands import main
from stlsearch.evaluate import roofline, timing
from stlsearch.evaluate.measurement import measure
from stlsearch.registry.store import Registry
from stlsearch.targets import Target


@pytest.fixture(scope="module")
def registry(tmp_path_factory):
    folder = tmp_path_factory.mktemp("registry")
    algorithm = BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN)
    Registry(folder).add(algorithm)
    return folder, algorithm


@pytest.fixture
def run(registry, capsys, monkeypatch):
    """Run `stlsearch bench` on small matrices: exit code, stdout, stderr."""
    monkeypatch.setattr(timing, "LEAST_SECONDS", 0.0)
    monkeypatch.setitem(roofline.COPY_BYTES, "cpu", 2**20)

    def call(*arguments):
        code = main(["bench", "--registry", str(registry[0]), "--device", "cpu", "--repeats", "2", *arguments])
        out, err = capsys.readouterr()
        return code, out, err

    return call


def test_the_table(run, registry):
    code, out, err = run(registry[1].name, "--sizes", "16,8x12x20", "--dtype", "float32, bfloat16", "--pass", "forward,backward")
    assert code == 0
    lines = out.splitlines()
    assert lines[0].startswith("stl_matmul beside torch.matmul on CPU ")
    assert lines[1] == f"bases: {registry[1].name} (rank 7)"
    header = lines[3]
    for column in ("size", "rank", "dtype", "mode", "pass", "speed-up", "quartiles", "ideal", "of ideal", "extra MB", "bound MB", "error"):
        assert column in header
    rows = [line.split() for line in lines[4:12]]
    assert [row[:5] for row in rows] == [
        [size, "7", dtype, "eager", direction]
        for size in ("16", "8x12x20")
        for dtype in ("float32", "bfloat16")
        for direction in ("forward", "backward")
    ]
    assert all(float(row[5]) > 0 for row in rows)
    assert "roofline ms" not in out
    assert "16x16x16 float32 rank 7 eager forward: 2 timed pairs" in err


def test_the_stages_below(run, registry):
    code, out, _ = run(registry[1].name, "--sizes", "16", "--dtype", "float32", "--pass", "forward,backward", "--stages")
    assert code == 0
    for label in ("encode activations", "batched products", "decode gradient", "products for weights", "rest", "roofline ms", "GB/s"):
        assert label in out


def test_the_best_registered_bases_by_rank(run):
    code, out, _ = run("--sizes", "16", "--dtype", "float32", "--ranks", "24,49", "--json")
    assert code == 0
    found = json.loads(out)["measurements"]
    assert [each["rank"] for each in found] == [24, 49]
    assert found[0]["tile"] == [4, 4, 4]
    assert found[0]["rel_error"] > 0.5
    assert found[1]["rel_error"] < 1e-5
    code, out, _ = run("--sizes", "16", "--dtype", "float32", "--tile", "2", "--ranks", "7", "--json")
    assert [each["tile"] for each in json.loads(out)["measurements"]] == [[2, 2, 2]]


def test_json_on_stdout_and_in_a_file(run, registry, tmp_path):
    file, picture = tmp_path / "speed.json", tmp_path / "speed.svg"
    code, out, _ = run(registry[1].name, "--sizes", "16", "--seed", "3", "--json", "--output", str(file), "--plot", str(picture))
    assert code == 0
    found = json.loads(out)
    assert json.loads(file.read_text()) == found
    assert found["version"] == 1
    assert found["machine"]["type"] == "cpu"
    assert found["packages"]["torch"] == torch.__version__
    assert found["packages"]["stlsearch"]
    assert found["date"].startswith("20")
    assert (found["seed"], found["interrupted"]) == (3, False)
    assert [each["dtype"] for each in found["measurements"]] == ["float32", "bfloat16"]
    assert found["measurements"][0]["ideal"]["bound_by"]["multiply"] in ("arithmetic", "bandwidth")
    assert picture.read_text().startswith("<?xml")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["speed.json", "speed.svg"]


@pytest.fixture
def interrupt(monkeypatch):
    """Ctrl-C after some measurements."""

    def after(count):
        left = [None] * count

        def measured(*arguments, **options):
            if not left:
                raise KeyboardInterrupt
            left.pop()
            return measure(*arguments, **options)

        monkeypatch.setattr("stlsearch.evaluate.bench.measure", measured)

    return after


def test_ctrl_c_prints_what_is_finished(run, registry, interrupt, tmp_path):
    interrupt(2)
    file, picture = tmp_path / "speed.json", tmp_path / "speed.png"
    code, out, err = run(registry[1].name, "--sizes", "8,16", "--output", str(file), "--plot", str(picture))
    assert code == 130
    assert [line.split()[2] for line in out.splitlines() if " eager " in line] == ["float32", "bfloat16"]
    assert err.splitlines()[-1] == "interrupted: 2 measurements finished"
    assert json.loads(file.read_text())["interrupted"] is True
    assert picture.exists()


def test_ctrl_c_before_anything_is_finished(run, registry, interrupt, tmp_path):
    interrupt(0)
    code, out, err = run(registry[1].name, "--sizes", "8", "--output", str(tmp_path / "speed.json"), "--plot", str(tmp_path / "speed.png"))
    assert code == 130
    assert out == ""
    assert err.splitlines()[-1] == "interrupted: nothing finished"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--sizes", "0"], "sizes must be at least 1"),
        (["--sizes", "8,4x4"], "size '4x4' is not valid"),
        (["--sizes", ""], "size '' is not valid"),
        (["--sizes", "999999999"], "at most 131072"),
        (["--dtype", "float32,int8"], "unknown dtype 'int8'; valid: float64, float32, bfloat16, float16"),
        (["--mode", "eager,"], "unknown mode ''; valid: eager, plain, compiled, triton"),
        (
            ["--mode", "triton"],
            "mode 'triton' is not available: Triton runs on CUDA devices, not on cpu; valid here: eager, plain, compiled",
        ),
        (["--pass", "both"], "unknown pass 'both'; valid: forward, backward"),
        (["--ranks", "999"], "no basis of 4x4x4 at rank 999 is registered"),
        (["--ranks", "many"], "ranks are given like 24, 16-32"),
        (["--tile", "4x"], "tile"),
        (["--repeats", "0"], "repeats must be an integer of at least 1, not '0'"),
        (["--time-limit", "-1"], "expected a number above 0"),
        (["--threads", "0"], "threads must be 1..1024, not 0"),
        (["--device", "tpu"], "unknown device 'tpu'"),
        (["--plot", "speed.gif"], "cannot draw speed.gif: valid extensions are .png, .svg, .pdf"),
        (["--plot", "/nowhere/speed.png"], "there is no folder /nowhere"),
        (["--output", "/nowhere/speed.json"], "there is no folder /nowhere"),
        (["9x9x9_r1_Z_00000000"], "no algorithm is called '9x9x9_r1_Z_00000000'"),
        (["4x4x4_r24_R_2deba9dc", "--ranks", "24"], "give names, or --tile and --ranks, not both"),
        (["4x4x4_r24_R_2deba9dc", "--tile", "4"], "give names, or --tile and --ranks, not both"),
        (["--speed"], "No such option"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(run, arguments, message):
    code, out, err = run(*([] if "--sizes" in arguments else ["--sizes", "8"]), *arguments)
    assert code == 2
    assert out == ""
    assert message in err
    assert len(err.splitlines()) == 1


@pytest.mark.parametrize("other", ["speed.svg", "folder/../speed.svg", "link.svg"])
def test_a_picture_and_numbers_do_not_share_a_file(run, tmp_path, monkeypatch, other):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "link.svg").symlink_to(tmp_path / "speed.svg")
    code, out, err = run("--sizes", "8", "--plot", str(tmp_path / "speed.svg"), "--output", other)
    assert (code, out) == (2, "")
    assert f"--plot and --output both name {other}: the second would replace the first" in err
    assert len(err.splitlines()) == 1
    assert not (tmp_path / "speed.svg").exists()


def test_sizes_that_do_not_fit(run, monkeypatch):
    monkeypatch.setattr("stlsearch.evaluate.limits.available_memory", lambda device: 2**30)
    code, out, err = run("--sizes", "32768")
    assert (code, out) == (2, "")
    assert "GiB on cpu, 1.0 GiB are free; choose a smaller size" in err
    assert len(err.splitlines()) == 1


@pytest.mark.skipif(os.geteuid() == 0, reason="root writes everywhere")
def test_a_folder_that_is_not_writable(run, tmp_path):
    tmp_path.chmod(0o500)
    code, _, err = run("--sizes", "8", "--output", str(tmp_path / "speed.json"))
    tmp_path.chmod(0o700)
    assert code == 2
    assert "is not writable" in err


def test_only_matrix_products_over_the_reals(run, tmp_path):
    algorithm = BilinearAlgorithm.from_exact(Target.matmul(2, 2, 2), *STRASSEN, ring="Z2")
    code, _, err = run(str(Registry(tmp_path).add(algorithm)), "--sizes", "8")
    assert code == 2
    assert "lies over Z2" in err
    assert len(err.splitlines()) == 1


def test_help(capsys):
    assert main(["bench", "--help"]) == 0
    out = capsys.readouterr().out
    for option in ("--sizes", "--ranks", "--mode", "--pass", "--stages", "--time-limit", "--plot", "--output"):
        assert option in out
