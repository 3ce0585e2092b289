"""Agents that act, learn or plan inside any world model."""

from worldlab import hookimpl
from worldlab_agents.configs import DreamerConfig, RandomConfig


@hookimpl
def worldlab_register(register) -> None:
    register.agent(
        "random",
        "worldlab_agents.random:RandomAgent",
        config=RandomConfig,
        summary="uniform actions: the baseline of every table",
        api=1,
    )
    register.agent(
        "dreamer",
        "worldlab_agents.dreamer:DreamerAgent",
        config=DreamerConfig,
        summary="actor-critic in imagination",
        paper="Hafner et al. 2023, arXiv:2301.04104",
        api=1,
    )
