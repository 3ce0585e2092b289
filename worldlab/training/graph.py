"""Makes the whole update from buffers of fixed shapes, records it once, and replays it: on a GPU as one CUDA graph.

An update is thousands of small calls, and on a GPU the host is slower at starting them than the device at computing them. A
graph starts all of them at once. What this buys is not measured: no GPU was available when it was written
(`python benchmarks/gpu.py` measures it).

On the CPU the same code runs without recording, and its updates equal those of the plain trainer bit for bit
(tests/training/test_graph.py), or with a recorder that compiles it (`worldlab.training.compiled`). The rules of a recording, by
the documentation of torch.cuda.graphs (torch 2.10 to 2.13), and where each is kept:

    no value is read on the host, no         `worldlab.nn.may_read`; the last eager update is watched for host reads
    shape depends on one                     (worldlab.training.host_reads), and the place is reported
    inputs and outputs stay in place         the batch and the learning rates are copied to buffers; metrics are copied out
                                             after each replay
    parameters and states stay in place      optimisers create their states in the eager updates, and a recording that
                                             created more is refused; `load_state_dict` drops the graph
    gradients belong to the graph            the recorded update begins each backward pass with gradients set to None
    optimisers are capturable                `_prepared`: fused kernels with learning rates as tensors; a step that is not
                                             finite is skipped by the kernel (`Adam.step_if`)
    random numbers go on                     both generators are registered with the graph (register_generator_state)
    no cast of a weight is kept              autocast without its cache, inside of the recording (`Trainer._autocast`)
    libraries are warm                       `EAGER` updates run before, on the stream that records
    nothing else happens on the host         two eager updates and two replays from the same state are compared: metrics,
                                             random streams, and which tensors change (`_verify`)

Everything that stops a recording is a reason, not an error: updates then run eagerly, and `reason` says why.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from itertools import pairwise
from typing import Any, Protocol, final

import torch
from torch import Tensor

from worldlab import tree
from worldlab.agent import Agent, OwnLearner
from worldlab.errors import WorldlabError, one_line
from worldlab.interfaces import Batch, HasMembers
from worldlab.model.schedule import Stage
from worldlab.nn import fixed_shapes
from worldlab.training.finite import Finite
from worldlab.training.host_reads import shortest, watch_host_reads
from worldlab.training.trainer import Outcome, Trainer
from worldlab.world_model import WorldModel

log = logging.getLogger("worldlab")
EAGER = 3
"""Least updates of a stage that run eagerly before it is recorded: optimisers, libraries and initialisations from data start."""
PATIENCE = 20
"""Updates of a stage after which one that still reads values on the host is not recorded."""
TOLERANCE = 0.05
"""Largest difference of a metric between eager updates and replays, relative to it or, if it is small, to 1.

Kernels that add in another order round differently, in bfloat16 by up to 1/256, and a sampled code may then be another.
"""


class Recorder(Protocol):
    """Records the work of a call on a device, and does it again."""

    after: int
    """Updates of a stage that run eagerly before it is recorded, at least `EAGER`."""

    def beside(self) -> AbstractContextManager[Any]:
        """Return the context for eager work before a recording."""
        ...

    def record(self, call: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Record a call. Returns its results, which `replay` overwrites. It may leave any value in all tensors."""
        ...

    def replay(self) -> None:
        """Do the recorded work, in the order of the current stream."""
        ...

    def forget(self) -> None:
        """Free what a recording holds."""
        ...


class NotRecordedError(Exception):
    """An update cannot be recorded. The message is the reason."""


def why_not_recorded(model: WorldModel, agent: Agent) -> str:
    """Return why the updates of a mix cannot be recorded; "" if nothing is known to prevent it."""
    if isinstance(agent, OwnLearner):
        return f"{type(agent).__name__} steps its own optimisers"
    dynamics = model.dynamics
    if isinstance(dynamics, HasMembers) and len(dynamics.each()) > 1:
        return f"{type(dynamics).__name__} imagines each row with a member that is drawn, so shapes depend on numbers"
    return ""


