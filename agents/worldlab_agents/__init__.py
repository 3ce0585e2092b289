"""Agents that act, plan or learn in any world model."""

from pathlib import Path

from worldlab import hookimpl
from worldlab_agents.configs import (
    BCConfig,
    CMAConfig,
    DreamerConfig,
    PlannerConfig,
    RandomConfig,
    SB3Config,
    TDMPCConfig,
)


@hookimpl
def worldlab_register(register) -> None:
    register.presets(Path(__file__).with_name("presets"))
    register.agent(
        "random",
        "worldlab_agents.random:RandomAgent",
        config=RandomConfig,
        summary="uniformly random actions, the baseline of all tables",
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
        "bc",
        "worldlab_agents.bc:BCAgent",
        config=BCConfig,
        summary="repeats the actions of the data, the baseline of offline training",
        paper="Pomerleau 1991, Neural Computation 3(1)",
        api=1,
    )
    register.agent(
        "planner",
        "worldlab_agents.planner:PlannerAgent",
        config=PlannerConfig,
        summary="plans at every decision with a configurable search",
        api=1,
    )
    register.agent(
        "cem",
        "worldlab_agents.planner:PlannerAgent",
        config=PlannerConfig,
        variant_of="planner",
        preset={"search": "cem"},
        summary="plans by the cross-entropy method",
        paper="Rubinstein 1999; Hafner et al. 2018, arXiv:1811.04551",
        api=1,
    )
    register.agent(
        "icem",
        "worldlab_agents.planner:PlannerAgent",
        config=PlannerConfig,
        variant_of="planner",
        preset={"search": "icem", "candidates": 256, "elites": 32, "execute": "best"},
        summary="plans by CEM with coloured noise and reused elites",
        paper="Pinneri et al. 2020, arXiv:2008.06389",
        api=1,
    )
    register.agent(
        "mppi",
        "worldlab_agents.planner:PlannerAgent",
        config=PlannerConfig,
        variant_of="planner",
        preset={"search": "mppi"},
        summary="plans by model predictive path integrals",
        paper="Williams et al. 2015, arXiv:1509.01149",
        api=1,
    )
    register.agent(
        "tdmpc",
        "worldlab_agents.tdmpc:TDMPCAgent",
        config=TDMPCConfig,
        summary="short plans with a learned terminal value, initialised by a learned policy",
        paper="Hansen et al. 2023, arXiv:2310.16828",
        api=1,
    )
    register.agent(
        "ppo",
        "worldlab_agents.sb3:SB3Agent",
        config=SB3Config,
        variant_of="sb3",
        preset={"algorithm": "PPO"},
        summary="Stable-Baselines3's PPO, trained in dreams",
        paper="Schulman et al. 2017, arXiv:1707.06347",
        api=1,
    )
    register.agent(
        "sac",
        "worldlab_agents.sb3:SB3Agent",
        config=SB3Config,
        variant_of="sb3",
        preset={"algorithm": "SAC", "steps": 512},
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
        summary="a small controller, optimised by CMA-ES in dreams or in the environment",
        paper="Ha & Schmidhuber 2018, arXiv:1803.10122",
        api=1,
    )
