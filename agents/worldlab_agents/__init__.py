"""Agents that act, learn or plan inside any world model."""

from worldlab import hookimpl
from worldlab_agents.configs import (
    CEMConfig,
    CMAConfig,
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
    register.agent(
        "cem",
        "worldlab_agents.planner:PlannerAgent",
        config=CEMConfig,
        summary="plans by the cross-entropy method",
        paper="Rubinstein 1999; Hafner et al. 2018, arXiv:1811.04551",
        api=1,
    )
    register.agent(
        "icem",
        "worldlab_agents.planner:PlannerAgent",
        config=ICEMConfig,
        summary="plans by CEM with coloured noise and kept elites",
        paper="Pinneri et al. 2020, arXiv:2008.06389",
        api=1,
    )
    register.agent(
        "mppi",
        "worldlab_agents.planner:PlannerAgent",
        config=MPPIConfig,
        summary="plans by path integrals",
        paper="Williams et al. 2015, arXiv:1509.01149",
        api=1,
    )
    register.agent(
        "tdmpc",
        "worldlab_agents.tdmpc:TDMPCAgent",
        config=TDMPCConfig,
        summary="short plans towards a learned value, with a learned policy to start from",
        paper="Hansen et al. 2023, arXiv:2310.16828",
        api=1,
    )
    register.agent(
        "ppo",
        "worldlab_agents.sb3:SB3Agent",
        config=PPOConfig,
        summary="Stable-Baselines3's PPO, trained in dreams",
        paper="Schulman et al. 2017, arXiv:1707.06347",
        api=1,
    )
    register.agent(
        "sac",
        "worldlab_agents.sb3:SB3Agent",
        config=SACConfig,
        summary="Stable-Baselines3's SAC, trained in dreams (continuous actions)",
        paper="Haarnoja et al. 2018, arXiv:1812.05905",
        api=1,
    )
    register.agent(
        "sb3",
        "worldlab_agents.sb3:SB3Agent",
        config=SB3Config,
        summary="any algorithm of Stable-Baselines3, trained in dreams",
        paper="Raffin et al. 2021, JMLR 22(268)",
        api=1,
    )
    register.agent(
        "cma",
        "worldlab_agents.cma:CMAAgent",
        config=CMAConfig,
        summary="a small controller, evolved with CMA-ES in dreams or in the environment",
        paper="Ha & Schmidhuber 2018, arXiv:1803.10122",
        api=1,
    )
