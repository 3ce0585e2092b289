"""Trains a new or resumed run to its end and records its parts in the run folder."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from worldlab.config import provenance
from worldlab.config.resolve import RunConfig
from worldlab.env.spaces_json import to_json
from worldlab.errors import CheckpointError, ConfigError, DivergedError, WorldlabError, one_line
from worldlab.experience.collect import Collector
from worldlab.experience.offline import OfflineData
from worldlab.experience.segments import DamagedReplayError, set_aside
from worldlab.interfaces import parameter_count
from worldlab.registry import Registry
from worldlab.runs.checkpoint import Checkpoint, latest_valid, list_checkpoints, previous_valid, quarantine
from worldlab.runs.find import new_run_path
from worldlab.runs.folder import RunFolder
from worldlab.runs.metrics import MetricsBus
from worldlab.runs.tracking import Tracker
from worldlab.runs.weights import holds_weights_only
from worldlab.training import session
from worldlab.training.loop import Loop
from worldlab.training.panel import Progress
from worldlab.training.signals import SecondInterrupt, Stopped
from worldlab.training.trackers import make_trackers, start_trackers

log = logging.getLogger("worldlab")


def train(
    config: RunConfig,
    registry: Registry,
    *,
    run: Path | None = None,
    resume: bool = False,
    exact: bool = False,
    explain: bool = False,
) -> dict[str, Any]:
    """Train a run to its end and return the content of result.json.

    run: the run folder; None creates runs/<env>-<time>. resume: continue from the newest valid checkpoint, or start the
    run if it is not there or has saved nothing yet. exact: raise CheckpointError, before anything is trained or recorded,
    if a resumed run could continue approximately only. explain: log the choices of the composition. On SIGINT, SIGTERM or
    SIGHUP, it saves a checkpoint and raises SystemExit(130, 143 or 129); on a SIGINT after that, it raises
    KeyboardInterrupt at once.
    """
    trackers = make_trackers(config.core.log.track, registry)
    with _open_folder(config, run, resume) as folder:
        changed = _check_plugins(config, registry, folder)
        if folder.saved:
            folder.report_texts(strict=config.core.strict)
            live, checkpoint = _build_resumed(config, registry, folder)
            if exact and live.approximate:
                live.close()
                raise CheckpointError("the run cannot continue exactly", cause="; ".join(live.approximate))
            _save_configuration(folder, config, registry)
        else:
            live, checkpoint = _build_new(config, registry, folder), None
        try:
            log.info("env %s on %s, run %s", live.env_id, live.device, folder.path)
            if explain:
                log.info("%s", live.composed.explain())
            if isinstance(live.collector, OfflineData):
                live.collector.start()  # run.json records the hash of the data
            _write_run_json(folder, live, registry, config, changed, checkpoint)
            return _run_loop(live, folder, registry, checkpoint, trackers)
        except BaseException as error:
            live.close(at_once=isinstance(error, SecondInterrupt))
            folder.write_run_json({**_ending(error), **_progress(live)})
            if isinstance(error, Stopped | SecondInterrupt):
                log.info("%s", _describe_stop(error, folder, live))
            if isinstance(error, Stopped):
                raise SystemExit(128 + error.signal) from None
            raise
        finally:
            live.close()


def _open_folder(config: RunConfig, run: Path | None, resume: bool) -> RunFolder:
    """Return the locked run folder: a new one, or with `resume` the one that is there."""
    if resume and run is None:
        raise ConfigError("--resume needs a run", fix="--run DIR --resume")
    if resume and run is not None and RunFolder(run).began:
        return RunFolder.open(run, write=True)
    return RunFolder.create(run or new_run_path(config.core.env.id))


def _check_plugins(config: RunConfig, registry: Registry, folder: RunFolder) -> list[dict[str, str]]:
    """Return the parts of a run whose plugin has changed, after a warning. Raises: PluginError if the run is strict."""
    changed = provenance.find_changes(folder.path, config, registry)
    if changed and config.core.strict:
        raise provenance.version_error(changed)
    provenance.warn_of_changes(changed)
    return changed


def _save_configuration(folder: RunFolder, config: RunConfig, registry: Registry) -> None:
    """Write configuration and plugin files.

    For a resumed run, call it only after the session was built without error.
    """
    folder.write_config(config.to_toml())
    for file in registry.plugin_files:
        folder.keep_plugin(file)


def _build_new(config: RunConfig, registry: Registry, folder: RunFolder) -> session.Session:
    """Build the session of a run that starts, or that starts again because it had saved nothing."""
    again = folder.began
    _save_configuration(folder, config, registry)
    if again:
        log.warning("run '%s' had saved nothing yet: it starts again from step 0", folder.name)
        if set_aside(folder.replay):
            log.warning("the steps that it had recorded are taken again; their records are now in replay/orphans")
    folder.write_run_json({"status": "running", "step": 0})
    try:
        return session.build(config, registry, folder.replay)
    except BaseException as error:
        folder.write_run_json(_ending(error))
        raise


def _build_resumed(config: RunConfig, registry: Registry, folder: RunFolder) -> tuple[session.Session, Checkpoint]:
    """Restore the newest checkpoint whose experience the replay still has. Checkpoints that fail go to quarantine."""
    checkpoint = newest = _find_checkpoint(folder)
    rejected = []
    while True:
        try:
            live = session.build(config, registry, folder.replay, checkpoint)
            break
        except DamagedReplayError as error:
            rejected.append(checkpoint)
            older = previous_valid(folder.checkpoints, checkpoint)
            if older is None:
                raise
            log.warning("%s; trying checkpoint step-%d", error.message, older.step)
            checkpoint = older
    for bad in rejected:
        quarantine(bad.path)
    if rejected:
        log.warning("resuming from step %d instead of %d", checkpoint.step, newest.step)
    for reason in live.approximate:
        log.warning("resumed approximately: %s", reason)
    return live, checkpoint


def _find_checkpoint(folder: RunFolder) -> Checkpoint:
    checkpoint = latest_valid(folder.checkpoints)
    if holds_weights_only(checkpoint):
        raise CheckpointError(
            one_line(f"run '{folder.name[-40:]}' holds weights without experience: it cannot go on"),
            cause="it was published without its replay and the state of its optimisers",
            fix=f"begin a new run with its weights: --finetune {folder.path}; or publish it with --replay",
        )
    for sentence in checkpoint.skipped:
        log.warning("%s", sentence)
    log.info("resuming at step %d", checkpoint.step)
    return checkpoint


def _write_run_json(
    folder: RunFolder,
    live: session.Session,
    registry: Registry,
    config: RunConfig,
    changed: list[dict[str, str]],
    checkpoint: Checkpoint | None,
) -> None:
    before, step = folder.read_run_json(), live.counters.env_steps
    now = [{**one, "step": step} for one in changed]
    resumed = [{"step": step, "exact": not live.approximate, "why": live.approximate}] if checkpoint else []
    parts = {role: parameter_count([part]) for role, part in live.composed.model.parts.items()}
    parts["total"] = parameter_count([live.composed.model, live.composed.agent])
    folder.write_run_json(
        {
            "status": "running",
            "error": None,
            "alarms": _alarms_until(step, before.get("alarms")),
            "env": live.env_id,
            "seed": config.core.seed,
            "strict": config.core.strict,
            "device": str(live.device),
            "engine": live.engine.record(),
            "threads": torch.get_num_threads(),
            "plugins": registry.plugins_record(),
            "components": provenance.components(config, registry),
            "changes": [*before.get("changes", []), *now],
            "resumed": [*before.get("resumed", []), *resumed],
            "parameters": parts,
            "matching": live.composed.model.rule.why,
            **_data_entry(live, before),
            **({"finetune": live.finetuned} if live.finetuned else {}),
        }
    )


def _alarms_until(step: int, alarms: Any) -> list[dict[str, Any]]:
    """Return the alarms of run.json up to a step; a resumed run repeats later ones."""
    entries = [alarm for alarm in alarms if isinstance(alarm, dict)] if isinstance(alarms, list) else []
    return [alarm for alarm in entries if isinstance(alarm.get("step"), int) and alarm["step"] <= step]


def _progress(live: session.Session) -> dict[str, Any]:
    """Return the entries of run.json that change while a run trains."""
    return {"step": live.counters.env_steps, "engine": live.engine.record()}


def _data_entry(live: session.Session, before: dict[str, Any]) -> dict[str, Any]:
    """Return the entries of run.json about spaces and recorded experience."""
    obs, action = live.pool.observation_space, live.pool.action_space
    entry: dict[str, Any] = {"observation_space": to_json(obs), "action_space": to_json(action)}
    source = live.collector
    if isinstance(source, Collector):
        return entry
    data = {"source": live.core.data, "sha256": source.sha256, "decisions": source.decisions}
    if isinstance(source, OfflineData):
        names = [source.held_out.dataset.episodes[episode].name for episode in source.held_out.episodes]
        # A resumed run reads its own copy of the data, so their hash is the one that was found at its start.
        data |= {"held_out": names, "sha256": source.sha256 or before.get("data", {}).get("sha256", {})}
    return {**entry, "data": data}


def _run_loop(
    live: session.Session,
    folder: RunFolder,
    registry: Registry,
    checkpoint: Checkpoint | None,
    trackers: Mapping[str, Tracker],
) -> dict[str, Any]:
    core = live.core
    resumed = checkpoint is not None or folder.metrics.exists()
    title = (
        f"{live.env_id}  {'/'.join(getattr(live.config, r).name for r in ('encoder', 'dynamics', 'decoder', 'agent'))}"
    )
    with (
        MetricsBus(folder, start_trackers(trackers, folder, live, resumed=resumed)) as metrics,
        Progress(title, total=core.steps, start=live.counters.env_steps) as progress,
    ):
        if checkpoint or metrics.lines:
            lines = live.counters.lines if checkpoint else 0
            metrics.truncate_after(live.counters.env_steps, lines, folder.cover_metrics)
        loop = Loop(live, folder, metrics, progress, {"plugins": registry.plugins_record()})
        result = loop.run()
    folder.write_result(result)
    folder.write_run_json({"status": "finished", **_progress(live)})
    return result


def _ending(error: BaseException) -> dict[str, Any]:
    """Return the entries of run.json about an exception that ended the run."""
    if isinstance(error, Stopped):
        return {"status": "stopped"}
    if isinstance(error, KeyboardInterrupt):
        return {"status": "interrupted"}
    # Without the cause, which may hold paths of this machine.
    text = error.message if isinstance(error, WorldlabError) else f"{type(error).__name__}: {error}"
    return {"status": "diverged" if isinstance(error, DivergedError) else "failed", "error": one_line(text, 300)}


def _describe_stop(error: Stopped | SecondInterrupt, folder: RunFolder, live: session.Session) -> str:
    """Return the sentence that ends a stopped run: where it stopped, and from which step it continues."""
    step, command = live.counters.env_steps, f"continue with --run {folder.path} --resume"
    if isinstance(error, Stopped):
        return f"stopped at step {step}, checkpoint saved; {command}"
    saved = [at for at, _ in list_checkpoints(folder.checkpoints)]
    if not saved:
        return f"interrupted at step {step}; there is no checkpoint yet"
    return f"interrupted at step {step}; the last checkpoint, of step {saved[-1]}, is whole; {command}"
