"""Tests of the collector: the replay contains exactly what an independently stepped environment returns."""

from __future__ import annotations

import json

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces
from model_kit import build_model, gen

from worldlab.agent import Agent
from worldlab.env.pool import EnvPool
from worldlab.env.spaces import decode_action, encode_action, record_schema
from worldlab.experience.acting import ActingAgent
from worldlab.experience.collect import Collector, Unrepeatable, next_obs, random_actions, to_batch
from worldlab.experience.replay import Replay
from worldlab.specs import ActionSpec, ArraySpec, ObsSpec


class Walk(gymnasium.Env):
    """Sums its actions from a random start; ends after 5 steps, by termination if the start is positive."""

    observation_space = spaces.Dict({"vector": spaces.Box(-np.inf, np.inf, (3,), np.float32)})
    action_space = spaces.Box(np.array([0.0, -2.0], np.float32), np.array([4.0, 2.0], np.float32))

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.x, self.t = np.append(self.np_random.normal(size=2), 0), 0
        self.sign = self.x[0] > 0
        return self._obs(), {}

    def step(self, action):
        self.x[:2] += action
        self.t += 1
        self.x[2] = self.t
        done = self.t == 5
        return self._obs(), float(action.sum()), done and self.sign, done and not self.sign, {}

    def _obs(self):
        return {"vector": self.x.astype(np.float32)}


class Echo(Agent):
    """Acts as a deterministic function of the features, and counts its own steps in its state."""

    def __init__(self) -> None:
        super().__init__(None, None)  # type: ignore[arg-type]
        self.counts: list[list[float]] = []

    def initial(self, n: int):
        return {"count": torch.zeros(n)}

    def act(self, model, carry, features, state, generator, explore):
        self.counts.append(state["count"].tolist())
        return torch.tanh(features[:, -2:]), {"count": state["count"] + 1}


def collector(envs: int = 3, hold: int = 1, env: type[gymnasium.Env] = Walk, workers: int = 0) -> Collector:
    model = build_model(obs=ObsSpec((("vector", ArraySpec("vector", (3,))),)))
    pool = EnvPool(env, envs, workers, seed=7)
    replay = Replay(record_schema(pool.observation_space, model.specs.action), 10_000, envs)
    return Collector(pool, replay, ActingAgent(model, Echo(), pool.action_space, gen()), hold)


def streams(made: Collector) -> list[dict[str, np.ndarray]]:
    """Return every record of each environment, in order, read through `sample`."""
    total = len(made.replay) // made.pool.num_envs
    out: list = [None] * made.pool.num_envs
    rng = np.random.default_rng(0)
    drawn = made.replay.sample(64, total, rng)
    starts = {tuple(drawn["vector"][i, 0]): i for i in range(64)}
    first = EnvPool(Walk, made.pool.num_envs, 0, seed=7).reset().obs["vector"]
    for env in range(made.pool.num_envs):
        row = starts[tuple(first[env])]
        out[env] = {key: value[row] for key, value in drawn.items()}
    return out


def driven_alone(records: dict[str, np.ndarray], pool_index: int, envs: int) -> None:
    """Replay the recorded actions in a twin pool and compare every number."""
    twin = EnvPool(Walk, envs, 0, seed=7)
    arrivals = twin.reset()
    t, length = 0, len(records["reward"])
    space = twin.action_space
    assert records["is_first"][0] and not records["prev_action"][0].any() and records["reward"][0] == 0
    np.testing.assert_array_equal(records["vector"][0], arrivals.obs["vector"][pool_index])
    while t + 1 < length:
        t += 1
        actions = np.zeros((envs, 2), np.float32)
        actions[pool_index] = records["prev_action"][t]
        arrivals = twin.step(decode_action(space, actions))
        np.testing.assert_array_equal(records["vector"][t], arrivals.obs["vector"][pool_index])
        assert records["reward"][t] == arrivals.reward[pool_index] and not records["is_first"][t]
        assert records["cont"][t] == float(not arrivals.terminated[pool_index])
        if arrivals.done[pool_index] and t + 1 < length:
            t += 1
            assert records["is_first"][t] and records["reward"][t] == 0 and records["cont"][t] == 1
            assert not records["prev_action"][t].any()
            assert arrivals.reset_obs is not None
            np.testing.assert_array_equal(records["vector"][t], arrivals.reset_obs["vector"][pool_index])


