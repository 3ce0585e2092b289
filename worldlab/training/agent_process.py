"""Lets the agent learn in a process of its own, so that two cores train: one the world model, the other the agent.

    main process     | model 1 | model 2 | model 3 | ...
    agent's process            | agent 1 | agent 2 | ...

Update k of the agent starts from the posterior states and the weights of update k of the model, exactly as in one
process. The only difference is that actions are chosen by a policy one update older. The random numbers of the dreams
come from a seed that the agent's stream draws when the process starts. The main process waits for a result before it
sends the next job, so a run does not depend on which process is faster.

The process is a child with a pipe. It ends with its parent, and no file or shared memory is left behind. If it cannot
start, dies or fails, the run goes on in the main process (`BesideError`).
"""

from __future__ import annotations

import io
import multiprocessing
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress
from multiprocessing.connection import Connection
from typing import Any, cast

import cloudpickle
import numpy as np
import torch
from torch import Tensor, nn

from worldlab import errors
from worldlab.agent import Agent, Experience, OwnLearner
from worldlab.errors import WorldlabError
from worldlab.registry import PluginFiles
from worldlab.runs.machine import available_cores
from worldlab.settings import CoreSettings
from worldlab.training.machine import keep_memory
from worldlab.training.trainer import BesideError, Generators, Trainer

WORTH = 500
"""Updates from which on a run repays the start of the process, which imports torch: about two seconds of a core."""


def can_learn_beside(core: CoreSettings, agent: Agent, device: torch.device, cores: int) -> bool:
    """Return whether the agent of a run may learn in a process of its own, and two processes have enough cores.

    With train.threads = 0 one process uses all cores, which is better for large models: with 0.6M parameters and 1,024
    starts, two threads took 0.77 of the time of two processes (benchmarks/results/updates.json).
    """
    allowed = core.train.parallel and not core.strict and device.type == "cpu" and sys.platform != "win32"
    learns = bool(agent.players()) and not isinstance(agent, OwnLearner) and not agent.reads_sequences
    return allowed and learns and 0 < 2 * core.train.threads <= cores and core.steps * core.train.ratio >= WORTH


def learn_beside(trainer: Trainer, core: CoreSettings, device: torch.device, files: PluginFiles) -> None:
    """Give the trainer of a run an `AgentProcess` if it can use one. files: plugin files that the process loads.

    An update that is one graph contains that of the agent.
    """
    if trainer.static is None and can_learn_beside(core, trainer.agent, device, available_cores()):
        trainer.beside = AgentProcess(files, core.train.threads)


class AgentProcess:
    """The child process, seen from the main process.

    files: plugin files that the child loads first. threads: CPU threads of the child.
    """

    def __init__(self, files: PluginFiles, threads: int):
        self._files, self._threads = files, threads
        self._busy = self._started = False
        self._pipe: Connection | None = None
        self._process: subprocess.Popen[bytes] | None = None
        # Not multiprocessing's spawn, which imports the user's script again: a script without a guard would train twice.
        ours, theirs = multiprocessing.Pipe()
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
        command = [sys.executable, "-P", "-m", __name__, str(theirs.fileno())]
        with suppress(OSError), theirs:
            # A session of its own: an interrupt at the terminal reaches the main process only, which then saves.
            self._process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                pass_fds=(theirs.fileno(),),
                start_new_session=True,
            )
            self._pipe = ours

    def learn(self, trainer: Trainer, experience: Experience) -> dict[str, Tensor]:
        """Start an update of the agent; return the metrics of the previous one (see `Beside`)."""
        if not self._started:
            self._send(_work(self._files, self._threads, trainer))
            self._started = True
        metrics = self._receive(trainer) if self._busy else {}
        weights = [tensor.detach() for tensor in _tensors(trainer.model)]
        self._send(_pack(("learn", weights, experience, trainer.progress, trainer.updates)))
        self._busy = True
        return metrics

    def synchronise(self, trainer: Trainer) -> None:
        """Wait for the update in progress; load weights and optimisers (see `Beside`)."""
        if self._busy:
            self._receive(trainer)
            self._send(_pack(("optimizers",)))
            for optimizer, state in zip(trainer.agents.values(), self._answer(), strict=True):
                optimizer.load_state_dict(state)

    def close(self, seconds: float = 2.0) -> None:
        """End the process within `seconds`; a second call does nothing."""
        if self._pipe is not None:
            self._pipe.close()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(seconds)
            self._process.kill()
            self._process.wait()
        self._pipe = self._process = None

    def _receive(self, trainer: Trainer) -> dict[str, Tensor]:
        self._busy = False
        weights, metrics = self._answer()
        _copy(trainer.agent, weights)
        return metrics

    def _send(self, message: bytes) -> None:
        if self._pipe is None:
            raise BesideError("its process could not be started")
        try:
            self._pipe.send_bytes(message)
        except OSError as error:
            raise BesideError(self._death()) from error

    def _answer(self) -> Any:
        assert self._pipe is not None
        try:
            kind, content = pickle.loads(self._pipe.recv_bytes())
        except (EOFError, OSError) as error:
            raise BesideError(self._death()) from error
        if kind == "error":
            name, message, cause, fix = content
            raise getattr(errors, name)(message, cause=cause, fix=fix)
        if kind == "failed":
            raise BesideError(content)
        return content

    def _death(self) -> str:
        assert self._process is not None
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(2)
        code = self._process.returncode
        return f"its process died (exit code {code}{', out of memory?' if code == -9 else ''})"


