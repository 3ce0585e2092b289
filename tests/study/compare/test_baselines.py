"""Baselines without a world model: evaluated like models, in environments with known returns."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from worldlab.config.resolve import resolve
from worldlab.errors import ConfigError
from worldlab.registry import load_registry
from worldlab.settings import CoreSettings, EvalSettings
from worldlab.study.compare.baselines import FixedPolicy, evaluate_fixed, run_random, spaces_of, video_key
from worldlab.study.compare.model_free import UpscaledImages, algorithm_for, choose_sizes, run_model_free
from worldlab.study.results import Trial

REGISTRY = load_registry()
BLANK = Trial("m", "e", 0, "missing")


class Pays(gymnasium.Env):
    """Ten steps; the reward is 1 if the agent presses the button that the observation shows."""

    observation_space = spaces.Dict({"button": spaces.Box(0, 1, (1,), np.float32)})
    action_space: spaces.Space = spaces.Discrete(2)

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.t = 0
        return self._obs(), {}

    def step(self, action):
        self.t += 1
        reward = float(int(action) == int(self.button))
        return self._obs(), reward, self.t == 10, False, {}

    def _obs(self):
        self.button = self.np_random.integers(2)
        return {"button": np.array([self.button], np.float32)}


class Adapter:
    """Builds `Pays` under one name."""

    def names(self):
        return ["pays"]

    def resolve(self, id):
        return id if id == "pays" else None

    def make(self, id, settings):
        return Pays()


class Registry:
    plugin_files = ()

    def names(self, role):
        return ("pays",) if role == "env" else ()

    def get(self, role, name):
        return self

    def load(self):
        return Adapter()


def config(**settings) -> Any:
    flags = {"env": {"id": "pays"}, "strict": True, "device": "cpu", "steps": 600, **settings}
    return resolve(REGISTRY, presets=["debug"], flags=flags)


def test_fixed_policies_are_evaluated_by_the_common_protocol():
    core = CoreSettings()
    knows = FixedPolicy(lambda obs: np.eye(2, dtype=np.float32)[obs["button"][:, 0].astype(int)])
    outcome = evaluate_fixed(knows, Pays, core, 7, None)
    assert outcome.returns == [10.0] * 7 and outcome.lengths == [10] * 7 and outcome.frames == []
    wrong = FixedPolicy(lambda obs: np.eye(2, dtype=np.float32)[1 - obs["button"][:, 0].astype(int)])
    assert evaluate_fixed(wrong, Pays, core, 3, None).returns == [0.0] * 3


def test_random_play_has_the_expected_return_and_repeats_by_seed(tmp_path):
    one, same, other = (
        run_random(BLANK, config(eval={"final_episodes": 100}, seed=seed), Registry(), tmp_path)  # type: ignore[arg-type]
        for seed in (0, 0, 1)
    )
    assert one.returns == same.returns != other.returns and len(one.returns) == 100
    for trial in (one, other):
        assert trial.status == "finished" and trial.env_steps == 0 and trial.curve == ((0, trial.score),)
        assert abs(trial.score - 5) < 5 * np.sqrt(10 / 4 / 100)  # 5 standard errors of a binomial mean


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:You have specified a mini-batch size")
def test_model_free_training_has_the_steps_and_evaluations_of_models(tmp_path):
    run_config = config(steps=600, eval={"every": 250, "episodes": 4, "final_episodes": 20}, seed=1)
    one, same = (run_model_free(BLANK, run_config, Registry(), tmp_path) for _ in range(2))  # type: ignore[arg-type]
    assert one.returns == same.returns and one.curve == same.curve
    assert one.env_steps == 600 and [step for step, _ in one.curve] == [250, 500, 600]
    assert one.updates == 10 * -(-600 // 64)  # PPO's 10 epochs over minibatches of 64
    assert one.curve[-1][1] == one.score > 5 + 3 * np.sqrt(10 / 4 / 20)  # it has learned something
    assert one.parameters > 1000 and len(one.returns) == 20


@pytest.mark.parametrize(
    ("name", "steps", "size", "used"),
    [("PPO", 600, 600, 600), ("PPO", 2048, 2048, 2048), ("PPO", 8000, 2000, 8000), ("PPO", 10_007, 2001, 10_005),
     ("A2C", 12, 4, 12), ("SAC", 600, 600, 600), ("SAC", 2_000_000, 1_000_000, 2_000_000)],
)  # fmt: skip
def test_sizes_leave_no_rollout_unlearned_and_no_buffer_empty(name, steps, size, used):
    import stable_baselines3

    sizes, total = choose_sizes(getattr(stable_baselines3, name), steps)
    assert (list(sizes.values()), total) == ([size], used)


def test_the_default_algorithm_depends_on_the_action_space():
    button, lever = spaces.Discrete(3), spaces.Box(-1, 1, (2,))
    assert (algorithm_for(button), algorithm_for(lever), algorithm_for(button, "DQN")) == ("PPO", "SAC", "DQN")
    with pytest.raises(ConfigError, match=r"no model-free algorithm named 'PP0'. Did you mean 'PPO'\?"):
        algorithm_for(button, "PP0")
    with pytest.raises(ConfigError, match="model-free:DQN does not support this action space"):
        algorithm_for(lever, "DQN")


class Shows(Pays):
    """`Pays` with images of 10 x 16 pixels."""

    observation_space = spaces.Dict(
        {"button": spaces.Box(0, 1, (1,), np.float32), "image": spaces.Box(0, 255, (10, 16, 3), np.uint8)}
    )

    def _obs(self):
        image = np.arange(480, dtype=np.uint16).astype(np.uint8).reshape(10, 16, 3)
        return {**super()._obs(), "image": image}


def test_small_images_are_upscaled_by_whole_pixels():
    plain, env = Shows(), UpscaledImages(Shows())
    (small, _), (large, _) = plain.reset(seed=0), env.reset(seed=0)
    assert env.observation_space.contains(large) and large["image"].shape == (40, 64, 3)
    for row, column in ((0, 0), (3, 3), (1, 2)):  # each pixel is four by four
        assert np.array_equal(large["image"][row::4, column::4], small["image"])
    assert np.array_equal(large["button"], small["button"])
    both = env.observation({"image": np.stack([small["image"]] * 2)})
    assert np.array_equal(both["image"][1], large["image"])
    assert video_key(spaces_of(Shows)[0]) == "image" and video_key(spaces_of(Pays)[0]) is None


def test_evaluation_does_not_use_the_random_stream_of_training():
    from worldlab.study.compare.model_free import PeriodicEval

    judge = PeriodicEval(lambda episodes, record: torch.rand(episodes), CoreSettings())  # type: ignore[arg-type, return-value]
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    first, second = judge(5), judge(5)
    assert torch.equal(torch.rand(2), expected) and torch.equal(first, second)  # type: ignore[arg-type]


def test_model_free_training_has_the_time_limit_of_models(monkeypatch):
    from worldlab.study.compare import model_free

    now = [0.0]
    monkeypatch.setattr(model_free.time, "monotonic", lambda: now[0])
    timed, free = (
        model_free.PeriodicEval(
            lambda episodes, record: None, CoreSettings(minutes=minutes, eval=EvalSettings(every=0))
        )  # type: ignore[arg-type, return-value]
        for minutes in (2.0, None)
    )
    for judge in (timed, free):
        judge.num_timesteps = 5
    assert timed._on_step() and free._on_step()
    now[0] = 121.0
    assert not timed._on_step() and free._on_step()
