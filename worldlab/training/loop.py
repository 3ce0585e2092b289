"""The training loop on one page: collect, update, and now and then log, judge, draw and save."""

from __future__ import annotations

from collections import defaultdict
from contextlib import closing, suppress
from typing import Any

import numpy as np
import torch
from torch import Tensor

from worldlab.agent import JudgedByEpisodes
from worldlab.errors import EnvError
from worldlab.evaluation import open_loop
from worldlab.evaluation.episodes import EVAL_SEED, Evaluation, Interrupted, evaluate, judging_workers
from worldlab.experience.collect import to_batch
from worldlab.interfaces import Alarm
from worldlab.model.schedule import stage_at
from worldlab.runs.folder import RunFolder
from worldlab.runs.metrics import MetricsBus
from worldlab.runs.monitor_csv import MonitorCsv
from worldlab.runs.pictures import as_frames, save_webp
from worldlab.training.clock import Clock
from worldlab.training.panel import Progress
from worldlab.training.session import Session, save
from worldlab.training.signals import Stopped, catch_signals

EXPLOITED = Alarm(
    "the policy earns more in the dream than in the environment, from the same starts: it lives on the model's mistakes",
    "raise the dream's temperature where the agent has one, shorten its horizon, or give the model more updates",
)
UNPRETRAINED = Alarm(
    "the run ended before its pretraining did: what was judged has not acted on anything it learned",
    "give it more --steps than train.prefill, and more --minutes; or lower train.pretrain",
)
PRETRAIN_SAVE = 100
"""Updates of pretraining between two checkpoints, at least: no environment step passes meanwhile, by which others are counted."""
RECENT = 20
"""Episodes whose mean return the panel shows."""


