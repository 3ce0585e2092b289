"""Every worker of the suite computes on one thread: pytest-xdist already uses all cores."""

import os
import sys
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # read once, when torch and numpy are imported; child processes inherit it


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests first: no worker is left alone with a long test when the others have finished."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(autouse=True)
def one_thread():
    """Undo what a run sets up in this process (`worldlab.training.machine.set_up_machine`)."""
    _reset()
    yield
    _reset()


def _reset() -> None:
    torch = sys.modules.get("torch")  # where nothing imported it, it will start with the one thread of above
    if torch is not None and hasattr(torch, "set_num_threads"):
        torch.set_num_threads(1)
        torch.set_deterministic_debug_mode("default")


@pytest.fixture
def blank_plots(monkeypatch: pytest.MonkeyPatch) -> None:
    """Plots of vectors are blank: drawing one takes longer than a small run. tests/runs/test_pictures.py checks real plots,
    tests/test_end_to_end.py that a run writes them."""
    from PIL import Image

    from worldlab.evaluation import open_loop

    monkeypatch.setattr(open_loop, "vector_strip", lambda *_, **__: Image.new("RGB", (8, 8)))


@pytest.fixture(scope="session")
def worldlab_command() -> list[str]:
    """The installed command `worldlab` beside this Python, or its module where only the source is on the path."""
    command = Path(sys.executable).with_name("worldlab")
    return [str(command)] if command.is_file() else [sys.executable, "-m", "worldlab"]