def test_replay_records_equal_an_independently_driven_environment():
    made = collector()
    made.start()
    rng = np.random.default_rng(3)
    taken = sum(made.step(rng) for _ in range(7)) + sum(made.step() for _ in range(8))
    assert taken == 45
    found = streams(made)
    ends = 0
    for env, records in enumerate(found):
        assert len(records["reward"]) == 1 + 15 + 3  # the first reset, the steps, three resets
        ends += int((records["cont"] == 0).sum())
        driven_alone(records, env, 3)
    assert 0 < ends < 9  # some episodes terminated, some were cut off
    assert [length for _, length in made.finished] == [5] * 9
    for ret, _ in made.finished:
        sums = [records["reward"][i + 1 : i + 6].sum() for records in found for i in (0, 6, 12)]
        assert np.isclose(sums, ret, atol=1e-4).any()


def test_recorded_actions_are_the_actions_of_the_environment():
    """Native actions are clipped and rescaled; the record is their encoding, not the agent's output."""
    made = collector(envs=1)
    made.start()
    for _ in range(4):
        made.step(np.random.default_rng(1))
    records = streams(made)[0]
    space = made.pool.action_space
    native = decode_action(space, records["prev_action"][1:])
    np.testing.assert_allclose(encode_action(space, native), records["prev_action"][1:], atol=1e-6)
    np.testing.assert_allclose(np.diff(records["vector"][:, :2], axis=0), native, atol=1e-5)


def test_the_agent_acts_on_the_filter_of_exactly_what_was_recorded():
    """Filter the recorded stream again with the same noise: its features give the action that was recorded next."""
    made = collector(envs=1)
    made.start()
    for _ in range(12):
        made.step()
    records = streams(made)[0]
    model, noise = made.acting.model, gen()
    carry, compared = model.initial(1), 0
    for t in range(len(records["reward"]) - 1):
        if records["is_first"][t + 1]:
            continue  # a final observation is recorded but nobody acts on it
        row = {key: torch.from_numpy(value[t : t + 1]) for key, value in records.items()}
        carry, features = model.filter(carry, {"vector": row["vector"]}, row["prev_action"], row["is_first"], noise)
        expected = torch.tanh(features[0, -2:]).detach().numpy()
        np.testing.assert_allclose(records["prev_action"][t + 1], expected, atol=1e-5)
        compared += 1
    assert compared == 12


def test_the_agents_state_is_reset_with_each_episode():
    made = collector(envs=1)
    made.start()
    for _ in range(12):
        made.step()
    counts = [row[0] for row in made.acting.agent.counts]  # type: ignore[union-attr]
    assert counts == [0, 1, 2, 3, 4] * 2 + [0, 1]


def test_the_filter_is_reset_after_random_steps():
    made = collector(envs=1)
    made.start()
    made.step()
    made.step(np.random.default_rng(0))
    made.step()
    assert [row[0] for row in made.acting.agent.counts] == [0, 0]  # type: ignore[union-attr]


def test_held_random_actions_repeat_within_an_episode_and_only_there():
    free, held = collector(envs=1), collector(envs=1, hold=4)
    for made in (free, held):
        made.start()
        rng = np.random.default_rng(0)
        for _ in range(40):
            made.step(rng)

    def repeats(made: Collector) -> int:
        action = streams(made)[0]["prev_action"]
        return int((np.abs(np.diff(action, axis=0)).max(1) == 0).sum())

    assert repeats(free) == 0 and repeats(held) > 10


def test_next_obs_takes_the_reset_observation_of_ended_episodes_only():
    pool = EnvPool(Walk, 2, 0, seed=7)
    pool.reset()
    for _ in range(5):
        arrivals = pool.step(np.zeros((2, 2), np.float32))
    assert arrivals.done.all() and arrivals.reset_obs is not None
    np.testing.assert_array_equal(next_obs(arrivals)["vector"], arrivals.reset_obs["vector"])
    later = pool.step(np.zeros((2, 2), np.float32))
    np.testing.assert_array_equal(next_obs(later)["vector"], later.obs["vector"])