class Loop:
    """Runs a session to its end."""

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
        self.manifest = manifest
        self.sums: dict[str, Tensor] = {}
        self.counts: dict[str, int] = defaultdict(int)
        # A session that begins later than at 0 was read from the checkpoint of that very step and update.
        self.saved_at = self._position() if session.counters.env_steps else None
        self.signals: list[int] = []
        self.clock = Clock(session.counters.seconds)

    def run(self) -> dict[str, Any]:
        """Train until the steps (or minutes) are spent, judge, draw, save. Returns the content of result.json."""
        counters, core = self.session.counters, self.session.core
        self.session.collector.start()
        self.progress.update(counters.env_steps, phase="train" if counters.pretrained else "prefill")
        monitor = MonitorCsv(self.folder.monitor, self.session.env_id, rows=counters.episodes)
        with catch_signals() as self.signals, closing(monitor):
            try:
                while counters.env_steps < core.steps and not self._out_of_time():
                    before = counters.env_steps
                    if not counters.pretrained:
                        self._pretrain()
                        self._stop_if_signalled()
                    self._begin_step()
                    self._update()  # workers step the environments meanwhile
                    self._end_step()
                    self._record_episodes(monitor)
                    with suppress(Interrupted):
                        self._run_periodic_tasks(before)
                    self._stop_if_signalled()
                self._report_unfinished()
                try:
                    return self._finish()
                finally:
                    self._stop_if_signalled()
            except EnvError:
                # A signal to the whole group may end environments before this process hears of it.
                self._stop_if_signalled()
                self._save()  # what was collected and learned before is whole
                self.progress.note(f"step {counters.env_steps}: checkpoint saved; --resume goes on from there")
                raise

    def _stop_if_signalled(self) -> None:
        if self.signals:
            self._save()
            raise Stopped(self.signals[0])

    def _report_unfinished(self) -> None:
        counters, core = self.session.counters, self.session.core
        if counters.env_steps < core.steps:
            self.progress.note(
                f"step {counters.env_steps} of {core.steps}: the {core.minutes:g} minutes are spent; "
                "to go on, --resume with more --minutes"
            )
        if core.train.pretrain and not counters.pretrained:
            self._alarm_once("unpretrained", UNPRETRAINED)

    # ---- each step ----

    def _begin_step(self) -> None:
        session = self.session
        random = None if session.counters.pretrained else session.streams.numpy("prefill")
        with self.clock("collect"):
            session.collector.begin(random)

    def _end_step(self) -> None:
        session, counters = self.session, self.session.counters
        with self.clock("collect"):
            taken = session.collector.end()
        counters.env_steps += taken
        if counters.env_steps > session.core.train.prefill:
            counters.credit += taken * session.core.train.ratio

    def _update(self) -> None:
        session, counters = self.session, self.session.counters
        length = session.core.train.batch_length
        with self.clock("update"):
            # A replay that lost its damaged records may have to fill first.
            while counters.pretrained and counters.credit >= 1 and session.replay.can_sample(length):
                counters.credit -= 1
                self._update_once()

    def _pretrain(self) -> None:
        """Once there is data: the model's own updates, then the agent's, before it acts for the first time. A signal ends
        them, and a resumed run goes on with them."""
        session, counters, settings = self.session, self.session.counters, self.session.core.train
        if counters.env_steps < settings.prefill or not session.replay.can_sample(settings.batch_length):
            return
        if not counters.updates:
            self._fit_scaling()
        wanted = settings.pretrain + settings.pretrain_agent
        while counters.updates < wanted and not self.signals and not self._out_of_time():
            with self.clock("update"):
                self._update_once()
            stage = stage_at(settings, counters.updates - 1).name
            self.progress.update(counters.env_steps, updates=counters.updates, phase=f"pretrain: {stage}")
            if counters.updates % self.session.core.log.every == 0:
                self._log()
                if counters.updates - (self.saved_at or (0, 0))[1] >= PRETRAIN_SAVE:
                    self._save()
        counters.pretrained = counters.updates >= wanted
        if counters.pretrained:
            self.progress.update(counters.env_steps, phase="train")

    def _update_once(self) -> None:
        session = self.session
        stage = stage_at(session.core.train, session.counters.updates)
        batch = to_batch(self._sample(), session.composed.model.preprocess, session.device)
        session.trainer.anneal(session.counters.env_steps / session.core.steps)
        for name, value in session.trainer.update(batch, stage).items():
            self.sums[name] = self.sums[name] + value if name in self.sums else value
            self.counts[name] += 1
        session.counters.updates += 1

    def _sample(self) -> dict[str, np.ndarray]:
        settings = self.session.core.train
        rng = self.session.streams.numpy("replay")
        return self.session.replay.sample(settings.batch_size, settings.batch_length, rng)

    def _fit_scaling(self) -> None:
        """Means and deviations of vectors, from the prefilled data, before anything was learned from them."""
        session = self.session
        preprocess = session.composed.model.preprocess
        if preprocess.scaling != "normalize":
            return
        rng = session.streams.numpy("scaling")
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

    # ---- now and then ----

    def _run_periodic_tasks(self, before: int) -> None:
        core, step = self.session.core, self.session.counters.env_steps
        if crossed(before, step, core.log.every):
            self._log()
        if step >= core.steps:
            return  # the end does all of it once more
        if crossed(before, step, core.eval.every):
            self._evaluate(core.eval.episodes)
        if crossed(before, step, core.log.pictures):
            self._draw_dream()
        if crossed(before, step, core.log.checkpoint):
            self._save()

    def _log(self) -> None:
        session, counters = self.session, self.session.counters
        values: dict[str, Any] = {name: float(total) / self.counts[name] for name, total in self.sums.items()}
        if values:
            batch = to_batch(self._health_sample(), session.composed.model.preprocess, session.device)
            with torch.no_grad():
                source = torch.Generator(session.device).manual_seed(counters.env_steps)
                ctx, _ = session.composed.model.observe(batch, source)
                measured = {k: float(v) for k, v in session.health.metrics(ctx).items()}
            values.update(measured)
            for alarm in session.health.update(measured, counters.updates):
                self._print_alarm(alarm)
        self.sums, self.counts = {}, defaultdict(int)
        if counters.recent:
            values["episode/return"] = float(np.mean(counters.recent))
        agent = session.composed.agent
        if isinstance(agent, JudgedByEpisodes):
            values.update({f"agent/{name}": value for name, value in agent.progress().items()})
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

    def _alarm_once(self, name: str, alarm: Alarm) -> None:
        if self.session.health.note(name):
            self._print_alarm(alarm)

    def _print_alarm(self, alarm: Alarm) -> None:
        self.progress.note(f"step {self.session.counters.env_steps}: {alarm.says}. {alarm.cure}")

    def _health_sample(self) -> dict[str, np.ndarray]:
        settings = self.session.core.train
        rng = np.random.default_rng([self.session.core.seed, self.session.counters.env_steps])
        return self.session.replay.sample(min(8, settings.batch_size), settings.batch_length, rng)

    def _evaluate(self, episodes: int, record: bool = False) -> Evaluation:
        session, counters = self.session, self.session.counters
        images = list(session.composed.specs.obs.images)
        with self.clock("evaluate"):
            outcome = evaluate(
                session.judge(EVAL_SEED),
                session.make,
                episodes=episodes,
                seed=EVAL_SEED,
                workers=judging_workers(session.core.env.workers),
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
                self._alarm_once("exploited", EXPLOITED)
        self.metrics.log(counters.env_steps, values)
        self.progress.note(
            f"step {counters.env_steps}: return {counters.evaluation:.1f} over {episodes} evaluation episodes"
        )
        return outcome

    def _draw_dream(self) -> None:
        session, counters = self.session, self.session.counters
        length = session.core.train.batch_length + open_loop.FRAMES_SEEN
        if not session.replay.can_sample(length):
            return
        batch = open_loop.sample_unbroken(session.replay, session.composed.model, 1, length, counters.env_steps)
        generator = torch.Generator(session.device).manual_seed(counters.env_steps)
        shown = open_loop.open_loop(session.composed.model, batch, generator)
        open_loop.save(shown, self.folder.videos, f"dream-{counters.env_steps:09d}")
        frames = open_loop.video(shown)
        if frames is None:
            frames = as_frames(np.asarray(open_loop.picture(shown))[None])
        self.metrics.pictures(counters.env_steps, "dream", frames)

    def _position(self) -> tuple[int, int]:
        return self.session.counters.env_steps, self.session.counters.updates

    def _save(self) -> None:
        counters = self.session.counters
        if self.saved_at != self._position():
            self.metrics.sync()
            counters.seconds, counters.lines = self.clock.elapsed(), self.metrics.lines
            save(self.session, self.folder.checkpoints, self.manifest)
            self.saved_at = self._position()

    def _finish(self) -> dict[str, Any]:
        counters = self.session.counters
        self._save()
        outcome = self._evaluate(self.session.core.eval.final_episodes, record=True)
        self._draw_dream()
        if outcome.frames:
            save_webp(np.stack(outcome.frames), self.folder.videos / "evaluation.webp", fps=15)
        return {
            "env": self.session.env_id,
            "env_steps": counters.env_steps,
            "updates": counters.updates,
            "wall_seconds": round(self.clock.elapsed(), 1),
            "alarms": sorted(self.session.health.raised),
            **outcome.summary(),
        }

    def _out_of_time(self) -> bool:
        minutes = self.session.core.minutes
        return minutes is not None and self.clock.elapsed() > 60 * minutes


def crossed(before: int, now: int, every: int) -> bool:
    """Whether counting from `before` to `now` passed a multiple of `every` (0: never)."""
    return every > 0 and before // every != now // every
