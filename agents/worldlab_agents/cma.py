"""A small controller on features, optimised by CMA-ES on dreamt returns or on the episodes collected from the
environment.

Ha & Schmidhuber 2018 (World Models), arXiv:1803.10122, section 3.3; Hansen 2016 (CMA-ES), arXiv:1604.00772, as pycma.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from worldlab import tree
from worldlab.agent import Agent, Experience
from worldlab.errors import ConfigError
from worldlab.interfaces import State
from worldlab.rollout import Carry
from worldlab.specs import Specs
from worldlab.world_model import WorldModel
from worldlab_agents.components import FIT_BATCHES, PrincipalComponents
from worldlab_agents.configs import CMAConfig
from worldlab_agents.sb3 import make_starts

UNASSIGNED = -1


@dataclass(frozen=True)
class Controller:
    """The controller tanh(W f + b), or argmax of W f + b for discrete actions; `hidden` adds a tanh layer.

    Weights are passed in, one row each, so that a whole population acts in one batch.
    """

    features: int
    actions: int
    discrete: bool
    hidden: int = 0

    @property
    def size(self) -> int:
        """Number of weights in a controller."""
        return self._inner_size + self.actions * ((self.hidden or self.features) + 1)

    @property
    def _inner_size(self) -> int:
        return self.hidden * (self.features + 1)

    def constant_action_weights(self, action: Tensor) -> Tensor:
        """Return weights [size] of a controller that always takes the encoded action [A]; all 0 for an action of 0."""
        weights = torch.zeros(self.size)
        weights[self._inner_size :].view(self.actions, -1)[:, -1] = torch.atanh(action)
        return weights

    def __call__(self, weights: Tensor, features: Tensor) -> Tensor:
        """Return encoded actions [N, A] for weights [N, size] and features [N, F]."""
        x, used = features, self._inner_size
        if self.hidden:
            x = torch.tanh(_affine(weights[:, :used], x, self.hidden))
        out = _affine(weights[:, used:], x, self.actions)
        return F.one_hot(out.argmax(-1), self.actions).to(out.dtype) if self.discrete else torch.tanh(out)


def _affine(weights: Tensor, x: Tensor, outputs: int) -> Tensor:
    matrix = weights.unflatten(1, (outputs, -1))
    return torch.einsum("noi,ni->no", matrix[..., :-1], x) + matrix[..., -1]


@final
class CMAAgent(Agent):
    """Optimises a controller. Evaluation uses the search mean, or an average of the means. While collecting (where =
    "real") one candidate plays each episode, and an environment whose candidates are all evaluated waits for the
    generation to end. The checkpoint holds mean, average, step size, generation, the generation at which the current
    search began, and playing (whether episodes already evaluate candidates).

    The rest of CMA-ES's state, such as the covariance, follows from where the current search started, the seeds of its
    generations and their scores. A checkpoint holds these, and a resumed run repeats the search with them.
    """

    mean: Tensor
    average: Tensor
    sigma: Tensor
    generation: Tensor
    began: Tensor
    playing: Tensor

    def __init__(self, config: CMAConfig, specs: Specs) -> None:
        super().__init__(config, specs)
        self.config = config
        discrete = specs.action.kind == "discrete"
        self.noise = config.exploration if config.where == "dream" else 0.0
        self.sampled_latents = config.where == "dream"
        self.dream_temperature = config.temperature if config.where != "real" else 1.0
        if config.components > specs.feature_dim:
            raise ConfigError(
                f"agent.components {config.components} > the model's {specs.feature_dim} features",
                fix=f"--agent.components {specs.feature_dim} at most, or 0 for the features as they are",
            )
        self.components = PrincipalComponents(specs.feature_dim, config.components) if config.components else None
        inputs = config.components or specs.feature_dim
        self.controller = Controller(inputs, specs.action.dim, discrete, config.hidden)
        self.register_buffer(
            "mean", self.controller.constant_action_weights(_first_action(config, discrete, specs.action.dim))
        )
        self.register_buffer("average", self.mean.clone())
        self.register_buffer("sigma", torch.tensor(config.sigma))
        self.register_buffer("generation", torch.zeros((), dtype=torch.long))
        self.register_buffer("began", torch.zeros((), dtype=torch.long))
        self.register_buffer("playing", torch.zeros((), dtype=torch.bool))
        self.updates = 0
        self._strategy: Any = None
        self._start = self.mean.clone(), float(self.sigma), 0
        self._seeds: list[int] = []
        self._scores: list[list[float]] = []
        self._population = torch.zeros(0, self.controller.size)
        self._candidates: list[np.ndarray] = []
        self._fitness: list[list[float]] = []
        self._numpy = np.random.default_rng(0)
        self._reported: dict[str, float] = {}

    # ---- acting ----

    def initial(self, n: int) -> State:
        return {"candidate": torch.full((n,), UNASSIGNED, device=self.mean.device)}

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
        inputs = self._inputs(features)
        if self.config.where == "dream" or not explore:
            return self.controller(self.average.expand(len(features), -1), inputs), state
        if not self._fitness:
            self._begin_playing(generator)
        candidate, count = state["candidate"].clone(), len(self._fitness)
        for row in torch.nonzero(candidate == UNASSIGNED)[:, 0].tolist():
            index = self._next_candidate(row, len(features))
            candidate[row] = UNASSIGNED if index is None else int(self.generation) * count + index
        return self.controller(self._population[candidate.clamp(min=0) % count], inputs), {"candidate": candidate}

    def _inputs(self, features: Tensor) -> Tensor:
        """Return the controller's inputs for features [N, F]."""
        return features if self.components is None else self.components(features)

    def _next_candidate(self, row: int, rows: int) -> int | None:
        """Return the next candidate to play in this environment; None if all its candidates are evaluated."""
        mine = range(row, len(self._fitness), rows)
        return next((index for index in mine if len(self._fitness[index]) < self.config.episodes), None)

    def idle(self, state: State) -> Tensor:
        """Return which environments wait because all their candidates are evaluated."""
        waits = state["candidate"] == UNASSIGNED
        return torch.zeros_like(waits) if self.config.where == "dream" else waits

    def after_episode(self, state: State, ret: float) -> None:
        """Record that an episode ended with return `ret`; state: the environment's row of the agent's state."""
        candidate = int(state["candidate"])
        if self.config.where == "dream" or candidate == UNASSIGNED or not self._fitness:
            return
        index = candidate % len(self._fitness)
        self._fitness[index].append(ret)
        if all(len(scores) == self.config.episodes for scores in self._fitness):
            means = [float(np.mean(scores)) for scores in self._fitness]
            self._update_strategy(means)
            self._fitness = []
            self._reported = {"fitness": float(np.mean(means)), "best": max(means)}

    def metrics(self) -> dict[str, float]:
        """Return mean and best score of the last evaluated generation, the step size, and the number of generations."""
        return {**self._reported, "sigma": float(self.sigma), "generation": float(self.generation)}

    def _begin_playing(self, generator: torch.Generator) -> None:
        if self.components is not None and not self.components.fitted:
            raise ConfigError(
                "agent.components are measured in the agent's first updates, but it must act before them",
                fix=f"--train.pretrain-agent {FIT_BATCHES} at least",
            )
        if self.config.where == "both" and not self.playing:
            self._strategy = None  # the search in dreams has narrowed to what scores well in dreams
            self.sigma.fill_(self.config.sigma)
            self.began.copy_(self.generation)
        self.playing.fill_(True)
        self._sample_generation(generator)

    # ---- optimisation ----

    def learn(self, model: WorldModel, seen: Experience, generator: torch.Generator) -> dict[str, Tensor]:
        self.updates += 1
        if self.components is not None and not self.components.fitted:
            self.components.update(model.features(seen.carry))
            return {}
        dreams = self.config.where == "dream" or (self.config.where == "both" and not self.playing)
        if not dreams or self.updates % self.config.every:
            return {}
        self._sample_generation(generator)
        scores = self.evaluate_in_dreams(model, seen, self._population, generator)
        self._update_strategy(scores.tolist())
        self._fitness = []
        return {
            "agent/fitness": scores.mean(),
            "agent/best": scores.max(),
            "agent/sigma": self.sigma.clone(),
            "agent/generation": self.generation.float(),
        }

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        return {}

    @torch.no_grad()
    def evaluate_in_dreams(
        self, model: WorldModel, seen: Experience, population: Tensor, generator: torch.Generator
    ) -> Tensor:
        """Return the mean discounted return [P] of each controller [P, size], dreamt from the same states."""
        config, count = self.config, len(population)
        starts = make_starts(seen)(config.rollouts, generator)
        carry = tree.tree_map(lambda leaf: leaf.repeat(count, *[1] * (leaf.dim() - 1)), starts)
        weights = population.repeat_interleave(config.rollouts, 0).to(model.device)
        features = model.features(carry)
        total = features.new_zeros(len(features))
        alive = torch.ones_like(total)
        for _ in range(config.horizon):
            action = self.controller(weights, self._inputs(features))
            carry, features, reward, cont = model.step(carry, action, generator, config.temperature)
            total = total + alive * reward
            alive = alive * config.gamma * cont
        return total.unflatten(0, (count, config.rollouts)).mean(1)

    def _sample_generation(self, generator: torch.Generator) -> None:
        """Sample the next generation."""
        if self._strategy is None:
            self._begin_search(self.mean.clone(), float(self.sigma), int(self.generation - self.began))
        self._sample(int(torch.randint(2**31, (), generator=generator, device=generator.device)))

    def _begin_search(self, mean: Tensor, sigma: float, generations: int) -> None:
        """Begin a search. generations: those that earlier searches of a resumed run made for it."""
        self._strategy = _strategy(mean, sigma, self.config, self._draw)
        self._start, self._seeds, self._scores = (mean, sigma, generations), [], []

    def _sample(self, seed: int) -> None:
        self._seeds.append(seed)
        self._numpy = np.random.default_rng(seed)
        self._candidates = self._strategy.ask()
        self._population = torch.from_numpy(np.stack(self._candidates)).to(self.mean)
        self._fitness = [[] for _ in self._candidates]

    def _draw(self, *shape: int) -> np.ndarray:
        """Draw pycma's noise from the agent's random stream."""
        return self._numpy.standard_normal(shape)

    def _update_strategy(self, scores: list[float]) -> None:
        count = self._score(scores)
        self.mean.copy_(torch.from_numpy(np.asarray(self._strategy.mean)))
        # Bias correction: the initial mean gets no weight in the average.
        decay = self.config.averaging
        self.average.lerp_(self.mean, (1 - decay) / (1 - decay**count))
        self.sigma.fill_(float(self._strategy.sigma))
        self.generation.add_(1)

    def _score(self, scores: list[float]) -> int:
        """Let the strategy learn from the scores of its last sample. Returns: the generations of the search so far."""
        self._scores.append(scores)
        count = self._start[2] + len(self._scores)
        if self.config.settle:
            self._strategy.sp.cmean = min(1.0, self.config.settle / count)
        # pycma minimises. A score that is not finite must not become the best.
        losses = [-score if math.isfinite(score) else 1e30 for score in scores]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            # Pass the same arrays: pycma would treat rounded copies as foreign solutions and rescale them.
            self._strategy.tell(self._candidates, losses)
        return count

    # ---- checkpoints (worldlab.agent.HasOwnState) ----

    def own_state(self) -> dict[str, Tensor]:
        mean, sigma, generations = self._start
        played = [len(scores) for scores in self._fitness]
        return {
            "updates": torch.tensor(self.updates),
            "searches": torch.tensor(self._strategy is not None),
            "start_mean": mean.cpu(),
            "start_sigma": torch.tensor(sigma, dtype=torch.float64),
            "start_generations": torch.tensor(generations),
            "seeds": torch.tensor(self._seeds, dtype=torch.long),
            "scores": torch.tensor(self._scores, dtype=torch.float64),
            "played": torch.tensor(played, dtype=torch.long),
            "fitness": torch.tensor([score for scores in self._fitness for score in scores], dtype=torch.float64),
            "reported": torch.tensor(list(self._reported.values()), dtype=torch.float64),
        }

    def load_own_state(self, state: dict[str, Tensor]) -> None:
        """Repeat the search: as many generations as it had take as long as pycma alone needs for them."""
        self.updates = int(state["updates"])
        reported = state["reported"].tolist()
        self._reported = dict(zip(("fitness", "best"), reported, strict=True)) if reported else {}
        if not bool(state["searches"]):
            return
        self._begin_search(
            state["start_mean"].to(self.mean), float(state["start_sigma"]), int(state["start_generations"])
        )
        seeds, scores = state["seeds"].tolist(), state["scores"].tolist()
        for number, seed in enumerate(seeds):
            self._sample(seed)
            if number < len(scores):
                self._score(scores[number])
        fitness = iter(state["fitness"].tolist())
        self._fitness = [[next(fitness) for _ in range(count)] for count in state["played"].tolist()]


