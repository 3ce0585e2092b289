"""Settings of the agents. Importable without torch, so that `--help` is fast."""

from __future__ import annotations

from typing import ClassVar, Literal

from worldlab import Config, field, sized


class RandomConfig(Config):
    """The random agent has no settings."""


class ActorCriticConfig(Config):
    """Settings of an actor-critic trained on imagined steps: of `dreamer`, and of a planner's guide."""

    horizon: int = field(15, ge=1, nano=4)
    """Imagined steps H from each start."""
    units: int = sized("units", gt=0)
    """Width of actor and critic."""
    actor_rate: float = field(1e-4, gt=0)
    """Learning rate of the actor."""
    critic_rate: float = field(3e-4, gt=0)
    """Learning rate of the critic."""
    slow_rate: float = field(0.02, gt=0, le=1, expert=True)
    """Rate at which the slow critic tracks the critic, per update."""
    slow_weight: float = field(1.0, ge=0, expert=True)
    """Weight of the critic's loss towards the slow critic."""


class DreamerConfig(ActorCriticConfig):
    """Settings of the actor-critic trained on imagined steps."""

    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    # HalfCheetah, seed 0: 3,439 with 3e-4, 4,704 with 1e-3, 5,388 with 3e-3, 4,894 with 1e-2 (docs/log.md, 2026-12-01).
    entropy: float = field(3e-3, ge=0)
    """Weight of the policy's entropy, in units of normalised return; DreamerV3 has 3e-4."""
    gradient: Literal["auto", "pathwise", "reinforce"] = field("auto", expert=True)
    """Gradient of the actor. auto: pathwise for continuous actions if the dynamics is reparameterised, otherwise
    reinforce."""
    critic: Literal["twin", "single"] = field("twin", expert=True)
    """Value of returns and baselines. twin: the smaller value of two slow critics (target networks). single: that of one
    critic itself, which its slow copy only regularises, as in DreamerV3."""
    penalty: float = field(0.0, ge=0, expert=True)
    """Weight of KL(policy || behaviour), in units of normalised return: keeps the policy near the actions of the data, for
    offline training; 0 is for data that the agent collects."""
    pessimism: float = field(0.0, ge=0, expert=True)
    """Reward subtracted at each imagined step, per unit of the members' disagreement. Needs an ensemble."""
    curiosity: float = field(0.0, ge=0, expert=True)
    """Reward per unit of disagreement for a second actor-critic, which collects the data. Needs an ensemble."""
    confidence: float = field(0.0, ge=0, expert=True)
    """Weight an imagined step by 1 / (1 + this times its disagreement relative to the mean). Needs an ensemble."""
    layers: ClassVar[int] = 2
    """Hidden layers of actor and critic."""
    lambda_: ClassVar[float] = 0.95
    """Lambda of the lambda-returns, as in DreamerV3."""
    average_rate: ClassVar[float] = 0.005
    """Rate at which the evaluated actor tracks the trained actor, per update; 1 evaluates the last iterate."""
    min_std: ClassVar[float] = 0.1
    """Smallest standard deviation of continuous actions, as in DreamerV3."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into discrete policies, as in DreamerV3."""


class PlannerConfig(Config):
    """Settings of a search over plans at every decision: the cross-entropy method, iCEM or MPPI."""

    search: Literal["cem", "icem", "mppi"] = "cem"
    """The search. icem: CEM with coloured noise, reused elites, and fewer candidates in each iteration."""
    horizon: int = field(12, ge=1, nano=4)
    """Steps H of a plan."""
    candidates: int = field(512, ge=4, nano=32)
    """Candidate plans dreamt per iteration (icem: in the first iteration)."""
    iterations: int = field(6, ge=1, nano=3)
    """Iterations of a search."""
    elites: int = field(64, ge=1, nano=8)
    """Best candidates to which the plans are fitted; at most half of the candidates."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    noise: bool = True
    """Dream candidates with the prior's noise; false uses its most likely latents."""
    execute: Literal["mean", "best"] = "mean"
    """The executed action: the first action of the final plans' mean, or of the best candidate (optimistic if dreams
    are noisy)."""
    budget_ms: float = field(0.0, ge=0)
    """Deadline of a search in milliseconds, after which the best plan so far is executed; 0: no deadline."""
    exploration: float = field(0.3, ge=0)
    """Exploration noise while collecting: its std (continuous actions), or the probability of a random action
    (discrete)."""
    guide: bool = False
    """Train an actor and a critic in dreams, as `dreamer` does: the actor proposes candidates, the critic is the
    terminal value."""
    proposals: int = field(24, ge=1, nano=4)
    """Candidates proposed by the guide's actor."""
    guide_with: ActorCriticConfig = ActorCriticConfig()
    """Settings of the guide; its discount and pessimism are the plans'."""
    pessimism: float = field(0.0, ge=0, expert=True)
    """Reward subtracted at each dreamt step, per unit of the members' disagreement. Needs an ensemble."""
    curiosity: float = field(0.0, ge=0, expert=True)
    """Reward added instead while collecting, per unit of disagreement. Needs an ensemble."""
    temperature: ClassVar[float] = 0.5
    """mppi: softness of the weights, in units of the elites' range of scores."""
    keep: ClassVar[float] = 0.1
    """cem, icem: share of the old mean and std kept in each fit, as in iCEM, arXiv:2008.06389."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of a plan (continuous), or the share of a uniform (discrete), so that a search never becomes
    deterministic."""
    beta: ClassVar[float] = 2.0
    """icem: colour of the noise, whose power falls as 1 / frequency^beta; iCEM uses 2 to 4 for most tasks."""
    decay: ClassVar[float] = 0.8
    """icem: ratio of candidates between consecutive iterations, iCEM's factor 1.25."""
    reused: ClassVar[int] = 10
    """icem: elites evaluated again in the next iteration and, shifted, at the next step."""


