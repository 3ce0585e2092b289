"""Settings of the agents. Torch-free, so that `--help` is."""

from __future__ import annotations

from typing import Literal

from worldlab import Config, field


class RandomConfig(Config):
    """Nothing to set."""


class DreamerConfig(Config):
    """Actor and critic, trained on imagined steps."""

    horizon: int = field(15, ge=1)
    """Imagined steps H from each start."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    lambda_: float = field(0.95, ge=0, le=1)
    """Mix of imagined rewards and bootstrapped values in the returns."""
    entropy: float = field(3e-4, ge=0)
    """Weight of the policy's entropy, in units of normalised return."""
    gradient: Literal["auto", "pathwise", "reinforce"] = "auto"
    """How the actor learns. auto: pathwise for continuous actions where the dynamics can be differentiated."""
    units: int = field(128, gt=0)
    """Width of actor and critic."""
    layers: int = field(2, ge=1)
    """Hidden layers of actor and critic."""
    actor_rate: float = field(1e-4, gt=0)
    """Learning rate of the actor."""
    critic_rate: float = field(3e-4, gt=0)
    """Learning rate of the critic."""
    slow_rate: float = field(0.02, gt=0, le=1)
    """Rate at which the slow critic follows the critic, per update."""
    slow_weight: float = field(1.0, ge=0)
    """Weight of the critic's loss towards the slow critic."""
    slow_target: bool = True
    """Whether returns end in what the slow critic says (a target network), and baselines are that; else in what the critic
    says, as in DreamerV3."""
    average_rate: float = field(0.005, gt=0, le=1)
    """Rate at which the actor that is judged follows the one that learns, per update; 1 judges the last iterate."""
    min_std: float = field(0.1, gt=0)
    """Smallest standard deviation of continuous actions."""
    unimix: float = field(0.01, ge=0, lt=1)
    """Share of a uniform mixed into discrete policies."""


class PlannerConfig(Config):
    """What all planners share."""

    horizon: int = field(12, ge=1)
    """Steps H of a plan."""
    candidates: int = field(512, ge=4)
    """Candidate plans dreamt in an iteration."""
    iterations: int = field(6, ge=1)
    """Iterations of a search."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    noise: bool = True
    """Dream candidates with the prior's noise; false follows its most likely latents."""
    execute: Literal["mean", "best"] = "mean"
    """What is done: the first action of the final plans' mean, or of the best candidate seen (optimistic where dreams vary)."""
    budget_ms: float = field(0.0, ge=0)
    """Deadline of a search in milliseconds, after which the best plan so far is taken; 0: none."""
    exploration: float = field(0.3, ge=0)
    """Noise on actions while collecting: its std (continuous), or the chance of a random action (discrete)."""
    guide: bool = False
    """Learn an actor and a critic in dreams, as `dreamer` does: the actor proposes candidates, the critic values the end."""
    proposals: int = field(24, ge=1)
    """Candidates the guide's actor proposes."""
    guide_with: DreamerConfig = DreamerConfig()
    """Settings of the guide; its discount must be the plans'."""


class CEMConfig(PlannerConfig):
    """The cross-entropy method."""

    elites: int = field(64, ge=1)
    """Best candidates that the plans are fitted to; half of those tried at most."""
    keep: float = field(0.1, ge=0, lt=1)
    """Share of the old mean and width that stays in each fit."""
    min_std: float = field(0.05, ge=0)
    """Least width of a plan: a std (continuous), or the share of a uniform (discrete)."""