def test_random_actions_are_uniform_and_encoded():
    rng = np.random.default_rng(0)
    discrete = random_actions(ActionSpec("discrete", 3), 3000, rng)
    assert discrete.dtype == np.float32 and (discrete.sum(1) == 1).all()
    assert np.abs(discrete.mean(0) - 1 / 3).max() < 0.04
    continuous = random_actions(ActionSpec("continuous", 2), 3000, rng)
    assert np.abs(continuous).max() <= 1 and np.abs(continuous.var(0) - 1 / 3).max() < 0.03


def test_to_batch_keeps_every_number_and_scales_the_observation_once():
    made = collector(envs=1)
    made.start()
    for _ in range(9):
        made.step(np.random.default_rng(0))
    sampled = made.replay.sample(4, 6, np.random.default_rng(0))
    preprocess = made.acting.model.preprocess
    batch = to_batch(sampled, preprocess, torch.device("cpu"))
    for key in ("prev_action", "reward", "cont", "is_first"):
        np.testing.assert_array_equal(getattr(batch, key).numpy(), sampled[key])
    scaled = np.sign(sampled["vector"]) * np.log1p(np.abs(sampled["vector"]))
    np.testing.assert_allclose(batch.obs["vector"].numpy(), scaled, atol=1e-6)
    assert batch.mask.all()


class EpisodeAgent(Echo):
    """Records the returns of its episodes."""

    def __init__(self) -> None:
        super().__init__()
        self.received: list[tuple[float, float]] = []

    def after_episode(self, state, ret):
        self.received.append((float(state["count"]), ret))

    def idle(self, state):
        return torch.zeros_like(state["count"], dtype=torch.bool)

    def metrics(self):
        return {"received": len(self.received)}


class IdleAgent(EpisodeAgent):
    """Is idle in environment 1 from its second decision on, until two other episodes have ended."""

    def idle(self, state):
        idle = (state["count"] > 1) & (len(self.received) < 2)
        return idle & (torch.arange(len(idle)) == 1)


def test_an_agent_that_learns_from_episodes_gets_the_returns_of_its_own_episodes_only():
    made = collector()
    agent = EpisodeAgent()
    made.acting.agent = agent
    made.start()
    rng = np.random.default_rng(0)
    for _ in range(5):
        made.step(rng)  # every episode ends once, played at random
    assert len(made.finished) == 3 and agent.received == []
    for _ in range(10):
        made.step()
    assert len(made.finished) == 9
    assert agent.received == [
        (5.0, ret) for ret, _ in made.finished[3:]
    ]  # five decisions each: its own state at the end


def test_an_agent_that_learns_from_episodes_starts_with_new_episodes():
    made = collector()
    agent = EpisodeAgent()
    made.acting.agent = agent
    made.start()
    for _ in range(2):
        made.step(np.random.default_rng(0))
    for _ in range(5):
        made.step()
    assert [length for _, length in made.finished] == [5] * 3
    assert agent.received == [(5.0, ret) for ret, _ in made.finished]
    for records in streams(made):  # a reset, two random steps, a reset, five steps, a reset
        assert np.flatnonzero(records["is_first"]).tolist() == [0, 3, 9]
        assert records["cont"][2] == 1


def test_an_idle_environment_is_not_stepped_recorded_or_counted():
    made = collector()
    agent = IdleAgent()
    made.acting.agent = agent
    made.start()
    taken = [made.step() for _ in range(9)]
    # Environment 1 takes a step, is idle until two other episodes end, then continues where it was.
    assert taken == [3, 2, 2, 2, 2, 3, 3, 3, 3]
    assert [length for _, length in made.finished] == [5] * 3
    ends = sorted(made.finished)
    assert sorted(ret for _, ret in agent.received) == [ret for ret, _ in ends]
    twin = EnvPool(Walk, 3, 0, seed=7)
    alone = twin.reset().obs["vector"][1]
    records = made.replay.sample(64, 6, np.random.default_rng(0))
    rows = [i for i in range(64) if np.array_equal(records["vector"][i, 0], alone)]
    assert rows and (records["vector"][rows[0], :, 2] == [0, 1, 2, 3, 4, 5]).all()


# ---- continuing ----


class Drifting(Walk):
    """A walk whose start depends on more than the seed."""

    resets = 0

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        Drifting.resets += 1
        self.x[1] += Drifting.resets
        return self._obs(), {}