class SB3Config(Config):
    """Settings of an algorithm of Stable-Baselines3, trained in dreams."""

    algorithm: Literal["PPO", "A2C", "DQN", "SAC", "TD3", "DDPG"] = "PPO"
    """The algorithm. DQN needs discrete actions; SAC, TD3 and DDPG need continuous actions."""
    num_envs: int = field(64, ge=1, nano=16)
    """Number of parallel dreams."""
    horizon: int = field(15, ge=1, nano=4)
    """Steps after which a dream is truncated; the value bootstraps beyond."""
    temperature: float = field(1.0, gt=0)
    """Temperature of the prior. Above 1 dreams are harder to exploit; below 1 they are less random than the model."""
    every: int = field(10, ge=1, nano=1)
    """Updates of the world model between two training rounds."""
    steps: int = field(1024, ge=1, nano=128)
    """Dreamt steps per round, over all dreams; PPO and A2C round down to an equal number per dream."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    learning_rate: float = field(3e-4, gt=0)
    """Learning rate of the algorithm."""
    batch_size: int = field(256, ge=2, nano=64)
    """Transitions in a minibatch."""
    entropy: float = field(0.003, ge=0)
    """Weight of the policy's entropy (PPO, A2C); SAC tunes its own weight."""
    exploration: float = field(0.1, ge=0)
    """Exploration noise in collection and in dreams: the probability of a random action (DQN), or its std (TD3, DDPG).
    """
    units: int = sized(nano=16, tiny=128, small=128, medium=128, large=128, gt=0)
    """Width of policy and value networks."""
    layers: ClassVar[int] = 2
    """Hidden layers of policy and value networks."""
    gradient_steps: ClassVar[int] = 4
    """Gradient steps after each step of all dreams (DQN, SAC, TD3, DDPG)."""
    buffer: ClassVar[int] = 20_000
    """Capacity in dreamt transitions (DQN, SAC, TD3, DDPG). It is small, because old transitions come from an outdated
    model."""
    epochs: ClassVar[int] = 5
    """Passes over a round's transitions (PPO): half of Stable-Baselines3's default, since dreams are cheap."""


class BCConfig(Config):
    """Settings of behaviour cloning."""

    units: int = sized("units", gt=0)
    """Width of the policy."""
    layers: ClassVar[int] = 2
    """Hidden layers of the policy."""
    rate: ClassVar[float] = 3e-4
    """Learning rate."""
    min_std: ClassVar[float] = 0.1
    """Smallest standard deviation of continuous actions, as in the dreamer agent."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into discrete policies, as in the dreamer agent."""


