"""The terminal shows worldlab's notes and the warnings of other libraries, not their notes."""

from __future__ import annotations

from warm_process import run_worldlab

NOISY = """
import logging
import gymnasium
from gymnasium.envs.classic_control import CartPoleEnv

logging.getLogger("worldlab").info("note of worldlab")
logging.getLogger("otherlib").info("note of another library")
logging.getLogger("otherlib").warning("warning of another library")
gymnasium.register("Noisy-v0", CartPoleEnv)
"""


def test_notes_of_other_libraries_are_not_shown(tmp_path):
    (tmp_path / "noisy.py").write_text(NOISY)
    code, _, err = run_worldlab(tmp_path, "check-env", "noisy:Noisy")
    assert (code, err.splitlines()) == (0, ["note of worldlab", "warning of another library"])
