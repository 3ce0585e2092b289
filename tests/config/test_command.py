"""worldlab.config.command: the line that repeats a run resolves to the configuration of the run."""

import shlex

import pytest

from worldlab.cli.flags import read_flags
from worldlab.config.command import MOST, train_command
from worldlab.config.resolve import resolve
from worldlab.registry import load_registry

REGISTRY = load_registry()
LINES = {
    "nothing but an environment": "--env CartPole --preset laptop",
    "another size and parts": "--env CarRacing --encoder cpc --dynamics gan --agent cem --preset debug --track csv,tensorboard",
    "two presets": "--env Pendulum --preset debug --preset few-steps --seed 3",
    "switches and none": "--env CartPole --preset laptop --strict --no-eval.deterministic --track none --minutes none --eval.every 0",
    "settings of parts": "--env Pendulum --preset debug --encoder.latent-dim 7 --dynamics ensemble --model.units 24",
    "a data set": "--env Pendulum --data /home/me/set --offline --preset debug",
}


@pytest.mark.parametrize("line", LINES.values(), ids=LINES)
def test_the_command_gives_the_configuration_it_was_made_from(line):
    given = read_flags(shlex.split(line))
    config = resolve(REGISTRY, presets=given.presets, flags=given.settings)
    words = shlex.split(train_command(config, REGISTRY) or "")
    assert words[:2] == ["worldlab", "train"]
    again = read_flags(words[2:])
    assert resolve(REGISTRY, presets=again.presets, flags=again.settings) == config
    assert len(words) <= len(line.split()) + 12  # the parts are always named, and little else


def test_what_no_short_line_says_has_none():
    text = " ".join(f"--train.{name} 3" for name in ("prefill", "pretrain", "batch-size", "batch-length", "starts"))
    text += " --steps 5 --log.every 3 --log.pictures 3 --log.checkpoint 3 --log.keep 3 --eval.every 3 --eval.episodes 3"
    text += " --eval.final-episodes 3 --env.repeat 3 --env.num-envs 1 --env.time-limit 7 --env.restarts 2 --seed 4"
    given = read_flags(shlex.split("--env CartPole --preset laptop --agent.horizon 4 --eval.dream-horizon 9 " + text))
    more = {"agent": {"name": "dreamer", "horizon": 4}, "size": "nano", "device": "cpu"}
    config = resolve(REGISTRY, presets=given.presets, flags={**given.settings, **more})
    assert train_command(config, REGISTRY) is None and MOST < 30