class TDMPCConfig(Config):
    """Settings of planning with a learned terminal value and a policy that proposes candidates."""

    horizon: int = field(3, ge=1)
    """Steps H of a plan; the value function covers the rest."""
    candidates: int = field(512, ge=4, nano=32)
    """Candidate plans dreamt per iteration."""
    iterations: int = field(6, ge=1, nano=3)
    """Iterations of a search."""
    proposals: int = field(24, ge=1, nano=4)
    """Candidates proposed by the policy."""
    elites: int = field(64, ge=1, nano=8)
    """Best candidates used in a fit; at most half of the candidates."""
    noise: bool = True
    """Dream candidates with the prior's noise; false uses its most likely latents."""
    budget_ms: float = field(0.0, ge=0)
    """Deadline of a search in milliseconds, after which the best plan so far is executed; 0: no deadline."""
    exploration: float = field(0.2, ge=0)
    """Exploration noise while collecting: its std (continuous actions), or the probability of a random action
    (discrete)."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    ensemble: int = field(5, ge=2)
    """Number of Q-functions; targets use the smaller of two of them."""
    dreams: int = field(0, ge=0)
    """Steps of dreams whose returns also train the Q-functions; 0 trains them on replayed experience only, as in
    TD-MPC2."""
    units: int = sized(nano=16, tiny=128, small=96, medium=128, large=128, gt=0)
    """Width of policy and Q-functions."""
    actor_rate: float = field(3e-4, gt=0)
    """Learning rate of the policy."""
    critic_rate: float = field(1e-3, gt=0)
    """Learning rate of the Q-functions."""
    slow_rate: float = field(0.05, gt=0, le=1)
    """Rate at which the slow Q-functions track the Q-functions, per update."""
    entropy: float = field(0.01, ge=0)
    """Weight of the policy's entropy, in units of the range of Q. If it is small, a discrete policy collapses before Q
    is learned."""
    pessimism: float = field(0.0, ge=0, expert=True)
    """Reward subtracted at each dreamt step, per unit of the members' disagreement. Needs an ensemble."""
    curiosity: float = field(0.0, ge=0, expert=True)
    """Reward added instead while collecting, per unit of disagreement. Needs an ensemble."""
    temperature: ClassVar[float] = 0.5
    """Softness of the weights of candidates, in units of the elites' range of scores."""
    lambda_: ClassVar[float] = 0.95
    """Lambda of the lambda-returns of dreams, as in the dreamer agent."""
    layers: ClassVar[int] = 2
    """Hidden layers of policy and Q-functions."""
    min_std: ClassVar[float] = 0.05
    """Smallest std of a plan (continuous), or the share of a uniform (discrete)."""
    policy_min_std: ClassVar[float] = 0.1
    """Smallest standard deviation of the policy's continuous actions."""


class CMAConfig(Config):
    """Settings of a small controller optimised by CMA-ES."""

    where: Literal["dream", "real", "both"] = "dream"
    """How candidates are evaluated. dream: in dreams. real: by the episodes collected from the environment. both: in
    dreams until collection starts (train.pretrain_agent), then by its episodes."""
    population: int = field(16, ge=4)
    """Candidates per generation."""
    sigma: float = field(0.1, gt=0)
    """Initial step size."""
    covariance: Literal["auto", "full", "diagonal"] = "auto"
    """The covariance that is learned. full: a full matrix; needs on the order of n^2 evaluations for n weights.
    diagonal: a variance per weight (Ros & Hansen 2008). auto: full up to 300 weights."""
    first_action: tuple[float, ...] = ()
    """The action around which the first candidates act, each entry in (-1, 1) of its range; empty: the middle of each
    range. Use it for actions that should be off at first: World Models' controller does not brake at first either."""
    hidden: int = field(0, ge=0)
    """Width of a hidden layer; 0: a linear controller, as in World Models."""
    settle: int = field(0, ge=0)
    """Generations in which the mean moves by full steps. Later steps are scaled by settle / generation, which averages
    out the noise of the scores while the step size stays the same. 0: always full steps."""
    averaging: float = field(0.0, ge=0, lt=1)
    """Decay of the moving average of generation means that is evaluated (0: the last mean). Scores of few episodes make
    the mean fluctuate between generations."""
    components: int = field(0, ge=0)
    """Number of principal components of the features that the controller reads, scaled so that their variances add up
    to 1; 0: all features, unscaled. They are computed in the agent's first 20 updates."""
    episodes: int = field(1, ge=1)
    """Episodes that evaluate a candidate (real). Environment r plays candidates r, r + num_envs and so on. With
    env.same_episodes and a population of num_envs all candidates play the same episodes."""
    every: int = field(5, ge=1, nano=1)
    """Updates of the world model between two generations (dream)."""
    rollouts: int = field(16, ge=1)
    """Dreams that evaluate each candidate, from the same states (dream)."""
    horizon: int = field(50, ge=1)
    """Steps of each of these dreams."""
    temperature: float = field(1.0, gt=0)
    """Temperature of the prior. Above 1 dreams are harder to exploit."""
    gamma: ClassVar[float] = 0.99
    """Discount per decision in a dream."""
    exploration: ClassVar[float] = 0.1
    """Exploration noise while collecting (dream): its std, or the probability of a random action."""