def _first_action(config: CMAConfig, discrete: bool, dim: int) -> Tensor:
    """Return the encoded action [A] of `first_action`, 0 if unset. Raises: ConfigError if it does not match the action
    space.
    """
    given = config.first_action
    if not given:
        return torch.zeros(dim)
    if discrete or len(given) != dim or not all(-1 < number < 1 for number in given):
        kind = "discrete" if discrete else f"{dim} numbers"
        raise ConfigError(
            f"agent.first_action has {len(given)} numbers, and the actions are {kind}",
            cause=f"got {list(given)}; expected one number between -1 and 1 for each continuous action",
            fix="leave agent.first_action unset to start from the middle of each range",
        )
    return torch.tensor(given)


def _strategy(mean: Tensor, sigma: float, config: CMAConfig, noise: Callable[..., np.ndarray]) -> Any:
    import cma  # takes seconds, so only this agent imports it

    options = {"popsize": config.population, "verbose": -9, "seed": math.nan, "randn": noise}
    # Beyond a few hundred weights the full covariance is not learned within a run's generations.
    options["CMA_diagonal"] = {"full": False, "diagonal": True, "auto": len(mean) > 300}[config.covariance]
    return cma.CMAEvolutionStrategy(mean.double().cpu().numpy(), sigma, options)
