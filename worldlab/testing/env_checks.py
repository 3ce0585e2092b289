"""Checks of adapters of environments."""

from __future__ import annotations

from contextlib import closing

import numpy as np

from worldlab.env.spaces import action_spec, obs_spec
from worldlab.testing.checks import CheckFailure, NotApplicable, check
from worldlab.testing.env_subject import Arrival, EnvSubject, first_difference, random_actions

SIZE = 24
"""Side of the images that V6 asks for."""
_FIX = "return the bare environment from make: worldlab applies the settings to it"
LIMIT = 3
"""Time limit that V8 asks for, in decisions."""


@check("V1", role="env", title="names are resolved, and unknown ids are not")
def resolves(subject: EnvSubject) -> None:
    """resolve returns a full id for each name, and the same for that id again; for an id that it does not know it returns
    None.

    Catches an adapter that claims every id, so that other adapters are never tried, and a full id that a saved run
    cannot resolve. Fix: return None for what the adapter does not offer.
    """
    for name in subject.adapter.names()[:20]:
        full = subject.resolve(name)
        if full is None or subject.resolve(full) != full:
            raise CheckFailure(
                f"resolve gives {full!r} for {name!r}, and not the same for that id again",
                "resolve every name that names() offers, and every full id to itself",
            )
    unknown = "no-such-environment-of-anyone"
    if (claimed := subject.resolve(unknown)) is not None:
        raise CheckFailure(f"resolve gives {claimed!r} for {unknown!r}", "return None for ids that it does not offer")


@check("V2", role="env", title="observations, rewards and ends have the declared form")
def values(subject: EnvSubject) -> None:
    """The observation is a dict of uint8 images (H, W, C) and finite float32 vectors (n,) of the declared shapes, rewards
    are finite and actions are Discrete or a finite Box, over two episodes of at most 20 steps.

    Catches observations outside the declared space, float images, NaN rewards and infinite action bounds. Fix: declare
    the space of what the environment returns.
    """
    with closing(subject.make()) as env:
        declared = obs_spec(env.observation_space)
        action_spec(env.action_space)
        for seed in (0, 1):
            for step, arrival in enumerate(subject.rollout(env, random_actions(env, seed=seed), seed)):
                if set(arrival.obs) != set(declared.keys):
                    raise CheckFailure(
                        f"step {step}: the observation has the keys {sorted(arrival.obs)}, declared are {list(declared.keys)}",
                        "return every key of the observation space",
                    )
                for key, value in arrival.obs.items():
                    space = env.observation_space[key]  # type: ignore[index]
                    if (value.shape, value.dtype) != (space.shape, space.dtype) or not np.isfinite(value).all():
                        raise CheckFailure(
                            f"step {step}: '{key}' is {value.dtype} {value.shape}, declared is {space.dtype} {space.shape}, finite",
                            "declare the space of what the environment returns",
                        )
                if not np.isfinite(arrival.reward):
                    raise CheckFailure(f"step {step}: the reward is {arrival.reward}", "return a finite reward")


@check("V3", role="env", title="the same seed gives the same episode")
def seeds(subject: EnvSubject) -> None:
    """Two environments that are reset with the same seed and take the same actions have equal arrivals.

    Catches numpy's or Python's global generator in the environment, and a seed that is not passed on: a run could not be
    repeated. Fix: call super().reset(seed=seed) and draw from self.np_random.
    """
    with closing(subject.make()) as one, closing(subject.make()) as other:
        actions = random_actions(one)
        step = first_difference(subject.rollout(one, actions), subject.rollout(other, actions))
    if step is not None:
        raise CheckFailure(
            f"two episodes with the same seed and actions differ at step {step}",
            "super().reset(seed=seed), and self.np_random for every draw",
        )


@check("V4", role="env", title="a reset leaves nothing of the last episode")
def resets(subject: EnvSubject) -> None:
    """After an unfinished episode, a reset with a seed gives the same episode as in a new environment.

    Catches counters, speeds and buffers that reset does not clear, and a time limit that goes on counting. Fix: set
    everything that changes in step to its start in reset.
    """
    with closing(subject.make()) as fresh, closing(subject.make()) as used:
        actions = random_actions(fresh)
        subject.rollout(used, random_actions(fresh, 7, seed=1), seed=1)
        step = first_difference(subject.rollout(fresh, actions), subject.rollout(used, actions))
    if step is not None:
        raise CheckFailure(
            f"an episode after another one differs at step {step} from that of a new environment",
            "set everything that changes in step to its start in reset",
        )