def through_a_checkpoint(made: Collector, env: type[gymnasium.Env] = Walk, workers: int = 0) -> Collector:
    """Return a collector in a new process, so to say, that continues `made` from its saved state and its replay."""
    tensors, state = made.state()
    again = collector(made.pool.num_envs, made.hold, env, workers)
    again.replay = made.replay
    again.acting.model.load_state_dict(made.acting.model.state_dict())
    again.acting.generator.set_state(made.acting.generator.get_state())
    again.restore({name: tensor.clone() for name, tensor in tensors.items()}, json.loads(json.dumps(state)))
    again.start()  # of no effect
    return again


@pytest.mark.parametrize("prefill", [3, 7])  # in the first episode, and in the second with the agent's filter running
@pytest.mark.parametrize("workers", [0, 1])
def test_a_restored_collector_continues_as_the_interrupted_one_would_have(prefill, workers):
    whole, cut = collector(hold=3), collector(hold=3)
    for made in (whole, cut):
        made.start()
        rng = np.random.default_rng(3)
        for _ in range(prefill):
            made.step(rng)
        for _ in range(4):
            made.step()
    cut = through_a_checkpoint(cut, workers=workers)
    for made in (whole, cut):
        made.finished.clear()
        for _ in range(9):
            made.step()
    found, expected = streams(cut), streams(whole)
    for one, other in zip(found, expected, strict=True):
        for key in one:
            np.testing.assert_array_equal(one[key], other[key])
    assert cut.finished == whole.finished and len(cut.finished) >= 3
    cut.pool.close()


def test_random_actions_are_held_across_a_checkpoint():
    whole, cut = collector(hold=4), collector(hold=4)
    rngs = np.random.default_rng(3), np.random.default_rng(3)
    for made, rng in zip((whole, cut), rngs, strict=True):
        made.start()
        made.step(rng)
        made.step(rng)
    cut = through_a_checkpoint(cut)
    for _ in range(6):
        for made, rng in zip((whole, cut), rngs, strict=True):
            made.step(rng)
    for one, other in zip(streams(cut), streams(whole), strict=True):
        np.testing.assert_array_equal(one["prev_action"], other["prev_action"])


def test_an_environment_that_does_not_repeat_an_episode_is_found_out():
    made = collector(env=Drifting)
    made.start()
    made.step(np.random.default_rng(0))
    with pytest.raises(Unrepeatable, match=r"environment 0 did not repeat its episode \(step 0\)"):
        through_a_checkpoint(made, Drifting)


def test_what_a_checkpoint_of_other_settings_or_of_a_broken_step_holds_is_refused():
    made = collector()
    made.start()
    made.step()
    tensors, state = made.state()
    for wrong in ({**tensors, "state.agent.count": torch.zeros(2)}, {"first": tensors["first"]}):
        with pytest.raises(Unrepeatable, match="does not fit this configuration"):
            collector().restore(wrong, state)
    made.begin()  # and the environment fails: there is no end
    with pytest.raises(Unrepeatable, match="an environment had failed"):
        collector().restore(*made.state())


def test_one_in_ten_episodes_is_played_by_held_random_actions(monkeypatch):
    made, rng, chosen, agents = collector(1), np.random.default_rng(0), [], {}
    choose = made.acting.choose
    monkeypatch.setattr(made.acting, "choose", lambda *args, **kw: chosen.append(choose(*args, **kw)) or chosen[-1])
    made.start()
    for _ in range(5 * 26):
        number = made.pool.episodes[0].number
        made.begin(rng, prefill=False)
        played = encode_action(made.pool.action_space, made._action)
        np.testing.assert_allclose(made._state["action"], played, atol=1e-6)  # the filter reads what was played
        agents.setdefault(number, []).append(np.allclose(chosen[-1][0], played, atol=1e-6))
        made.end()
    assert [number for number, own in agents.items() if not any(own)] == [5, 15, 25]
    assert all(all(own) for number, own in agents.items() if number % 10 != 5)
    actions = streams(made)[0]["prev_action"]
    begin = 6 * 5 + 1  # of episode 5, after its reset: each episode has 5 steps and a reset
    assert len(np.unique(actions[begin : begin + 5], axis=0)) < 5  # held
