"""Planning agents: at every step they search in imagination for the best plan, execute its first action, and search
again.

This is model predictive control with a learned model, as in PlaNet: Hafner et al. 2018, arXiv:1811.04551, algorithm 2.
"""

from __future__ import annotations

from functools import partial
from typing import final

import torch
from torch import Tensor

from worldlab.agent import Agent, Experience
from worldlab.interfaces import Player, State
from worldlab.rollout import Carry
from worldlab.specs import Specs
from worldlab.world_model import WorldModel
from worldlab_agents.actor import sample_action
from worldlab_agents.configs import DreamerConfig, PlannerConfig
from worldlab_agents.disagreement import bonus_of, reads_disagreement
from worldlab_agents.dreamer import DreamerAgent
from worldlab_agents.plans import initial_plans, planning_state, restore_plans
from worldlab_agents.search import (
    Budget,
    PlanningTask,
    SearchResult,
    SearchRule,
    propose,
    search,
    weigh_boltzmann,
    weigh_elites,
)
from worldlab_agents.stopwatch import Stopwatch


def make_search_rule(config: PlannerConfig) -> SearchRule:
    """Build the search rule of a configuration, the only difference between planners."""
    if config.search == "icem":
        return SearchRule(weigh_elites(config.elites), config.beta, config.keep, config.min_std, config.reused)
    if config.search == "mppi":
        return SearchRule(weigh_boltzmann(config.temperature, config.elites), floor=config.min_std)
    return SearchRule(weigh_elites(config.elites), keep=config.keep, floor=config.min_std)


def _guide_config(config: PlannerConfig) -> DreamerConfig:
    """Return the guide's settings. Its value continues the plan's rewards, so both have one discount and pessimism."""
    return DreamerConfig(**dict(config.guide_with), gamma=config.gamma, pessimism=config.pessimism)


@final
class PlannerAgent(Agent):
    """Plans with the search rule of its configuration. Its state is the last plan, which initialises the next
    search.
    """

    reads_sequences = False

    def __init__(self, config: PlannerConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        self.specs = specs
        self.rule = make_search_rule(config)
        decay = config.decay if config.search == "icem" else 1.0
        self.budget = Budget(config.candidates, config.iterations, decay, config.budget_ms, minimum=2 * config.elites)
        self.noise = config.exploration
        self.guide = DreamerAgent(_guide_config(config), specs) if config.guide else None
        self.reads_sequences = self.guide is not None and self.guide.reads_sequences
        self.stopwatch = Stopwatch(config.budget_ms)
        self.reads_disagreement = reads_disagreement(config)

    def initial(self, n: int) -> State:
        """Return the initial plan without preferences. It also fills the places of the elites."""
        plans = initial_plans(n, self.config.horizon, self.specs.action, self.device)
        return planning_state(plans, plans.best[:, None].expand(-1, self.rule.elites, -1, -1))

    @torch.no_grad()
    def act(
        self,
        model: WorldModel,
        carry: Carry,
        features: Tensor,
        state: State,
        generator: torch.Generator,
        explore: bool,
    ) -> tuple[Tensor, State]:
        result = self.plan(model, carry, state, generator, explore)
        chosen = result.best if self.config.execute == "best" else result.plans.best
        return chosen[:, 0], result.next_state(self.rule.elites)

    def plan(
        self, model: WorldModel, carry: Carry, state: State, generator: torch.Generator, explore: bool = False
    ) -> SearchResult:
        """Search for the best plan from a carry [N, ...]. explore: value disagreement by `curiosity`."""
        self.stopwatch.start()
        value, proposals, guide = None, None, self.guide
        if guide is not None:
            value = guide.value
            policy, count = partial(sample_action, guide.actor, generator=generator), self.config.proposals
            proposals = propose(model, carry, policy, count, self.config.horizon, generator)
        bonus = bonus_of(self.config, explore)
        task = PlanningTask(model, carry, self.config.gamma, self.config.noise, value, bonus)
        plans, previous_elites = restore_plans(state), state["elites"]
        return search(task, plans, self.rule, self.budget, generator, previous_elites, proposals, self.stopwatch)

    def players(self) -> dict[str, Player]:
        return {} if self.guide is None else self.guide.players()

    def losses(
        self, model: WorldModel, seen: Experience, generator: torch.Generator
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        return ({}, {}) if self.guide is None else self.guide.losses(model, seen, generator)

    def after_step(self) -> None:
        if self.guide is not None:
            self.guide.after_step()
