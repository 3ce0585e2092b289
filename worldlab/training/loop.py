"""The training loop. `Loop.run` is the whole run and `Loop._iterate` one iteration; start reading there.

An iteration takes one step in every environment, makes the updates that are due, and at set intervals logs, evaluates,
draws a dream and saves a checkpoint. The prefill ends with the pretraining updates.
"""

from __future__ import annotations

from contextlib import closing, suppress
from typing import Any

import numpy as np
import torch
from PIL import Image

from worldlab.agent import LearnsFromEpisodes
from worldlab.env.none import NO_ENV
from worldlab.env.watch import StopRequested
from worldlab.errors import (
    DivergedError,
    EnvError,
    MemoryLimitError,
    PluginError,
    is_out_of_memory,
    one_line,
    out_of_memory,
)
from worldlab.evaluation import open_loop
from worldlab.evaluation.episodes import EVAL_SEED, Evaluation, Interrupted, eval_workers, evaluate
from worldlab.evaluation.held_out import HeldOutEvaluation, evaluate_held_out
from worldlab.experience.collect import to_batch
from worldlab.experience.offline import HeldOut, OfflineData
from worldlab.interfaces import Alarm
from worldlab.model.health import EXPLOITED, SETTLED, UNPRETRAINED
from worldlab.model.schedule import stage_at
from worldlab.runs.folder import RunFolder
from worldlab.runs.machine import available_cores, busy_cores
from worldlab.runs.metrics import MetricsBus
from worldlab.runs.monitor_csv import MonitorCsv
from worldlab.runs.pictures import as_frames, save_webp
from worldlab.training.clock import Clock
from worldlab.training.panel import Progress
from worldlab.training.result import result_of
from worldlab.training.saver import Saver
from worldlab.training.session import Session
from worldlab.training.signals import Stopped, catch_signals

PRETRAIN_SAVE = 100
"""Minimum number of pretraining updates between checkpoints. Other checkpoints are spaced by environment steps."""
RECENT = 20
"""Number of last episodes whose mean return is logged and shown."""


