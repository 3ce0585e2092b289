"""Measures a run: loads it, records or loads the episodes, and runs each group of measures."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from functools import partial
from pathlib import Path

import gymnasium
import numpy

import worldlab
from worldlab.agent import LearnsFromEpisodes
from worldlab.config.provenance import env_module
from worldlab.env.find import open_adapter
from worldlab.errors import ConfigError, StorageError, WorldlabError
from worldlab.experience.acting import ActingAgent
from worldlab.registry import Registry
from worldlab.runs import storage
from worldlab.runs.checkpoint import MANIFEST, latest_valid
from worldlab.study.compare.code import code_digest
from worldlab.study.compare.identity import CELL, env_source
from worldlab.study.measures.cache import Arrays, load_or_make
from worldlab.study.measures.catalogue import MeasureGroup, select
from worldlab.study.measures.measured_model import MeasuredModel
from worldlab.study.measures.recording import Recording, record
from worldlab.study.measures.sample_sizes import SampleSizes
from worldlab.study.measures.training_episodes import load_training_episodes
from worldlab.study.measures.undefined import Undefined
from worldlab.study.results import Measurement
from worldlab.training.compose import compose
from worldlab.training.loaded import LoadedRun, load_run
from worldlab.training.session import spaces_of
from worldlab.training.streams import Streams
from worldlab.world_model import WorldModel


def measure_run(
    run: Path,
    registry: Registry,
    seed: int,
    names: Sequence[str] | None,
    sizes: SampleSizes,
    reference: Path | None,
    cache: Path | None,
    trusted: Collection[str],
) -> dict[str, Measurement]:
    """Measure a run; see `worldlab.study.measures.measure`."""
    groups, wanted = select(names)
    loaded = load_run(run, registry, trusted=trusted)
    subject = _prepare(loaded, registry, seed, sizes, reference, cache)
    out: dict[str, Measurement] = {}
    for group in groups:
        out |= measure_group(group, subject)
    return {name: value for name, value in out.items() if name in wanted}


def measure_group(group: MeasureGroup, subject: MeasuredModel) -> dict[str, Measurement]:
    """Measure all quantities of a group; each has a value or the reason why it is undefined."""
    names = [quantity.name for quantity in group.quantities]
    try:
        values = group.load()(subject)
    except StorageError:
        raise  # a failed write is no property of the model
    except (Undefined, WorldlabError) as error:
        why = error.message if isinstance(error, WorldlabError) else str(error)
        return {name: Measurement(None, why=why) for name in names}
    assert set(values) == set(names), f"{group.name} and its catalogue differ in {sorted(set(values) ^ set(names))}"
    return {name: values[name] for name in names}


def load_or_record(
    run: LoadedRun, registry: Registry, seed: int, sizes: SampleSizes, reference: Path | None, cache: Path | None
) -> Recording:
    """Return the episodes on which a run is measured, from `cache` if they were recorded before.

    Raises: ConfigError if the reference run plays in another environment.
    """
    adapter, _ = open_adapter(registry, run.config.core.env.id)
    make_reference_agent, reference_digest = None, None
    if reference is not None:
        module = env_module(run.config.core.env.id, registry)  # imported already, since `run` is loaded
        reference_run = load_run(reference, registry, trusted=() if module is None else (module,))
        if (reference_run.schema, reference_run.env_id) != (run.schema, run.env_id):
            name, env_id = reference_run.folder.name, reference_run.env_id
            raise ConfigError(
                f"the reference run '{name}' plays {env_id}, or has other observations"[:100],
                cause=f"this run's environment is {run.env_id}",
                fix="give a reference run with the same environment and env settings",
            )
        make_reference_agent, reference_digest = partial(_make_exploring_agent, reference_run), _digest(reference_run)
    # These settings change how experience is collected and how environments are stepped, not what is recorded.
    excluded = {"num_envs", "workers", "patience", "collect_limit", "same_episodes"}
    request = {
        "source": env_source(run.config.core.env.id, registry),
        "env": {**run.config.core.env.model_dump(mode="json", exclude=excluded), "id": run.env_id},
        "episodes": sizes.episodes,
        "length": sizes.length,
        "seed": seed,
        "reference": reference_digest,
        "versions": _versions(),
        "code": code_digest(CELL),
    }

    def make() -> Arrays:
        recording = record(
            run.make,
            adapter,
            episodes=sizes.episodes,
            length=sizes.length,
            seed=seed,
            make_reference_agent=make_reference_agent,
        )
        return recording.arrays()

    return Recording.from_arrays(load_or_make(cache, "recording", request, make))


def _prepare(
    run: LoadedRun, registry: Registry, seed: int, sizes: SampleSizes, reference: Path | None, cache: Path | None
) -> MeasuredModel:
    return MeasuredModel(
        model=run.composed.model.eval(),
        recording=load_or_record(run, registry, seed, sizes, reference, cache),
        build_untrained=partial(_build_untrained, run, registry),
        make_env=run.make,
        make_agent=run.acting,
        seed=seed,
        sizes=sizes,
        deterministic=run.config.core.eval.deterministic or isinstance(run.composed.agent, LearnsFromEpisodes),
        cache=cache,
        load_training_episodes=partial(load_training_episodes, run, sizes.episodes, sizes.length),
    )


def _build_untrained(run: LoadedRun, registry: Registry) -> WorldModel:
    """Build the model with its initial weights and with the observation scaling of the trained one."""
    built = compose(run.config, registry, *spaces_of(run.make), Streams(run.config.core.seed), run.device)
    built.model.preprocess.load_state_dict(run.composed.model.preprocess.state_dict())
    return built.model


def _make_exploring_agent(run: LoadedRun, seed: int) -> ActingAgent:
    acting = run.acting(seed)
    acting.noise = run.composed.agent.noise
    return acting


def _digest(run: LoadedRun) -> str:
    """Return a digest that identifies a trained agent: that of its checkpoint's manifest, which covers all weights."""
    checkpoint = latest_valid(run.folder.checkpoints, move=False)
    return storage.sha256_file(checkpoint.path / MANIFEST).sha256


def _versions() -> dict[str, str]:
    return {module.__name__: module.__version__ for module in (worldlab, gymnasium, numpy)}