@final
class StaticUpdate:
    """Makes updates from static buffers; with a recorder, from the fourth update of a stage on by replaying it.

    recorder: None runs all updates eagerly. reason: why updates are not recorded, "" while they are or may be.
    """

    def __init__(self, trainer: Trainer, recorder: Recorder | None):
        self.trainer = trainer
        self.recorder = recorder
        self.reason = why_not_recorded(trainer.model, trainer.agent) if recorder is not None else "no recorder"
        self._rates = [
            [_rate_like(group) for group in optimizer.param_groups] for optimizer in trainer.optimizers.values()
        ]
        self._forget()
        for optimizer in trainer.optimizers.values():
            optimizer.register_load_state_dict_post_hook(lambda _: self._forget())  # states are then other tensors

    @property
    def recorded(self) -> bool:
        """Whether the last update was a replay."""
        return self._recorded is not None

    def run(self, batch: Batch, stage: Stage) -> Outcome:
        """Make one update, as `Trainer.compute` does. Raises: WorldlabError if a failed recording cannot be undone."""
        self._fill(batch, stage)
        if self._recorded is not None:
            return self._replay(self._recorded)
        self._seen += 1
        if (
            self.recorder is None
            or self.reason
            or not _is_constant(self.trainer, stage)
            or self._seen < self.recorder.after
        ):
            return self._eager(stage)
        if self._clean:
            return self._start(self.recorder, stage)
        with watch_host_reads(self.trainer.model.device) as places:
            outcome = self._eager(stage)
        self._clean = not places
        if places and self._seen >= PATIENCE:
            self._give_up(f"values are read on the host at {shortest(places)}")
        return outcome

    # ---- inputs ----

    def _fill(self, batch: Batch, stage: Stage) -> None:
        """Copy the inputs of an update to their buffers. A new stage, or a batch of new shapes, starts anew."""
        leaves = tree.leaves(batch)
        key = (stage, tuple((leaf.shape, leaf.dtype, leaf.device) for leaf in leaves))
        if key != self._key:
            self._forget()
            self._key, self._batch = key, tree.tree_map(torch.empty_like, batch)
        for buffer, leaf in zip(tree.leaves(self._batch), leaves, strict=True):
            buffer.copy_(leaf)
        for optimizer, rates in zip(self.trainer.optimizers.values(), self._rates, strict=True):
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                rate.fill_(group["lr"])

    def _forget(self) -> None:
        if self.recorder is not None:
            self.recorder.forget()
        self._key: Any = None
        self._batch: Any = None
        self._seen, self._clean = 0, False
        self._recorded: _Recorded | None = None

    # ---- eager updates ----

    def _eager(self, stage: Stage) -> Outcome:
        with nullcontext() if self.recorder is None else self.recorder.beside():
            return self._compute(stage, capturable=False)

    def _compute(self, stage: Stage, capturable: bool) -> Outcome:
        with fixed_shapes(), self._prepared(capturable):
            return self.trainer.compute(self._batch, stage)

    @contextmanager
    def _prepared(self, capturable: bool) -> Generator[None]:
        """Within the block, optimisers read their learning rates from the device."""
        with ExitStack() as stack:
            for optimizer, rates in zip(self.trainer.optimizers.values(), self._rates, strict=True):
                for group, rate in zip(optimizer.param_groups, rates, strict=True):
                    before = {key: group[key] for key in ("lr", "capturable")}
                    stack.callback(group.update, before)
                    group.update(lr=rate, capturable=capturable)
            yield

    # ---- recording ----

    def _start(self, recorder: Recorder, stage: Stage) -> Outcome:
        """Record this update, verify the recording and replay it; or make it eagerly if that is impossible."""
        snapshot = _Snapshot(self.trainer)
        try:
            recorded = self._record(recorder, stage)
            snapshot.restore()
            self._verify(recorded, stage, snapshot)
        except NotRecordedError as error:
            self._give_up(str(error))
        except Exception as error:
            # The end of a broken recording fails, too: its error follows the one that says what was wrong.
            errors = [one for one in (error.__context__, error) if one is not None]
            self._give_up("; then ".join(f"{type(one).__name__}: {one_line(one, 200)}" for one in errors))
        else:
            snapshot.restore()
            self._recorded = recorded
            return self._replay(recorded)
        recorder.forget()
        snapshot.restore()
        return self._eager(stage)

    def _record(self, recorder: Recorder, stage: Stage) -> _Recorded:
        names: list[str] = []
        steps: list[Finite] = []

        def call() -> tuple[Tensor, ...]:
            outcome = self._compute(stage, capturable=True)
            names[:], steps[:] = outcome.metrics, outcome.steps
            return self._join(outcome), *(step.flags for step in outcome.steps)

        states = self._states()
        values, *flags = recorder.record(call)
        if self._states() != states:
            raise NotRecordedError("an optimiser began to train parameters that had no gradient before")
        return _Recorded(
            recorder, names, values, [Finite(s.players, s.terms, f) for s, f in zip(steps, flags, strict=True)]
        )

    def _join(self, outcome: Outcome) -> Tensor:
        """Return all metrics as one float32 vector."""
        device = self.trainer.model.device
        for name, value in outcome.metrics.items():
            if value.device != device or value.numel() != 1:
                raise NotRecordedError(f"metric '{name}' is no number on {device}")
        values = [value.detach().float().reshape(1) for value in outcome.metrics.values()]
        return torch.cat([torch.zeros(0, device=device), *values])  # an agent that does not learn has none

    def _states(self) -> list[int]:
        """Return the number of parameters that have a state, for each optimiser."""
        return [len(optimizer.state) for optimizer in self.trainer.optimizers.values()]

    def _replay(self, recorded: _Recorded) -> Outcome:
        values = self._replayed(recorded)
        return Outcome(dict(zip(recorded.names, values.unbind(), strict=True)), recorded.steps)

    @staticmethod
    def _replayed(recorded: _Recorded) -> Tensor:
        """Replay an update. Returns its metrics, copied: the next replay overwrites them."""
        recorded.recorder.replay()
        return recorded.values.clone()

    def _verify(self, recorded: _Recorded, stage: Stage, snapshot: _Snapshot) -> None:
        """Compare two eager updates with two replays, all from the snapshot. Raises: NotRecordedError."""
        eager, advanced = self._twice(lambda: self._join(self._eager(stage)), snapshot)
        changed = snapshot.changed()
        snapshot.restore()
        replayed, advances = self._twice(lambda: self._replayed(recorded), snapshot)
        if advances != advanced:
            raise NotRecordedError("a replay does not advance the random streams as an eager update does")
        if wrong := changed ^ snapshot.changed():
            raise NotRecordedError(
                f"a replay and an eager update change different tensors: {', '.join(sorted(wrong)[:3])}"
            )
        for before, after in zip(eager, replayed, strict=True):
            far = (before - after).abs() > TOLERANCE * before.abs().clamp(min=1.0)
            far &= ~(before.isnan() & after.isnan())
            if bool(far.any()):
                index = int(far.int().argmax())
                pair = f"{float(before[index]):.4g} and {float(after[index]):.4g}"
                raise NotRecordedError(f"an eager update and a replay differ in '{recorded.names[index]}': {pair}")

    @staticmethod
    def _twice(update: Callable[[], Tensor], snapshot: _Snapshot) -> tuple[list[Tensor], list[list[bool]]]:
        """Make two updates. Returns the metrics of each, and which random streams each has advanced."""
        states, metrics = [snapshot.streams()], []
        for _ in range(2):
            metrics.append(update())
            states.append(snapshot.streams())
        advanced = [[a != b for a, b in zip(*pair, strict=True)] for pair in pairwise(states)]
        return metrics, advanced

    def _give_up(self, reason: str) -> None:
        self.reason = reason
        log.warning("updates run without a graph: %s", reason)


