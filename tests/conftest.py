"""How the suite uses the machine: its workers, their threads, and the order of the tests."""

import gc
import os
import sys
from pathlib import Path

import pytest

for _name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
    os.environ[_name] = "1"  # read once, when torch and numpy are imported; child processes inherit it


LONGEST = (
    "test_docs.py",
    "test_example_diffusion.py",
    "test_end_to_end.py",
    "test_launchers_ray.py",
    "test_compare.py",
)
"""The files that take longest, the longest first."""


def pytest_xdist_auto_num_workers() -> int:
    """Start one worker more than there are cores: tests of signals, clusters and time limits mostly wait."""
    return len(os.sched_getaffinity(0)) + 1


def pytest_collectstart() -> None:
    gc.disable()  # nothing of what collection makes is garbage, and to look through it all takes seconds


def pytest_collection_finish() -> None:
    gc.freeze()  # no test has to look through it, either
    gc.enable()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long tests first, on every worker: none is left alone with one when the others have finished.

    pytest-xdist gives each worker an equal, contiguous share of the items, and an idle one the end of another's share. So
    files with slow tests are dealt to the shares in turn, and the other items fill them up.
    """
    workers = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    by_file: dict[Path, list[pytest.Item]] = {}
    for item in items:
        by_file.setdefault(item.path, []).append(item)
    slow = [path for path, tests in by_file.items() if any(test.get_closest_marker("slow") for test in tests)]
    slow.sort(key=lambda path: LONGEST.index(path.name) if path.name in LONGEST else len(LONGEST))
    rest = [item for path, tests in by_file.items() if path not in slow for item in tests]
    ordered: list[pytest.Item] = []
    for worker in range(workers):
        share = [item for path in slow[worker::workers] for item in by_file[path]]
        end = len(items) * (worker + 1) // workers
        missing = max(0, end - len(ordered) - len(share))
        ordered += share + rest[:missing]
        del rest[:missing]
    items[:] = ordered + rest


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
