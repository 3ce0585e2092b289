"""The Python interface: `train`, `resume` and `load` return a `Run`."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from worldlab.config.provenance import check_env_module, env_module, resolve_saved
from worldlab.config.resolve import RunConfig
from worldlab.registry import Registry, open_registry
from worldlab.runs.find import checked_run_path, find_run, new_run_path
from worldlab.runs.folder import RunFolder
from worldlab.runs.metrics import read_metrics

if TYPE_CHECKING:
    import gymnasium

    from worldlab.evaluation.dream_env import DreamVecEnv
    from worldlab.experience.acting import ActingAgent
    from worldlab.training.loaded import LoadedRun
    from worldlab.world_model import WorldModel

Settings = Mapping[str, Any]
PathLike = str | Path


def train(
    env: str | None = None,
    *,
    encoder: str | None = None,
    dynamics: str | None = None,
    decoder: str | None = None,
    agent: str | None = None,
    preset: str | Sequence[str] = (),
    config: PathLike | None = None,
    settings: Settings | None = None,
    plugins: Sequence[PathLike] = (),
    run: PathLike | None = None,
    resume: bool = False,
    **core: Any,
) -> Run:
    """Train a run to its end, as `worldlab train` does, and return it.

    settings: by dotted path, {"train.ratio": 0.3, "encoder.latent_dim": 48}, or nested. core: settings without a group,
    such as steps, seed, minutes, device and strict. run: the run folder (default: a new one under runs/). resume: if
    that run exists, continue it; its own settings then count, overridden by these. plugins: plugin files.
    Raises: a WorldlabError for wrong names and values; KeyboardInterrupt on Ctrl-C, after a checkpoint is saved.
    """
    from worldlab.training import train as training
    from worldlab.training.data import resolve_run

    registry = _open_registry(plugins)
    flags = _nest({**core, **(settings or {})})
    parts = {"encoder": encoder, "dynamics": dynamics, "decoder": decoder, "agent": agent}
    for role, name in parts.items():
        if name is not None:
            flags.setdefault(role, {})["name"] = name
    if env is not None:
        flags.setdefault("env", {})["id"] = env
    presets = [preset] if isinstance(preset, str) else list(preset)
    own = None if run is None or not resume else Path(run) / "config.toml"
    files = [file for file in (own if own and own.is_file() else None, config) if file is not None]
    resolved = resolve_run(registry, presets=presets, files=[Path(file) for file in files], flags=flags)
    if own in files:
        check_env_module(resolved, registry, (), flags)
    folder = new_run_path(resolved.core.env.id) if run is None else checked_run_path(str(run))
    _run_interruptible(lambda: training.train(resolved, registry, run=folder, resume=resume))
    return Run(folder, registry, trusted=_modules(resolved, registry))


def resume(
    run: PathLike = "latest",
    *,
    plugins: Sequence[PathLike] = (),
    settings: Settings | None = None,
    trust_env: str | None = None,
) -> Run:
    """Resume a run from its newest checkpoint. settings: changes, such as {"steps": 20_000}.

    trust_env: the module that its environment may import, if its id is "module:Id". Raises: as `train`.
    """
    from worldlab.training import train as training

    registry, folder = _open_registry(plugins), find_run(str(run))
    trusted = _trusted(trust_env)
    resolved = resolve_saved(folder, registry, _nest(settings or {}), trusted)
    _run_interruptible(lambda: training.train(resolved, registry, run=folder, resume=True))
    return Run(folder, registry, trusted=_modules(resolved, registry))


def load(
    run: PathLike = "latest",
    *,
    plugins: Sequence[PathLike] = (),
    device: str = "auto",
    trust_env: str | None = None,
    best: bool = False,
) -> Run:
    """Open a run by folder, by name under runs/, "latest", or from a store ("hf:user/name"). It is read on first use.

    best: use the weights of its best evaluation, instead of the last ones.
    trust_env: the module that its environment may import, if its id is "module:Id": a run of somebody else imports none
    without your word. Raises: ConfigError if there is no such run.
    """
    registry = _open_registry(plugins)
    return Run(find_run(str(run), registry=registry), registry, device, _trusted(trust_env), best=best)


class Run:
    """A trained run. Weights and environment are loaded on first use. Only `dream` writes files."""

    def __init__(
        self,
        path: Path,
        registry: Registry,
        device: str = "auto",
        trusted: Collection[str] = (),
        *,
        best: bool = False,
    ):
        self.path = path
        self._trusted = trusted
        self._registry = registry
        self._device = device
        self._best = best

    def __repr__(self) -> str:
        return f"Run({str(self.path)!r})"

    @cached_property
    def config(self) -> RunConfig:
        """The whole configuration."""
        return resolve_saved(self.path, self._registry, trusted=self._trusted)

    @property
    def result(self) -> dict[str, Any] | None:
        """The content of result.json (the final evaluation), or None if the run has not finished."""
        return RunFolder(self.path).read_result()

    @property
    def metrics(self) -> list[dict[str, Any]]:
        """The lines of metrics.jsonl: {"step": ..., "loss/reward": ..., "eval/return": ...}."""
        return read_metrics(self.path / "metrics.jsonl")

    @property
    def world_model(self) -> WorldModel:
        """The world model: `filter`, `imagine`, `step`, `render` (worldlab.world_model)."""
        return self._loaded.composed.model

    @cached_property
    def agent(self) -> ActingAgent:
        """The agent, with the `predict(observation, state, episode_start, deterministic)` of Stable-Baselines3."""
        return self._loaded.acting(seed=0)

    def make_env(self) -> gymnasium.Env[Any, Any]:
        """Build the environment with all wrappers: a gymnasium.Env with Dict observations."""
        return self._loaded.make()

    def evaluate(self, episodes: int | None = None, *, seed: int | None = None) -> dict[str, Any]:
        """Play episodes in the real environment. Returns `return_mean`, `returns`, `lengths`, `protocol` and others."""
        from worldlab.training.loaded import evaluate_run

        return evaluate_run(self._loaded, episodes=episodes, seed=seed)

    def dream(self, *, horizon: int = 45, count: int = 4, seed: int = 0, out: PathLike | None = None) -> dict[str, Any]:
        """Draw open-loop predictions next to the real frames.

        Returns `files` (PNG and WebP), `rmse_by_step` and others.
        """
        from worldlab.training.loaded import draw_dreams

        target = None if out is None else Path(out)
        return draw_dreams(self._loaded, out=target, horizon=horizon, count=count, seed=seed)

    def dream_env(
        self, num_envs: int = 64, horizon: int = 15, *, temperature: float = 1.0, seed: int = 0
    ) -> DreamVecEnv:
        """Return the dream as a Stable-Baselines3 VecEnv: `PPO("MlpPolicy", run.dream_env()).learn(10_000)`.

        Observations are the model's features; actions are the environment's (continuous ones in [-1, 1]). Dreams start
        from states that the agent visits in fresh episodes, with exploration on. horizon: steps after which a dream is
        truncated. temperature: of the prior. `run.dream_env().pool` is the input
        of worldlab.evaluation.dream_env.DreamVectorEnv and DreamEnv.
        Raises: ConfigError if the dynamics does not support the temperature.
        """
        from worldlab.evaluation.dream_env import DreamVecEnv
        from worldlab.training.loaded import dream_pool

        return DreamVecEnv(
            dream_pool(self._loaded, num_envs=num_envs, horizon=horizon, temperature=temperature, seed=seed)
        )

    @cached_property
    def _loaded(self) -> LoadedRun:
        from worldlab.training.loaded import load_run

        return load_run(self.path, self._registry, self._device, self._trusted, best=self._best)


def _open_registry(plugins: Sequence[PathLike]) -> Registry:
    return open_registry([Path(file) for file in plugins])


def _trusted(module: str | None) -> Collection[str]:
    return () if module is None else (module,)


def _modules(config: RunConfig, registry: Registry) -> Collection[str]:
    """Return the module that the user has named in the environment's id, if any."""
    return _trusted(env_module(config.core.env.id, registry))


def _nest(settings: Settings) -> dict[str, Any]:
    """Nest dotted keys: {"a.b": 1} and {"a": {"b": 1}} both become {"a": {"b": 1}}."""
    out: dict[str, Any] = {}
    for path, value in settings.items():
        *groups, leaf = path.split(".")
        node = out
        for group in groups:
            node = node.setdefault(group, {})
        if isinstance(value, Mapping):
            node.setdefault(leaf, {}).update(_nest(value))
        else:
            node[leaf] = value
    return out


def _run_interruptible(work: Callable[[], object]) -> None:
    """Run `work` and turn the exit code of an interrupted run into a KeyboardInterrupt, which suits Python sessions."""
    try:
        work()
    except SystemExit as stop:
        raise KeyboardInterrupt("the run was stopped; its checkpoint is saved: worldlab.resume(run)") from stop


__all__ = ["Run", "load", "resume", "train"]