class ICEMConfig(PlannerConfig):
    """CEM that is worth its samples: coloured noise, elites that are kept and shifted, fewer candidates each iteration."""

    candidates: int = field(256, ge=4)
    """Candidate plans dreamt in the first iteration."""
    elites: int = field(32, ge=1)
    """Best candidates that the plans are fitted to; half of those tried at most."""
    keep: float = field(0.1, ge=0, lt=1)
    """Share of the old mean and width that stays in each fit."""
    min_std: float = field(0.05, ge=0)
    """Least width of a plan: a std (continuous), or the share of a uniform (discrete)."""
    beta: float = field(2.0, ge=0)
    """Colour of the noise: its power falls as 1 / frequency^beta; 0 is white."""
    decay: float = field(0.8, gt=0, le=1)
    """Candidates of an iteration over those of the one before."""
    execute: Literal["mean", "best"] = "best"
    """What is done: the first action of the final plans' mean, or of the best candidate seen."""
    reused: int = field(10, ge=0)
    """Elites tried again in the next iteration and, shifted, at the next step."""


class MPPIConfig(PlannerConfig):
    """Model predictive path integral control: all good candidates count, the better the more."""

    elites: int = field(64, ge=1)
    """Best candidates that count at all; half of those tried at most."""
    temperature: float = field(0.5, gt=0)
    """Softness of the weights, in units of the elites' range of scores."""
    min_std: float = field(0.05, ge=0)
    """Least width of a plan: a std (continuous), or the share of a uniform (discrete)."""


class SB3Config(Config):
    """An algorithm of Stable-Baselines3, trained in dreams."""

    algorithm: Literal["PPO", "A2C", "DQN", "SAC", "TD3", "DDPG"] = "PPO"
    """Which one. DQN needs discrete actions; SAC, TD3 and DDPG continuous ones."""
    num_envs: int = field(64, ge=1)
    """Dreams side by side."""
    horizon: int = field(15, ge=1)
    """Steps after which a dream is cut (a truncation: the value goes on)."""
    temperature: float = field(1.0, gt=0)
    """Temperature of the prior; above 1 dreams are harder to exploit, below 1 they are more certain than the model."""
    every: int = field(10, ge=1)
    """Updates of the world model between two rounds of learning."""
    steps: int = field(1024, ge=1)
    """Dreamt steps of a round, over all dreams; PPO and A2C take the same number in each, rounded down."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    learning_rate: float = field(3e-4, gt=0)
    """Learning rate of the algorithm."""
    batch_size: int = field(256, ge=2)
    """Transitions in a minibatch."""
    epochs: int = field(5, ge=1)
    """Passes over a round's transitions (PPO)."""
    entropy: float = field(0.003, ge=0)
    """Weight of the policy's entropy (PPO, A2C); SAC tunes its own."""
    gradient_steps: int = field(4, ge=1)
    """Gradient steps after each step of all dreams (DQN, SAC, TD3, DDPG)."""
    buffer: int = field(20_000, ge=1)
    """Dreamt transitions kept (DQN, SAC, TD3, DDPG): few, since older ones come from a model that has learned since."""
    exploration: float = field(0.1, ge=0)
    """Noise on actions while collecting: the chance of a random action (DQN), or its std (TD3, DDPG); in dreams too."""
    units: int = field(128, gt=0)
    """Width of policy and value networks."""
    layers: int = field(2, ge=1)
    """Hidden layers of them."""


class PPOConfig(SB3Config):
    """Proximal policy optimisation in dreams."""

    algorithm: Literal["PPO"] = "PPO"
    """The algorithm of Stable-Baselines3."""


class SACConfig(SB3Config):
    """Soft actor-critic in dreams; for continuous actions."""

    algorithm: Literal["SAC"] = "SAC"
    """The algorithm of Stable-Baselines3."""
    steps: int = field(512, ge=1)
    """Dreamt steps of a round, over all dreams."""


