"""Moves the files of runs to and from the Hub by its own client, huggingface_hub, which is imported when it is needed.

The client finds the token itself: what `hf auth login` saved, or HF_TOKEN. It is read nowhere else and never shown.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, final

from worldlab.errors import CheckpointError, ConfigError, one_line
from worldlab.runs.stores import RunCard, StoredRun
from worldlab_hub.header import with_header
from worldlab_hub.troubles import client, hub_errors

_REPO = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*", re.ASCII)
_REVISION = re.compile(r"[A-Za-z0-9][\w./-]{0,199}", re.ASCII)
_COMMIT = re.compile(r"[0-9a-f]{40}", re.ASCII)
REPLACED = ("checkpoints/*", "videos/*", "plugins/*", "replay/*", "result.json")
"""Files of an earlier version that a new one replaces. Others, which people may have added, stay."""


@final
class HubStore:
    """A run is a model repository "user/name"; its version is the hash of a commit."""

    def find(self, address: str) -> StoredRun:
        name, revision = split_revision(address)
        if _COMMIT.fullmatch(revision):
            return StoredRun(name, revision)  # a commit never changes, so the server need not resolve it
        hub = client()
        with hub_errors(address):
            commit = hub.HfApi(endpoint=endpoint()).model_info(name, revision=revision or None).sha
        if commit is None or not _COMMIT.fullmatch(commit):
            raise ConfigError(one_line(f"the hub names no commit of {address!r}"), fix="check HF_ENDPOINT")
        return StoredRun(name, commit)

    def fetch(self, run: StoredRun, file: str, folder: Path, limit: int) -> Path:
        hub = client()
        url = hub.hf_hub_url(run.name, file, revision=run.version, endpoint=endpoint())
        with hub_errors(run.name, file), no_bars():
            size = hub.get_hf_file_metadata(url, endpoint=endpoint()).size
            if size is None or size > limit:
                raise CheckpointError(
                    one_line(f"{file[-50:]!r} is refused: the hub has {size} bytes, at most {limit} were declared"),
                    fix="publish the run again if it is yours; else do not trust it",
                )
            fetched = hub.hf_hub_download(
                run.name, file, revision=run.version, local_dir=folder, endpoint=endpoint(), library_name="worldlab"
            )
        return Path(fetched)

    def publish(self, address: str, folder: Path, card: RunCard, *, private: bool) -> str:
        name, revision = split_revision(address)
        if revision:
            raise ConfigError("a run is published without a revision", fix=f"give hf:{name}; the commit gets a hash")
        hub = client()
        files = sorted(path for path in folder.rglob("*") if path.is_file())
        operations = [hub.CommitOperationAdd(path.relative_to(folder).as_posix(), path) for path in files]
        operations.append(hub.CommitOperationAdd("README.md", with_header(card).encode()))
        api = hub.HfApi(endpoint=endpoint(), library_name="worldlab")
        with hub_errors(name), no_bars():
            url = api.create_repo(name, private=private or None, exist_ok=True)
            kept = {operation.path_in_repo for operation in operations}
            old = [path for path in api.list_repo_files(name) if path not in kept and _is_replaced(path)]
            operations += [hub.CommitOperationDelete(path, is_folder=False) for path in old]
            api.create_commit(name, operations, commit_message=one_line(card.facts.get("title", "a run of worldlab")))
        return str(url)


def split_revision(address: str) -> tuple[str, str]:
    """Return repository and revision of "user/name@revision"; the revision is "" if none is given. Raises: ConfigError."""
    name, at, revision = address.partition("@")
    if not _REPO.fullmatch(name) or ".." in name or (at and not _is_revision(revision)):
        raise ConfigError(
            one_line(f"{one_line(address, 60)!r} is no run on the hub"),
            cause="a name is user/name, and a revision a branch, a tag or a commit",
            fix="hf:user/name or hf:user/name@revision",
        )
    return name, revision


def _is_revision(text: str) -> bool:
    return _REVISION.fullmatch(text) is not None and ".." not in text


def _is_replaced(path: str) -> bool:
    return any(path == one or (one.endswith("*") and path.startswith(one[:-1])) for one in REPLACED)


def endpoint() -> str | None:
    """Return the server that HF_ENDPOINT names now; None for the client's own."""
    return (os.environ.get("HF_ENDPOINT") or "").rstrip("/") or None


@contextmanager
def no_bars() -> Iterator[Any]:
    """Silence the client's progress bars: one for each of a dozen small files says nothing."""
    utils = client().utils
    silent = utils.are_progress_bars_disabled()
    if not silent:
        utils.disable_progress_bars()
    try:
        yield
    finally:
        if not silent:
            utils.enable_progress_bars()
