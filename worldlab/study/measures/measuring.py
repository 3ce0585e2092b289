"""From a run folder to its measurements."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

import gymnasium
import numpy

import worldlab
from worldlab.agent import LearnsFromEpisodes
from worldlab.env.find import open_adapter
from worldlab.errors import ConfigError, StorageError, WorldlabError
from worldlab.experience.acting import ActingAgent
from worldlab.registry import Registry
from worldlab.runs import storage
from worldlab.runs.checkpoint import MANIFEST, latest_valid
from worldlab.study.compare.code import code_digest
from worldlab.study.compare.identity import CELL, env_source
from worldlab.study.measures.catalogue import Measure, chosen
from worldlab.study.measures.experience import experience_of
from worldlab.study.measures.kept import Arrays, kept
from worldlab.study.measures.recording import Recording, record
from worldlab.study.measures.sizes import Sizes
from worldlab.study.measures.specimen import Specimen
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
    sizes: Sizes,
    reference: Path | None,
    keep: Path | None,
) -> dict[str, Measurement]:
    """What `worldlab.study.measures.measure` does."""
    measures, wanted = chosen(names)
    specimen = _specimen(load_run(run, registry), registry, seed, sizes, reference, keep)
    out: dict[str, Measurement] = {}
    for measure in measures:
        out |= take(measure, specimen)
    return {name: value for name, value in out.items() if name in wanted}


def take(measure: Measure, specimen: Specimen) -> dict[str, Measurement]:
    """All quantities of a measure, each with a value or with the reason why it has none."""
    names = [quantity.name for quantity in measure.quantities]
    try:
        found = measure.load()(specimen)
    except StorageError:
        raise  # what could not be kept says nothing of the model
    except (Undefined, WorldlabError) as error:
        why = error.message if isinstance(error, WorldlabError) else str(error)
        return {name: Measurement(None, why=why) for name in names}
    assert set(found) == set(names), (
        f"{measure.name} gives {sorted(set(found) ^ set(names))} otherwise than its catalogue says"
    )
    return {name: found[name] for name in names}


def recording_of(
    run: LoadedRun, registry: Registry, seed: int, sizes: Sizes, reference: Path | None, keep: Path | None
) -> Recording:
    """The episodes that a run is measured on; read from `keep` if they were recorded before.

    Raises: ConfigError if the reference run plays in another environment.
    """
    adapter, _ = open_adapter(registry, run.config.core.env.id)
    guest, who = None, None
    if reference is not None:
        guest_run = load_run(reference, registry)
        if (guest_run.schema, guest_run.env_id) != (run.schema, run.env_id):
            raise ConfigError(
                f"the reference run '{guest_run.folder.name}' plays {guest_run.env_id}, or sees it otherwise"[:100],
                cause=f"this run's environment is {run.env_id}",
                fix="give a reference run of the same environment and env settings",
            )
        guest, who = partial(_exploring, guest_run), _digest(guest_run)
    # What is for collecting alone plays no part here, and how environments are stepped changes nothing that is seen.
    beside = {"num_envs", "workers", "patience", "collect_limit", "same_episodes"}
    asked = {
        "source": env_source(run.config.core.env.id, registry),
        "env": {**run.config.core.env.model_dump(mode="json", exclude=beside), "id": run.env_id},
        "episodes": sizes.episodes,
        "length": sizes.length,
        "seed": seed,
        "reference": who,
        "versions": _versions(),
        "code": code_digest(CELL),
    }

    def make() -> Arrays:
        amount = {"episodes": sizes.episodes, "length": sizes.length}
        return record(run.make, adapter, **amount, seed=seed, guest=guest).arrays()

    return Recording.of_arrays(kept(keep, "recording", asked, make))


def _specimen(
    run: LoadedRun, registry: Registry, seed: int, sizes: Sizes, reference: Path | None, keep: Path | None
) -> Specimen:
    model = run.composed.model.eval()
    deterministic = run.config.core.eval.deterministic or isinstance(run.composed.agent, LearnsFromEpisodes)
    recording = recording_of(run, registry, seed, sizes, reference, keep)
    fresh, experience = partial(_fresh, run, registry), partial(experience_of, run, sizes.episodes, sizes.length)
    return Specimen(model, recording, fresh, run.make, run.acting, seed, sizes, deterministic, keep, experience)


def _fresh(run: LoadedRun, registry: Registry) -> WorldModel:
    """The model as it was before the first update, scaling observations as the trained one does."""
    built = compose(run.config, registry, *spaces_of(run.make), Streams(run.config.core.seed), run.device)
    built.model.preprocess.load_state_dict(run.composed.model.preprocess.state_dict())
    return built.model


def _exploring(run: LoadedRun, seed: int) -> ActingAgent:
    acting = run.acting(seed)
    acting.noise = run.composed.agent.noise
    return acting


def _digest(run: LoadedRun) -> str:
    """What tells one trained agent from another: the digest of its checkpoint's manifest, which holds those of its weights."""
    checkpoint = latest_valid(run.folder.checkpoints, move=False)
    return storage.sha256_file(checkpoint.path / MANIFEST).sha256


def _versions() -> dict[str, str]:
    return {module.__name__: module.__version__ for module in (worldlab, gymnasium, numpy)}