@check("V5", role="env", title="two environments are independent")
def independent(subject: EnvSubject) -> None:
    """An episode is the same whether or not another environment of the same adapter is stepped in turn with it.

    Catches state in the module, in the class or in the adapter, and one simulator that make returns twice: a run steps
    several environments together. Fix: create all state in __init__ and reset of the environment.
    """
    with closing(subject.make()) as alone:
        actions, others = random_actions(alone), random_actions(alone, seed=1)
        expected = subject.rollout(alone, actions)
    with closing(subject.make()) as one, closing(subject.make()) as other:
        if one is other or one.unwrapped is other.unwrapped:
            raise CheckFailure("make returned the same environment twice", "build a new environment in every call")
        found = [Arrival(one.reset(seed=0)[0])]
        other.reset(seed=1)
        for action, second in zip(actions[: len(expected) - 1], others):
            _, _, terminated, truncated, _ = other.step(second)
            if terminated or truncated:
                other.reset()
            obs, reward, terminated, truncated, _ = one.step(action)
            found.append(Arrival(obs, float(reward), bool(terminated), bool(truncated)))
    step = first_difference(expected, found)
    if step is not None:
        raise CheckFailure(
            f"an episode differs at step {step} when another environment is stepped beside it",
            "keep state in the environment itself, not in the module, the class or the adapter",
        )


@check("V6", role="env", title="env.size resizes every image")
def size(subject: EnvSubject) -> None:
    """With env.size = 24, every image is declared and observed with 24 x 24 pixels.

    Catches an adapter that ignores its settings: the configuration of a run would claim a size that nothing has. Fix:
    return the bare environment from make; worldlab applies the settings to it.
    """
    with closing(subject.make()) as env:
        images = list(obs_spec(env.observation_space).images)
    if not images:
        raise NotApplicable("the environment has no images")
    with closing(subject.make(size=SIZE)) as env:
        obs, _ = env.reset(seed=0)
        for key in images:
            declared, found = env.observation_space[key].shape, obs[key].shape  # type: ignore[index]
            if declared[:2] != (SIZE, SIZE) or found != declared:
                raise CheckFailure(
                    f"env.size = {SIZE} has no effect: '{key}' is declared as {declared} and is {found}",
                    _FIX,
                )


@check("V7", role="env", title="env.repeat repeats actions and sums rewards")
def repeat(subject: EnvSubject) -> None:
    """A decision with env.repeat = 2 earns the sum of the rewards of two decisions with the same action and env.repeat = 1.

    Catches an adapter that ignores the setting, one that applies it twice, and rewards of which only the last is kept.
    Fix: return the bare environment from make; worldlab applies the settings to it.
    """
    with closing(subject.make(repeat=1)) as once, closing(subject.make(repeat=2)) as twice:
        actions = random_actions(once, 8)
        single = subject.rollout(once, [action for action in actions for _ in range(2)])
        double = subject.rollout(twice, actions)
    if len(single) < 3 or len(double) < 2:
        raise NotApplicable("the episode ends at once")
    whole = min(len(double) - 1, (len(single) - 1) // 2)
    sums = [single[2 * i + 1].reward + single[2 * i + 2].reward for i in range(whole)]
    earned = [arrival.reward for arrival in double[1 : whole + 1]]
    for step, (expected, found) in enumerate(zip(sums, earned), 1):
        if abs(expected - found) > 1e-4 * (1 + abs(expected)):
            raise CheckFailure(
                f"decision {step} with env.repeat = 2 earns {found:.6g}, the two steps it stands for {expected:.6g}",
                _FIX,
            )
    if _ignores_repeat(single, double):
        raise CheckFailure(
            "env.repeat = 2 has no effect: observations are those of env.repeat = 1",
            _FIX,
        )


def _ignores_repeat(single: list[Arrival], double: list[Arrival]) -> bool:
    """Return whether the first decision of `double` shows what one step shows, where a second step would differ."""
    one, two = single[1:2], single[2:3]
    shown = [Arrival(double[1].obs)]
    return (
        first_difference([Arrival(one[0].obs)], shown) is None
        and first_difference([Arrival(two[0].obs)], shown) is not None
    )


@check("V8", role="env", title="env.time_limit truncates an episode")
def time_limit(subject: EnvSubject) -> None:
    """With env.time_limit = 3 an episode that does not terminate is truncated at its third decision, and not before.

    Catches an adapter that ignores the setting, and a limit that counts frames in place of decisions, or ends episodes as
    terminated. Fix: return the bare environment from make; worldlab applies the settings to it.
    """
    for repeat in (1, 2):
        with closing(subject.make(time_limit=LIMIT, repeat=repeat)) as env:
            arrivals = subject.rollout(env, random_actions(env))
        last = arrivals[-1]
        if last.terminated and not last.truncated and len(arrivals) <= LIMIT:
            continue  # the environment ended the episode itself
        if len(arrivals) - 1 != LIMIT or not last.truncated:
            raise CheckFailure(
                f"env.time_limit = {LIMIT} with env.repeat = {repeat}: the episode has {len(arrivals) - 1} decisions "
                f"(truncated: {last.truncated}, terminated: {last.terminated})",
                _FIX,
            )