class Loop:
    """Runs a session to its end.

    manifest: data that every checkpoint stores besides the training state.
    """

    def __init__(
        self,
        session: Session,
        folder: RunFolder,
        metrics: MetricsBus,
        progress: Progress,
        manifest: dict[str, Any],
    ):
        self.session = session
        self.folder = folder
        self.metrics = metrics
        self.progress = progress
        self.signals: list[int] = []
        self.noted_busy = False
        self.clock = Clock(session.counters.seconds)
        self.saver = Saver(session, folder, metrics, self.clock, manifest)

    def run(self) -> dict[str, Any]:
        """Train until the steps or minutes are spent or `until` is reached, then evaluate, draw and save.

        Returns the content of result.json.
        """
        counters, core = self.session.counters, self.session.core
        self.session.collector.start()
        self.progress.update(counters.env_steps, phase="train" if counters.pretrained else "prefill")
        monitor = MonitorCsv(self.folder.monitor, self.session.env_id, rows=counters.episodes)
        with catch_signals() as self.signals, closing(monitor):
            try:
                self._complete_tasks()
                self.saver.keep_best()
                while counters.env_steps < core.steps and not self._out_of_time() and not self._solved():
                    self._iterate(monitor)
                self._report_end()
                try:
                    return self._finish()
                finally:
                    self._stop_if_signalled()
            except StopRequested:
                self._stop_if_signalled()  # the step that hangs is lost, all earlier ones are saved
                raise
            except (EnvError, MemoryLimitError):
                # A signal to the whole process group may end the environments before this process receives it.
                self._stop_if_signalled()
                self._save_after_failure()
                raise
            except Exception as error:
                if not is_out_of_memory(error):
                    raise
                with suppress(Exception):  # even a small checkpoint may need more memory than is left
                    self._save_after_failure()
                raise out_of_memory(error) from error

    def _iterate(self, monitor: MonitorCsv) -> None:
        """Step every environment once, make the updates that are due, and run the periodic tasks."""
        counters = self.session.counters
        before = counters.env_steps
        if not counters.pretrained:
            self._pretrain()
            self._stop_if_signalled()
        self._begin_step()
        self._update()  # while worker processes step the environments
        self._end_step()
        self._record_episodes(monitor)
        self._note_tasks(before)
        self._complete_tasks()
        self._stop_if_signalled()
        if crossed(before, counters.env_steps, self.session.core.log.checkpoint):
            self.saver.save()
        self.saver.keep_best()
        self.saver.save_by_time()

    # ---- collecting and updating ----

    def _begin_step(self) -> None:
        """Choose the actions and send them to the environments."""
        session = self.session
        random = session.streams.numpy("prefill")
        with self.clock("collect"):
            try:
                session.collector.begin(random, prefill=not session.counters.pretrained)
            except DivergedError as error:
                if session.counters.updates:
                    raise
                name = session.config.agent.name  # no update has changed a weight, so no learning rate is too high
                raise PluginError(
                    one_line(f"agent {name!r} chose an action that is not finite before any update"),
                    cause=error.cause,
                    fix="look in its `act` for a division by 0 or a log of 0",
                ) from error

    def _update(self) -> None:
        """Make the updates that the steps taken so far allow (`train.ratio`)."""
        session, counters = self.session, self.session.counters
        length = session.core.train.batch_length
        with self.clock("update"):
            # A replay that lost damaged records may have to be refilled first.
            while counters.pretrained and counters.credit >= 1 and session.replay.can_sample(length):
                counters.credit -= 1
                self._update_once()

    def _end_step(self) -> None:
        """Receive the results of the step and store them in the replay."""
        session, counters = self.session, self.session.counters
        with self.clock("collect"):
            taken = session.collector.end()
        counters.env_steps += taken
        if counters.env_steps > self._prefill:
            counters.credit += taken * session.core.train.ratio

    @property
    def _prefill(self) -> int:
        """The steps before the first update: none offline, where all data are there from the start."""
        return 0 if self.session.core.offline else self.session.core.train.prefill

    def _update_once(self) -> None:
        session = self.session
        stage = stage_at(session.core.train, session.counters.updates)
        batch = to_batch(self._sample(), session.composed.model.preprocess, session.device)
        session.trainer.anneal(session.counters.env_steps / session.core.steps)
        session.means.add(session.trainer.update(batch, stage))
        session.counters.updates += 1

    def _sample(self) -> dict[str, torch.Tensor]:
        settings = self.session.core.train
        rng = self.session.streams.numpy("replay")
        return self.session.replay.sample_on(self.session.device, settings.batch_size, settings.batch_length, rng)

    def _pretrain(self) -> None:
        """Make the pretraining updates once the prefill is complete: those of the model, then those of the agent.

        A signal or the time limit ends them early; a resumed run continues them.
        """
        session, counters, settings = self.session, self.session.counters, self.session.core.train
        if counters.env_steps < self._prefill or not session.replay.can_sample(settings.batch_length):
            return
        if not counters.updates:
            self.saver.save()  # the prefill is experience that took time, and `log.checkpoint` may be far away
            self._fit_scaling()
        wanted = settings.pretrain + settings.pretrain_agent
        while counters.updates < wanted and not self.signals and not self._out_of_time():
            with self.clock("update"):
                self._update_once()
            stage = stage_at(settings, counters.updates - 1).name
            self.progress.update(counters.env_steps, updates=counters.updates, phase=f"pretrain: {stage}")
            if counters.updates % self.session.core.log.every == 0:
                self._log()
                if self.saver.updates_since() >= PRETRAIN_SAVE:
                    self.saver.save()
            self.saver.save_by_time()
        counters.pretrained = counters.updates >= wanted
        if counters.pretrained:
            self.progress.update(counters.env_steps, phase="train")

    def _fit_scaling(self) -> None:
        """Set the mean and standard deviation of vector observations from the prefill, before the first update."""
        session = self.session
        preprocess = session.composed.model.preprocess
        if preprocess.scaling != "normalize":
            return
        rng = session.streams.fresh_numpy("scaling")  # fitted again if a signal came before the first update
        sampled = session.replay.sample(min(2000, max(1, len(session.replay) // 8)), 8, rng)
        for key in session.composed.specs.obs.vectors:
            values = torch.from_numpy(sampled[key]).flatten(0, 1).float()
            preprocess.fit(key, values.to(session.device))

    def _record_episodes(self, monitor: MonitorCsv) -> None:
        collector, counters = self.session.collector, self.session.counters
        for ret, length in collector.finished:
            counters.episodes += 1
            counters.recent = [*counters.recent, ret][-RECENT:]
            monitor.episode(ret, length)
        collector.finished.clear()

    # ---- periodic tasks ----

    def _note_tasks(self, before: int) -> None:
        """Note which tasks are due after the steps since `before`. A checkpoint holds those that a signal prevents."""
        core, step = self.session.core, self.session.counters.env_steps
        spans = {"log": core.log.every, "evaluate": core.eval.every, "draw": core.log.pictures}
        due = [task for task, every in spans.items() if crossed(before, step, every)]
        # `_finish` does the others at the end.
        self.session.counters.due = due if step < core.steps else [task for task in due if task == "log"]

    def _complete_tasks(self) -> None:
        """Run the tasks that are due, in order. A signal that interrupts an evaluation leaves it and the rest due."""
        due = self.session.counters.due
        tasks = {
            "log": self._log,
            "evaluate": self._evaluate_on_the_way,
            "draw": self._draw_dream,
        }
        with suppress(Interrupted):
            while due:
                tasks[due[0]]()
                due.pop(0)

    def _log(self) -> None:
        """Write a line of metrics: mean losses since the last line, model health, episode returns and speed."""
        session, counters = self.session, self.session.counters
        values: dict[str, Any] = {**session.means.take()}
        if values:
            batch = to_batch(self._health_sample(), session.composed.model.preprocess, session.device)
            with torch.no_grad():
                source = torch.Generator(session.device).manual_seed(counters.env_steps)
                ctx, _ = session.composed.model.observe(batch, source)
                measured = {k: float(v) for k, v in session.health.metrics(ctx).items()}
            values.update(measured)
            for alarm in session.health.update(measured, counters.updates):
                self._report_alarm(alarm)
        self._note_busy_machine()
        if counters.recent:
            values["episode/return"] = float(np.mean(counters.recent))
        agent = session.composed.agent
        if isinstance(agent, LearnsFromEpisodes):
            values.update({f"agent/{name}": value for name, value in agent.metrics().items()})
        values["episode/count"] = counters.episodes
        values["updates"] = counters.updates
        perf = self.clock.rates(counters.env_steps, counters.updates)
        self.metrics.log(counters.env_steps, values, perf)
        shown = {key.removeprefix("loss/"): value for key, value in values.items() if key.startswith("loss/")}
        if "episode/return" in values:
            shown["return"] = values["episode/return"]
        if counters.evaluation is not None:
            shown["eval return"] = counters.evaluation
        self.progress.update(counters.env_steps, updates=counters.updates, values=shown)

    def _note_busy_machine(self) -> None:
        """Tell the user once if more processes want a core than there are: the run then takes longer than usual."""
        wanted, cores = busy_cores(), available_cores()
        if not self.noted_busy and self.clock.elapsed() > 60 and wanted >= cores + 1:
            self.noted_busy = True
            step = self.session.counters.env_steps
            self.progress.note(
                f"step {step}: {wanted:.1f} processes compete for {cores} cores, which makes the run slower"
            )

    def _alarm_once(self, name: str, alarm: Alarm, updates: int = SETTLED) -> None:
        """Print an alarm unless it was raised before, or the updates so far are too few for it (`HealthMonitor.note`)."""
        if self.session.health.note(name, updates):
            self._report_alarm(alarm)

    def _report_alarm(self, alarm: Alarm) -> None:
        """Print an alarm and add it to run.json."""
        step = self.session.counters.env_steps
        self.progress.note(f"step {step}: {alarm.says}. {alarm.cure}")
        entry = {"step": step, "says": alarm.says, "cure": alarm.cure}
        self.folder.write_run_json({"alarms": [*self.folder.read_run_json().get("alarms", []), entry]})

    def _health_sample(self) -> dict[str, np.ndarray]:
        settings = self.session.core.train
        rng = np.random.default_rng([self.session.core.seed, self.session.counters.env_steps])
        return self.session.replay.sample(min(8, settings.batch_size), settings.batch_length, rng)

    def _evaluate_on_the_way(self) -> None:
        """Evaluate while training, and note whether it is the best evaluation so far."""
        counters, episodes = self.session.counters, self.session.core.eval.episodes
        self._evaluate(episodes)
        if counters.evaluation is None:  # without an environment there is no return
            return
        better = counters.best is None or counters.evaluation > counters.best["return"]
        if counters.updates and better:
            counters.best = {"return": counters.evaluation, "episodes": episodes, "step": counters.env_steps}

    def _evaluate(self, episodes: int, record: bool = False) -> Evaluation | HeldOutEvaluation:
        """Evaluate the agent in its environment, or where there is none the model on held-out episodes; log the result."""
        return self._evaluate_held_out() if self.session.env_id == NO_ENV else self._play(episodes, record)

    def _evaluate_held_out(self) -> HeldOutEvaluation:
        session = self.session
        assert isinstance(session.collector, OfflineData), "a run without an environment is offline"
        with self.clock("evaluate"):
            outcome = evaluate_held_out(session.evaluator(EVAL_SEED), session.collector.held_out, EVAL_SEED)
        self.metrics.log(session.counters.env_steps, outcome.metrics())
        return outcome

    def _play(self, episodes: int, record: bool) -> Evaluation:
        """Evaluate the agent and log its return. record: keep the frames of the first episode."""
        session, counters = self.session, self.session.counters
        images = list(session.composed.specs.obs.images)
        with self.clock("evaluate"):
            outcome = evaluate(
                session.evaluator(EVAL_SEED),
                session.make,
                episodes=episodes,
                seed=EVAL_SEED,
                workers=eval_workers(session.core.env.workers),
                timeout=session.core.env.timeout,
                record=images[0] if record and images else None,
                deterministic=session.core.eval.deterministic,
                dream_horizon=session.core.eval.dream_horizon,
                stop=lambda: self.signals,
            )
        counters.evaluation = float(np.mean(outcome.returns))
        values = {"eval/return": counters.evaluation, "eval/episodes": episodes}
        if outcome.gap is not None:
            values.update({f"eval/dream_{name}": v for name, v in outcome.gap.summary().items() if v is not None})
            if outcome.gap.exploited:
                self._alarm_once("exploited", EXPLOITED, counters.updates)
        self.metrics.log(counters.env_steps, values)
        self.progress.note(
            f"step {counters.env_steps}: return {counters.evaluation:.1f} over {episodes} evaluation episodes"
        )
        return outcome

    def _draw_dream(self) -> None:
        """Save a picture of an open-loop prediction next to the real frames, which an offline run has held out."""
        session, counters = self.session, self.session.counters
        model, length = session.composed.model, session.core.train.batch_length + open_loop.CONTEXT_FRAMES
        if (held_out := self._held_out()) is not None:
            batch = to_batch(held_out.windows(1, length), model.preprocess, session.device)
        elif session.replay.can_sample(length):
            batch = open_loop.sample_unbroken(session.replay, model, 1, length, counters.env_steps)
        else:
            return
        generator = torch.Generator(session.device).manual_seed(counters.env_steps)
        shown = open_loop.open_loop(model, batch, generator)
        picture, *_ = open_loop.save(shown, self.folder.videos, f"dream-{counters.env_steps:09d}")
        frames = open_loop.video(shown)
        if frames is None:
            frames = as_frames(np.asarray(Image.open(picture))[None])  # read back: to plot it takes a second
        self.metrics.pictures(counters.env_steps, "dream", frames)

    # ---- the end of a run ----

    def _save_after_failure(self) -> None:
        """Save a checkpoint unless the failure came amid an update, which may have changed only some of the weights."""
        if self.session.trainer.updates == self.session.counters.updates:
            self.saver.save()
            step = self.session.counters.env_steps
            self.progress.note(f"step {step}: checkpoint saved; --resume continues from there")

    def _finish(self) -> dict[str, Any]:
        """Save, make the final evaluation, and return the content of result.json."""
        self.saver.save()
        outcome = self._evaluate(self.session.core.eval.final_episodes, record=True)
        self._draw_dream()
        if isinstance(outcome, Evaluation) and outcome.frames:
            save_webp(np.stack(outcome.frames), self.folder.videos / "evaluation.webp", fps=15)
        self.metrics.sync()
        self.folder.cover_metrics(self.metrics.digest)
        return result_of(self.session, self.folder, self.clock.elapsed(), outcome, self._held_out_beside())

    def _held_out_beside(self) -> HeldOutEvaluation | None:
        """Evaluate the model of an offline run on held-out episodes, if its agent was evaluated in an environment."""
        if self.session.env_id == NO_ENV or self._held_out() is None:
            return None
        return self._evaluate_held_out()

    def _held_out(self) -> HeldOut | None:
        """Return the held-out episodes of an offline run; None if they are too short for a sequence, or if there are none."""
        source = self.session.collector
        return source.held_out if isinstance(source, OfflineData) and source.held_out.long_enough else None

    def _report_end(self) -> None:
        """Report what ended the run before its last step, or that it never reached `until`; and a short pretraining."""
        counters, core, threshold = self.session.counters, self.session.core, self.session.threshold
        if self._solved():
            assert counters.best is not None
            self.progress.note(
                f"step {counters.env_steps} of {core.steps}: the evaluation at step {counters.best['step']} reached "
                f"{counters.best['return']:.1f}, which ends training at {threshold:g} (until)"
            )
        elif counters.env_steps < core.steps:
            self.progress.note(
                f"step {counters.env_steps} of {core.steps}: the time limit of {core.minutes:g} minutes is reached; "
                "to continue, --resume with more --minutes"
            )
        elif threshold is not None:
            reached = f"the best evaluation reached {counters.best['return']:.1f}" if counters.best else "none was made"
            self.progress.note(f"step {counters.env_steps}: no evaluation reached {threshold:g} (until); {reached}")
        if core.train.pretrain and not counters.pretrained:
            self._alarm_once("unpretrained", UNPRETRAINED)

    def _solved(self) -> bool:
        """Return whether an evaluation reached the return at which training ends."""
        best, threshold = self.session.counters.best, self.session.threshold
        return threshold is not None and best is not None and best["return"] >= threshold

    def _out_of_time(self) -> bool:
        minutes = self.session.core.minutes
        return minutes is not None and self.clock.elapsed() > 60 * minutes

    def _stop_if_signalled(self) -> None:
        if self.signals:
            self.saver.save()
            raise Stopped(self.signals[0])


def crossed(before: int, now: int, every: int) -> bool:
    """Whether counting from `before` to `now` passed a multiple of `every` (0: never)."""
    return every > 0 and before // every != now // every
