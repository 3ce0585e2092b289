"""The environments that ship with worldlab: all of Gymnasium, and two environments with exactly known quantities."""

from __future__ import annotations

from pathlib import Path

from worldlab import hookimpl


@hookimpl
def worldlab_register(register) -> None:
    register.presets(Path(__file__).with_name("presets"))
    register.env(
        "gymnasium",
        "worldlab_envs.gymnasium_adapter:GymnasiumAdapter",
        config=None,
        summary="Every Gymnasium environment, by short name, full id or package.module:Id.",
        api=1,
    )
    register.env(
        "linear-gaussian",
        "worldlab_envs.linear_gaussian:ADAPTER",
        config=None,
        summary="A linear-Gaussian system whose optimal likelihood (Kalman) and control (LQR) are known.",
        api=1,
    )
    register.env(
        "branch",
        "worldlab_envs.branch:ADAPTER",
        config=None,
        summary="A 16 x 16 image world with known transition probabilities: does a model keep all modes?",
        api=1,
    )
    register.env(
        "dmc",
        "worldlab_envs.dmc:ADAPTER",
        config=None,
        summary='The DeepMind Control Suite, as "dmc:walker-walk".',
        api=1,
    )
    register.env(
        "atari",
        "worldlab_envs.atari:ADAPTER",
        config=None,
        summary='Atari games by the protocol of Atari 100k, as "atari:pong".',
        api=1,
    )
    register.env(
        "minigrid",
        "worldlab_envs.minigrid:ADAPTER",
        config=None,
        summary='The gridworlds of MiniGrid and BabyAI, as "minigrid:DoorKey-5x5".',
        api=1,
    )
    register.env(
        "minatar",
        "worldlab_envs.minatar:ADAPTER",
        config=None,
        summary='Five Atari-like games on 10 x 10 cells, as "minatar:breakout".',
        api=1,
    )
