"""The environments of another package as "prefix:task", such as "dmc:cartpole-swingup"."""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from worldlab.errors import EnvError, WorldlabError, one_line
from worldlab_envs.headless import go_headless

if TYPE_CHECKING:
    import gymnasium

    from worldlab.settings import EnvSettings


@dataclass(frozen=True)
class PackageAdapter:
    """The adapter of the environments of one package, which the extra `worldlab[prefix]` installs.

    package: the name under which Python imports it. tasks: returns the names of its tasks; a package that is not
    installed may have none. build: builds the wrapped environment of a task. beneath: packages beneath it whose versions
    change its numbers. returns: the possible returns of every task, with its own limit, if they are known.
    """

    prefix: str
    package: str
    tasks: Callable[[], Sequence[str]]
    build: Callable[[str, EnvSettings], gymnasium.Env]
    beneath: tuple[str, ...] = ()
    returns: tuple[float, float] | None = None

    def return_bounds(self, id: str, settings: EnvSettings) -> tuple[float, float] | None:
        """Return the possible returns of an episode (worldlab.env.find.BoundsReturns)."""
        return self.returns if settings.time_limit is None else None

    def packages(self) -> tuple[str, ...]:
        """Return the packages whose code defines the tasks (worldlab.study.compare.identity.HasPackages)."""
        return (self.package, *self.beneath)

    def names(self) -> list[str]:
        """Return all ids."""
        return [f"{self.prefix}:{task}" for task in self.tasks()]

    def resolve(self, id: str) -> str | None:
        """Return the id in the spelling of `names`; upper case, "_" and "-" do not matter. None if unknown.

        Raises: EnvError, with the command that installs the package, if it is missing; EnvError for the prefix alone.
        """
        prefix, _, typed = id.partition(":")
        if prefix != self.prefix:
            return None
        known = {_fold(task): task for task in self.tasks()}
        task = known.get(_fold(typed))
        if not typed and known:
            raise EnvError(
                f"env {prefix!r} names no task of {self.package}",
                cause=f"tasks: {', '.join(known.values())}",
                fix=f"--env {prefix}:{next(iter(known.values()))}",
            )
        if (task is not None or not known) and not installed(self.package):
            raise EnvError(
                one_line(f"env {one_line(id, 40)!r} needs the package {self.package}, which is not installed"),
                cause=f"it comes with the extra {self.prefix!r} of worldlab",
                fix=f'pip install "worldlab[{self.prefix}]"',
            )
        return None if task is None else f"{prefix}:{task}"

    def make(self, id: str, settings: EnvSettings) -> gymnasium.Env:
        """Build the wrapped environment of a full id. Raises: EnvError."""
        go_headless()
        # The packages' notes on themselves help nobody who trains on them.
        logging.getLogger("absl").setLevel(logging.ERROR)
        try:
            return self.build(id.partition(":")[2], settings)
        except WorldlabError:
            raise
        except Exception as error:
            raise EnvError(
                one_line(f"env {one_line(id, 50)!r} cannot be built: {type(error).__name__}"),
                cause=one_line(error, 300),
                fix=f'pip install "worldlab[{self.prefix}]" installs the versions that work together',
            ) from error


def installed(package: str) -> bool:
    """Return whether a package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def _fold(name: str) -> str:
    return name.lower().replace("_", "-")
