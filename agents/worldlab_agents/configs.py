"""Settings of the agents. Torch-free, so that `--help` is."""

from __future__ import annotations

from typing import ClassVar, Literal

from worldlab import Config, field, sized


class RandomConfig(Config):
    """Nothing to set."""


class DreamerConfig(Config):
    """Actor and critic, trained on imagined steps."""

    horizon: int = field(15, ge=1)
    """Imagined steps H from each start."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    entropy: float = field(3e-4, ge=0)
    """Weight of the policy's entropy, in units of normalised return."""
    gradient: Literal["auto", "pathwise", "reinforce"] = field("auto", expert=True)
    """How the actor learns. auto: pathwise for continuous actions where the dynamics can be differentiated."""
    units: int = sized("units", gt=0)
    """Width of actor and critic."""
    actor_rate: float = field(1e-4, gt=0)
    """Learning rate of the actor."""
    critic_rate: float = field(3e-4, gt=0)
    """Learning rate of the critic."""
    slow_rate: float = field(0.02, gt=0, le=1, expert=True)
    """Rate at which the slow critic follows the critic, per update."""
    slow_weight: float = field(1.0, ge=0, expert=True)
    """Weight of the critic's loss towards the slow critic."""
    slow_target: bool = field(True, expert=True)
    """Whether returns and baselines bootstrap with the slow critic (a target network); else with the critic, as in DreamerV3."""
    layers: ClassVar[int] = 2
    """Hidden layers of actor and critic."""
    lambda_: ClassVar[float] = 0.95
    """Mix of imagined rewards and bootstrapped values in the returns: DreamerV3's."""
    average_rate: ClassVar[float] = 0.005
    """Rate at which the actor that is evaluated follows the one that learns, per update; 1 evaluates the last iterate."""
    min_std: ClassVar[float] = 0.1
    """Smallest standard deviation of continuous actions: DreamerV3's."""
    unimix: ClassVar[float] = 0.01
    """Share of a uniform mixed into discrete policies: DreamerV3's."""


class PlannerConfig(Config):
    """A search over plans at every decision: the cross-entropy method, iCEM or MPPI."""

    search: Literal["cem", "icem", "mppi"] = "cem"
    """Rule by which plans are fitted to scores. icem: CEM with coloured noise, kept elites, fewer candidates each iteration."""
    horizon: int = field(12, ge=1)
    """Steps H of a plan."""
    candidates: int = field(512, ge=4)
    """Candidate plans dreamt in an iteration (icem: in the first)."""
    iterations: int = field(6, ge=1)
    """Iterations of a search."""
    elites: int = field(64, ge=1)
    """Best candidates that the plans are fitted to; half of those tried at most."""
    gamma: float = field(0.99, gt=0, le=1)
    """Discount per decision."""
    noise: bool = True
    """Dream candidates with the prior's noise; false follows its most likely latents."""
    execute: Literal["mean", "best"] = "mean"
    """Action that is taken: the first of the final plans' mean, or of the best candidate (optimistic where dreams vary)."""
    temperature: float = field(0.5, gt=0, expert=True)
    """mppi: softness of the weights, in units of the elites' range of scores."""
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
    keep: ClassVar[float] = 0.1
    """cem, icem: share of the old mean and width that stays in each fit: iCEM's, arXiv:2008.06389."""
    min_std: ClassVar[float] = 0.05
    """Least width of a plan: a std (continuous), or the share of a uniform (discrete), so that a search never freezes."""
    beta: ClassVar[float] = 2.0
    """icem: colour of the noise, whose power falls as 1 / frequency^beta: iCEM's range is 2 to 4 for most tasks."""
    decay: ClassVar[float] = 0.8
    """icem: candidates of an iteration over those of the one before: iCEM's 1.25 fewer each time."""
    reused: ClassVar[int] = 10
    """icem: elites tried again in the next iteration and, shifted, at the next step."""


class SB3Config(Config):
    """An algorithm of Stable-Baselines3, trained in dreams."""

    algorithm: Literal["PPO", "A2C", "DQN", "SAC", "TD3", "DDPG"] = "PPO"
    """The algorithm. DQN needs discrete actions; SAC, TD3 and DDPG continuous ones."""
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
    entropy: float = field(0.003, ge=0)
    """Weight of the policy's entropy (PPO, A2C); SAC tunes its own."""
    gradient_steps: int = field(4, ge=1)
    """Gradient steps after each step of all dreams (DQN, SAC, TD3, DDPG)."""
    buffer: int = field(20_000, ge=1)
    """Dreamt transitions kept (DQN, SAC, TD3, DDPG): few, since older ones come from a model that has learned since."""
    exploration: float = field(0.1, ge=0)
    """Noise on actions while collecting: the chance of a random action (DQN), or its std (TD3, DDPG); in dreams too."""
    units: int = sized(nano=16, tiny=128, small=128, medium=128, large=128, gt=0)
    """Width of policy and value networks."""
    layers: ClassVar[int] = 2
    """Hidden layers of policy and value networks."""
    epochs: ClassVar[int] = 5
    """Passes over a round's transitions (PPO): half of Stable-Baselines3's, since dreams cost little."""


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
    temperature: float = field(0.5, gt=0, expert=True)
    """Softness of the weights, in units of the elites' range of scores."""
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
    units: int = sized(nano=16, tiny=128, small=96, medium=128, large=128, gt=0)
    """Width of policy and Q-functions."""
    actor_rate: float = field(3e-4, gt=0)
    """Learning rate of the policy."""
    critic_rate: float = field(1e-3, gt=0)
    """Learning rate of the Q-functions."""
    slow_rate: float = field(0.05, gt=0, le=1)
    """Rate at which the slow Q-functions follow, per update."""
    entropy: float = field(0.01, ge=0)
    """Weight of the policy's entropy, in units of the range of Q; with less a discrete policy decides before Q does."""
    lambda_: ClassVar[float] = 0.95
    """Mix of dreamt rewards and bootstrapped values in the returns of dreams: as the dreamer's."""
    layers: ClassVar[int] = 2
    """Hidden layers of policy and Q-functions."""
    min_std: ClassVar[float] = 0.05
    """Least width of a plan: a std (continuous), or the share of a uniform (discrete)."""
    policy_min_std: ClassVar[float] = 0.1
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
