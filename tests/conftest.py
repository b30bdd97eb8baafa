import pytest
import torch


@pytest.fixture(scope="session", autouse=True)
def _one_thread():
    """The tensors of the tests are small: threads would only wait for each other, most of all on a busy machine."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _own_home(tmp_path_factory, monkeypatch):
    """No test reads or writes the registry of whoever runs it."""
    monkeypatch.setenv("STLSEARCH_HOME", str(tmp_path_factory.mktemp("home")))


@pytest.fixture(autouse=True)
def _kernels(monkeypatch):
    """The matrices of the tests are small, and would not get to the kernels."""
    monkeypatch.setattr("stlsearch.ops.product.SMALL", 0)


@pytest.fixture(autouse=True)
def _seeded():
    """Layers draw their weights from PyTorch's own generator: the same in every run, whichever tests run before."""
    torch.manual_seed(0)


@pytest.fixture
def run(tmp_path, capsys):
    """Runs a command on a registry of the test's own, tmp_path / "registry"; gives exit code, stdout and stderr."""
    from stlsearch.commands import main  # not by every test

    def call(*arguments):
        code = main([*arguments, "--registry", str(tmp_path / "registry")])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


@pytest.fixture
def nothing_shipped(monkeypatch):
    """Commands see no registry but the test's own."""
    monkeypatch.setattr("stlsearch.registry.store.shipped_folder", lambda: None)
