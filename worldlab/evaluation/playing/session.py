"""One person's game: the real environment, the models that filter and dream beside it, and who drives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import gymnasium
import numpy as np
import torch

from worldlab.env.spaces import decode_action
from worldlab.errors import ConfigError, EnvCrashedError, EnvError, WorldlabError, is_from_user, one_line
from worldlab.evaluation.open_loop import CONTEXT_FRAMES
from worldlab.evaluation.playing.codes import Codes
from worldlab.evaluation.playing.controls import Controls, controls_of
from worldlab.evaluation.playing.futures import Act, Futures, dream_futures, follow_agent, follow_plan
from worldlab.evaluation.playing.noise import Noise
from worldlab.evaluation.playing.views import Drawing, PlayedModel, View, draw_view, view_after
from worldlab.rollout import Carry

Driver = Literal["person", "agent", "plan"]
MOST_FUTURES = 12
"""Futures with a different action each; an environment of more actions shows the first ones."""
TIMELINE = 1000
"""Moments that are kept; the oldest is dropped for a new one."""


@dataclass
class Moment:
    """One step of the episode, aligned by arrival: `action` led to `obs` and gave `reward`.

    action: encoded [A], 0 at the start. ret: the sum of the rewards up to here. dreamt_for: steps since the dreams began;
    0 while they follow reality. rendering: uint8 [H, W, 3] where the observation has no image and the environment can
    draw.
    """

    number: int
    obs: dict[str, np.ndarray]
    action: np.ndarray
    reward: float
    ret: float
    terminated: bool
    truncated: bool
    dreamt_for: int
    views: list[View]
    rendering: np.ndarray | None = field(default=None, repr=False)

    @property
    def ended(self) -> bool:
        return self.terminated or self.truncated


class PlaySession:
    """Steps one environment, and for each model the filtered state and the dream along the same actions.

    make: builds the environment. models: the first one's agent drives, and all must have its spaces. A dream begins
    CONTEXT_FRAMES steps after the start of an episode, as in `worldlab dream`, or when `begin_dream` is called. Nothing is
    written anywhere.
    """

    def __init__(self, make: Callable[[], gymnasium.Env], models: Sequence[PlayedModel], seed: int = 0):
        self.models = list(models)
        self.env = make()
        self.controls: Controls = controls_of(self.env)
        self.noise = Noise(seed=seed)
        self.driver: Driver = "person"
        self.pressed = self.controls.rest
        self.plan: list[np.ndarray] = []
        self.moments: list[Moment] = []
        self._episodes = np.random.SeedSequence(seed)
        self._generators: list[torch.Generator | None] = []
        self._agent: Act | None = None
        try:
            self.reset()
        except BaseException:
            self.close()
            raise

    # ---- the episode ----

    @property
    def now(self) -> Moment:
        """The newest moment."""
        return self.moments[-1]

    def at(self, number: int) -> Moment:
        """Return a moment by its number. Raises: ConfigError if it is not on the timeline."""
        first = self.moments[0].number
        if not first <= number <= self.now.number:
            raise ConfigError(
                f"step {number} is not on the timeline",
                cause=f"it holds the steps {first} to {self.now.number}",
                fix="choose one of these",
            )
        return self.moments[number - first]

    def reset(self) -> Moment:
        """Start a new episode."""
        seed = int(self._episodes.spawn(1)[0].generate_state(1)[0] % 2**31)
        obs, _ = self._guarded("reset", lambda: self.env.reset(seed=seed))
        self.moments, self.plan = [], []
        self._agent = None
        idle = np.zeros(self.models[0].model.specs.action.dim, np.float32)
        return self._add(obs, idle, 0.0, False, False)

    def step(self) -> Moment:
        """Take one step with the action of whoever drives. After the end of an episode nothing happens."""
        if self.now.ended:
            return self.now
        action = self._choose()
        native = decode_action(self.controls.space, action)
        obs, reward, terminated, truncated, _ = self._guarded("step", lambda: self.env.step(native))
        return self._add(obs, action, float(reward), bool(terminated), bool(truncated))

    def begin_dream(self) -> None:
        """Let the dreams of all models begin anew from the present moment."""
        self.now.dreamt_for = 0
        for view in self.now.views:
            view.dream_carry, view.dream_features, view.dreamt = view.carry, view.features, view.seen
            view.drawing = None
        self._start_noise()

    def set_noise(self, noise: Noise) -> None:
        """Change the noise of dreams, those in progress included.

        Raises: ConfigError if a dynamics has no such temperature.
        """
        if noise.temperature != 1.0:
            for played in self.models:
                played.model.check_temperature(noise.temperature)
        same = replace(noise, temperature=self.noise.temperature) == self.noise
        self.noise = noise
        if not same:
            self._start_noise()

    def close(self) -> None:
        """Close the environment, whatever it raises."""
        try:
            self.env.close()
        except BaseException as error:
            if isinstance(error, KeyboardInterrupt) and is_from_user(error):
                raise

    # ---- pictures, futures, codes ----

    def draw(self, moment: Moment) -> list[Drawing | None]:
        """Draw what each model makes of a moment; None for a model that cannot draw. It takes as long as the decoder."""
        return [
            draw_view(played, view, moment.obs) if played.draws else None
            for played, view in zip(self.models, moment.views, strict=True)
        ]

    def branch(
        self,
        number: int,
        *,
        model: int = 0,
        count: int = 4,
        horizon: int = 20,
        actions: Literal["agent", "real", "hold", "each"] = "agent",
        codes: dict[int, float] | None = None,
    ) -> Futures:
        """Dream several futures of a moment with one of the models.

        actions: of the agent, those that were really taken, the one that is pressed now, or a different one in each
        future (`count` then does not matter). codes: numbers of the latent that are changed before (`Codes`).
        """
        played, moment = self.models[model], self.at(number)
        carry = self.changed(number, model, codes or {})
        labels = tuple(f"future {index + 1}" for index in range(count))
        act, labels = self._futures_act(played, moment, actions, labels)
        return dream_futures(played, carry, act, horizon, self.noise, labels)

    def changed(self, number: int, model: int, codes: dict[int, float]) -> Carry:
        """Return the filtered state of a model at a moment, with some numbers of its latent changed."""
        carry = self.at(number).views[model].carry
        return self.codes(model).changed_carry(carry, codes) if codes else carry

    def codes(self, model: int) -> Codes:
        """Return how the latent of a model is shown."""
        return Codes(self.models[model].model.specs.latent)

    def dream_on(self, model: int, codes: dict[int, float]) -> None:
        """Let the dreams begin anew from the present moment, that of one model with a changed latent."""
        carry = self.changed(self.now.number, model, codes)
        self.begin_dream()
        view = self.now.views[model]
        view.dream_carry, view.dream_features = carry, self.models[model].model.features(carry)

    def drive(self, driver: Driver, plan: np.ndarray | None = None) -> None:
        """Choose who drives. plan: encoded actions [H, A] for "plan", after whose end the person drives again."""
        self.driver = driver
        self.plan = [] if plan is None else list(plan)
        self._agent = None

    # ---- parts ----

    def _choose(self) -> np.ndarray:
        """Return the encoded action [A] of whoever drives."""
        if self.driver == "plan" and not self.plan:
            self.driver = "person"
        if self.driver == "plan":
            return self.plan.pop(0)
        if self.driver == "agent":
            return self._choose_by_agent()
        return self.controls.encode(self.pressed)

    @torch.no_grad()
    def _choose_by_agent(self) -> np.ndarray:
        """Return the action of the first model's agent, which keeps its own state (a planner's plan) between steps."""
        view = self.now.views[0]
        self._agent = self._agent or follow_agent(self.models[0], 1)
        return self._agent(view.carry, view.features, 0)[0].cpu().numpy()

    def _futures_act(
        self, played: PlayedModel, moment: Moment, actions: str, labels: tuple[str, ...]
    ) -> tuple[Act, tuple[str, ...]]:
        device = played.model.device
        if actions == "agent":
            return follow_agent(played, len(labels)), labels
        if actions == "each":
            named = self.controls.every()[:MOST_FUTURES]
            plan = np.stack([action for _, action in named])[:, None]
            return follow_plan(plan, device), tuple(name for name, _ in named)
        if actions == "real":
            later = [step.action for step in self.moments if step.number > moment.number]
            plan = np.stack(later or [self.controls.encode(self.pressed)])
        else:
            plan = self.controls.encode(self.pressed)[None]
        return follow_plan(np.repeat(plan[None], len(labels), 0), device), labels

    def _add(self, obs: Any, action: np.ndarray, reward: float, terminated: bool, truncated: bool) -> Moment:
        """Add a moment to the timeline."""
        before = self.moments[-1] if self.moments else None
        number = before.number + 1 if before else 0
        dreaming = number >= CONTEXT_FRAMES
        if not self._generators or number == 0:
            self._start_noise()
        views = [
            view_after(
                played,
                before.views[index] if before else None,
                action,
                obs,
                dreaming=dreaming,
                generator=self._generators[index],
                temperature=self.noise.temperature,
            )
            for index, played in enumerate(self.models)
        ]
        dreamt_for = before.dreamt_for + 1 if before and dreaming else 0
        ret = reward + (before.ret if before else 0.0)
        moment = Moment(number, obs, action, reward, ret, terminated, truncated, dreamt_for, views, self._render(obs))
        self.moments.append(moment)
        del self.moments[:-TIMELINE]
        return moment

    def _start_noise(self) -> None:
        self._generators = [self.noise.generator(played.model.device) for played in self.models]

    def _render(self, obs: dict[str, np.ndarray]) -> np.ndarray | None:
        """Return the environment's own picture, where the observation has none."""
        if any(value.ndim == 3 for value in obs.values()) or self.env.render_mode != "rgb_array":
            return None
        picture = self._guarded("render", self.env.render)
        return np.asarray(picture) if getattr(picture, "dtype", None) == np.uint8 else None

    def _guarded(self, doing: str, work: Callable[[], Any]) -> Any:
        """Run code of the environment. Raises: EnvError, whatever that code raises."""
        try:
            return work()
        except WorldlabError:
            raise
        except BaseException as error:
            if is_from_user(error) or isinstance(error, SystemExit | GeneratorExit):
                raise
            raise EnvCrashedError(
                one_line(f"the environment failed in {doing}: {type(error).__name__}"),
                cause=one_line(error, 300),
                fix="worldlab check-env ID runs it alone",
            ) from error


def check_same_spaces(first: PlayedModel, other: PlayedModel) -> None:
    """Check that two models can be played in one environment. Raises: EnvError that names what differs."""
    for what in ("obs", "action"):
        one, two = getattr(first.model.specs, what), getattr(other.model.specs, what)
        if one != two:
            raise EnvError(
                one_line(f"{first.name} and {other.name} cannot be played side by side"),
                cause=f"their {'observations' if what == 'obs' else 'actions'} differ: {one} and {two}"[:400],
                fix="choose runs of one environment with the same env.* settings, or play each alone",
            )
