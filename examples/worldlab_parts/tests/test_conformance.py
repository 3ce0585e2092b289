"""Run every check of worldlab on every part. `worldlab check-plugin worldlab-parts` also prints a fix for each failure."""

from worldlab.testing import parametrize_with_checks

from worldlab_parts.agent import ShootingAgent
from worldlab_parts.decoder import LaplaceDecoder
from worldlab_parts.dynamics import MinGRUDynamics
from worldlab_parts.encoder import FSQEncoder
from worldlab_parts.env import CatchAdapter
from worldlab_parts.launcher import NiceLauncher


@parametrize_with_checks([FSQEncoder, MinGRUDynamics, LaplaceDecoder, ShootingAgent, CatchAdapter, NiceLauncher])
def test_conformance(subject, check):
    check(subject)