# ---- messages ----


class _Pickler(pickle.Pickler):
    """Pickles tensors as arrays: torch's own way goes through files or shared memory."""

    def reducer_override(self, obj: Any) -> Any:
        if isinstance(obj, Tensor) and not isinstance(obj, nn.Parameter):
            return torch.from_numpy, (np.ascontiguousarray(obj.detach().numpy()).reshape(obj.shape),)
        return NotImplemented


def _pack(message: Any) -> bytes:
    buffer = io.BytesIO()
    _Pickler(buffer, protocol=5).dump(message)
    return buffer.getvalue()


def _work(files: PluginFiles, threads: int, trainer: Trainer) -> bytes:
    """Return what the child starts from: the plugin files first, which the rest may need to be unpickled."""
    seed = int(torch.randint(2**31, (), generator=trainer.generators.agent))
    states = [optimizer.state_dict() for optimizer in trainer.agents.values()]
    try:
        return cloudpickle.dumps(
            (files, trainer.model, trainer.agent, trainer.settings, trainer.products, states, threads, seed)
        )
    except Exception as error:
        raise BesideError(f"a component cannot be sent to another process ({type(error).__name__}: {error})") from error


def _tensors(module: nn.Module) -> list[Tensor]:
    return list(cast(dict[str, Tensor], module.state_dict()).values())


@torch.no_grad()
def _copy(module: nn.Module, values: Sequence[Tensor]) -> None:
    for tensor, value in zip(_tensors(module), values, strict=True):
        tensor.copy_(value)


# ---- the child ----


def main() -> None:
    """Serve requests until the pipe closes."""
    pipe = Connection(int(sys.argv[1]))
    with suppress(EOFError, OSError):  # the parent is gone, or wants no more
        trainer: Trainer | None = None
        while True:
            message = pipe.recv_bytes()
            try:
                if trainer is None:
                    trainer = _open(message)
                    continue
                kind, *content = pickle.loads(message)
                done = _learn(trainer, *content) if kind == "learn" else _optimizer_states(trainer)
                reply: Any = ("ok", done)
            except WorldlabError as error:
                reply = ("error", (type(error).__name__, error.message, error.cause, error.fix))
            except Exception:
                reply = ("failed", traceback.format_exc().strip())
            pipe.send_bytes(_pack(reply))


def _open(work: bytes) -> Trainer:
    _, model, agent, settings, products, states, threads, seed = pickle.loads(work)
    torch.set_num_threads(threads)
    keep_memory()
    generator = torch.Generator().manual_seed(seed)
    trainer = Trainer(model, agent, settings, Generators(generator, generator))
    trainer.products = products
    for optimizer, state in zip(trainer.agents.values(), states, strict=True):
        optimizer.load_state_dict(state)
    return trainer


def _learn(
    trainer: Trainer, weights: Sequence[Tensor], experience: Experience, progress: float, update: int
) -> tuple[list[Tensor], dict[str, Tensor]]:
    _copy(trainer.model, weights)
    metrics = trainer.learn_alone(experience, progress, update)
    return [tensor.detach() for tensor in _tensors(trainer.agent)], metrics


def _optimizer_states(trainer: Trainer) -> list[dict[str, Any]]:
    return [optimizer.state_dict() for optimizer in trainer.agents.values()]


if __name__ == "__main__":
    main()