class TDMPCConfig(Config):
    """Planning towards a learned value, with a learned policy to start from."""

    horizon: int = field(3, ge=1)
    """Steps H of a plan; the value says what lies beyond."""
    candidates: int = field(512, ge=4)
    """Candidate plans dreamt in an iteration."""
    iterations: int = field(6, ge=1)
    """Iterations of a search."""
    proposals: int = field(24, ge=1)
    """Candidates the policy proposes."""
    elites: int = field(64, ge=1)
    """Best candidates that count in a fit; half of those tried at most."""
    temperature: float = field(0.5, gt=0)
    """Softness of the weights, in units of the elites' range of scores."""
    min_std: float = field(0.05, ge=0)
    """Least width of a plan: a std (continuous), or the share of a uniform (discrete)."""
    noise: bool = True
    """Dream candidates with the prior's noise; false follows its most likely latents."""
    budget_ms: float = field(0.0, ge=0)
    """Deadline of a search in milliseconds, after which the best plan so far is taken; 0: none."""
    exploration: float = field(0.2, ge=0)
    """Noise on actions while collecting: its std (continuous), or the chance of a random action (discrete)."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    ensemble: int = field(5, ge=2)
    """Q-functions; targets take the smaller of two of them."""
    dreams: int = field(0, ge=0)
    """Steps of dreams whose returns teach the Q-functions too; 0: they learn from what happened alone, as in TD-MPC2."""
    lambda_: float = field(0.95, ge=0, le=1)
    """Mix of dreamt rewards and bootstrapped values in those returns."""
    units: int = field(128, gt=0)
    """Width of policy and Q-functions."""
    layers: int = field(2, ge=1)
    """Hidden layers of them."""
    actor_rate: float = field(3e-4, gt=0)
    """Learning rate of the policy."""
    critic_rate: float = field(1e-3, gt=0)
    """Learning rate of the Q-functions."""
    slow_rate: float = field(0.05, gt=0, le=1)
    """Rate at which the slow Q-functions follow, per update."""
    entropy: float = field(0.01, ge=0)
    """Weight of the policy's entropy, in units of the range of Q; with less a discrete policy decides before Q does."""
    policy_min_std: float = field(0.1, gt=0)
    """Smallest standard deviation of the policy's continuous actions."""


class CMAConfig(Config):
    """A small controller, evolved."""

    where: Literal["dream", "real", "both"] = "dream"
    """Where candidates are judged: by dreams; by the episodes played while collecting; or by dreams until those begin
    (train.pretrain_agent), then by them."""
    population: int = field(16, ge=4)
    """Candidates of a generation."""
    sigma: float = field(0.1, gt=0)
    """Step size at the start."""
    covariance: Literal["auto", "full", "diagonal"] = "auto"
    """What is learned of the landscape. full: which numbers go together, which takes generations by the square of their count;
    diagonal: how far each may go (Ros & Hansen 2008); auto: full up to 300 numbers."""
    first_action: tuple[float, ...] = ()
    """The action around which the first candidates act, each number in (-1, 1) of its range; empty: the middle of each range.
    Say what is off until it is needed: World Models' controller does not brake at first either."""
    hidden: int = field(0, ge=0)
    """Width of a hidden layer; 0: the controller is linear, as in World Models."""
    settle: int = field(0, ge=0)
    """Generations in which the mean moves by whole steps; from then on by settle / generation of one, so that the noise of the
    scores averages out while candidates stay as far apart. 0: always by whole steps."""
    averaging: float = field(0.0, ge=0, lt=1)
    """Judged is the moving average of the generations' means with this decay (0: the last mean): scores of few episodes shake
    the mean from one generation to the next."""
    components: int = field(0, ge=0)
    """Evolve in the span of that many principal components of the features, scaled so that their variances add up to 1; 0: in
    all of them, as they are. They are measured in the agent's first 20 updates."""
    episodes: int = field(1, ge=1)
    """Episodes a candidate is judged by (real). Row r of the environments plays candidates r, r + num_envs and so on: with
    env.same_episodes and a population of num_envs all candidates meet the same episodes."""
    exploration: float = field(0.1, ge=0)
    """Noise on actions while collecting (dream): its std, or the chance of a random action."""
    every: int = field(5, ge=1)
    """Updates of the world model between two generations (dream)."""
    rollouts: int = field(16, ge=1)
    """Dreams each candidate is judged by, from the same states (dream)."""
    horizon: int = field(50, ge=1)
    """Steps of such a dream."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision in a dream."""
    temperature: float = field(1.0, gt=0)
    """Temperature of the prior; above 1 dreams are harder to exploit."""