class _Recorded:
    """A recorded update: the names of its metrics, and its results, which each replay overwrites."""

    def __init__(self, recorder: Recorder, names: Sequence[str], values: Tensor, steps: Sequence[Finite]):
        self.recorder = recorder
        self.names = list(names)
        self.values = values
        self.steps = steps


class _Snapshot:
    """A copy of all that an update changes: parameters, buffers, states of optimisers, and random streams."""

    def __init__(self, trainer: Trainer):
        self._tensors = dict(_state_of(trainer))
        self._copies = {name: tensor.detach().clone() for name, tensor in self._tensors.items()}
        self._generators = (trainer.generators.model, trainer.generators.agent)
        self._states = [generator.get_state() for generator in self._generators]

    @torch.no_grad()
    def restore(self) -> None:
        """Set everything to the values of the copy, in place. Raises: WorldlabError if a random stream is unusable."""
        for name, tensor in self._tensors.items():
            tensor.copy_(self._copies[name])
        try:
            for generator, state in zip(self._generators, self._states, strict=True):
                generator.set_state(state)
                torch.empty(1, device=generator.device).uniform_(generator=generator)
                generator.set_state(state)
        except RuntimeError as error:
            raise WorldlabError(
                "a failed recording of an update left a random stream unusable",
                cause=one_line(error, 300),
                fix="--train.engine bfloat16, which records nothing",
            ) from error

    def changed(self) -> set[str]:
        """Return the names of the tensors that differ from the copy."""
        return {name for name, tensor in self._tensors.items() if not _same(tensor, self._copies[name])}

    def streams(self) -> list[bytes]:
        """Return the states of the random streams."""
        return [generator.get_state().numpy().tobytes() for generator in self._generators]


