"""Agents that act, learn or plan inside any world model."""

from worldlab import hookimpl
from worldlab_agents.configs import (
    CEMConfig,
    DreamerConfig,
    ICEMConfig,
    MPPIConfig,
    PPOConfig,
    RandomConfig,
    SACConfig,
    SB3Config,
    TDMPCConfig,
)


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
    for name, config, summary, paper in (
        (
            "cem",
            CEMConfig,
            "plans by the cross-entropy method",
            "Rubinstein 1999; Hafner et al. 2018, arXiv:1811.04551",
        ),
        (
            "icem",
            ICEMConfig,
            "plans by CEM with coloured noise and kept elites",
            "Pinneri et al. 2020, arXiv:2008.06389",
        ),
        ("mppi", MPPIConfig, "plans by path integrals", "Williams et al. 2015, arXiv:1509.01149"),
    ):
        register.agent(name, "worldlab_agents.planner:PlannerAgent", config=config, summary=summary, paper=paper, api=1)
    for name, config, summary in (
        ("ppo", PPOConfig, "Stable-Baselines3's PPO, trained in dreams"),
        ("sac", SACConfig, "Stable-Baselines3's SAC, trained in dreams (continuous actions)"),
        ("sb3", SB3Config, "any algorithm of Stable-Baselines3, trained in dreams"),
    ):
        paper = "Raffin et al. 2021, JMLR 22(268)"
        register.agent(name, "worldlab_agents.sb3:SB3Agent", config=config, summary=summary, paper=paper, api=1)
    register.agent(
        "tdmpc",
        "worldlab_agents.tdmpc:TDMPCAgent",
        config=TDMPCConfig,
        summary="short plans towards a learned value, with a learned policy to start from",
        paper="Hansen et al. 2023, arXiv:2310.16828",
        api=1,
    )