@final
class CudaRecorder:
    """Records with torch.cuda.CUDAGraph, on a stream of its own. generators: the random streams of the recorded work."""

    after = EAGER

    def __init__(self, device: torch.device, generators: Iterable[torch.Generator]):
        self._device = device
        self._generators = list(generators)
        self._stream = torch.cuda.Stream(device)
        self._graph: torch.cuda.CUDAGraph | None = None

    @contextmanager
    def beside(self) -> Generator[None]:
        """Run the block on the recording stream, after all earlier and before all later work of the current stream."""
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        with torch.cuda.stream(self._stream):
            yield
        current.wait_stream(self._stream)

    def record(self, call: Callable[[], tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
        """Record a call; nothing is computed. Raises: what the call or torch raises, with the former stream set again."""
        graph = torch.cuda.CUDAGraph()
        for generator in {id(one): one for one in self._generators}.values():
            graph.register_generator_state(generator)
        current = torch.cuda.current_stream(self._device)
        self._stream.wait_stream(current)
        try:
            with torch.cuda.graph(graph, stream=self._stream):
                results = call()
        finally:
            torch.cuda.set_stream(current)  # torch leaves its own stream set if the recording fails
        current.wait_stream(self._stream)
        self._graph = graph
        return results

    def replay(self) -> None:
        """Start the recorded work on the current stream."""
        assert self._graph is not None
        self._graph.replay()

    def forget(self) -> None:
        """Free the memory of the graph."""
        self._graph = None


def _rate_like(group: dict[str, Any]) -> Tensor:
    """Return a scalar for the learning rate of a group of parameters.

    The fused kernel of a GPU reads float32. That of the CPU takes float64, so that the rate is the one of the plain step.
    """
    device = group["params"][0].device
    return torch.zeros((), dtype=torch.float64 if device.type == "cpu" else torch.float32, device=device)


def _is_constant(trainer: Trainer, stage: Stage) -> bool:
    """Return whether no weight of a loss depends on the number of updates any more: a recording would keep its value."""
    settings = trainer.model.settings
    return not settings.capacity or not stage.model or stage.updates >= settings.capacity_updates


def _state_of(trainer: Trainer) -> Generator[tuple[str, Tensor]]:
    for role, module in (("model", trainer.model), ("agent", trainer.agent)):
        yield from ((f"{role}.{name}", parameter) for name, parameter in module.named_parameters())
        yield from ((f"{role}.{name}", buffer) for name, buffer in module.named_buffers())
    for player, optimizer in trainer.optimizers.items():
        for index, state in enumerate(optimizer.state.values()):
            yield from ((f"optimizer {player}.{index}.{name}", value) for name, value in state.items())


def _same(a: Tensor, b: Tensor) -> bool:
    return bool(((a == b) | ((a != a) & (b != b))).all())
