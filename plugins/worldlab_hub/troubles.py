"""Turns what the Hub and its client report into errors that say what is wrong, why, and what to do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from worldlab.errors import CheckpointError, ConfigError, StorageError, WorldlabError, import_extra, one_line

SIGN_IN = "hf auth login, or set HF_TOKEN to a token that may do this; check the name if it is not private"


def client() -> Any:
    """Import the Hub's client. Raises: PluginError with the command that installs it."""
    return import_extra("huggingface_hub", "hub", "the store 'hf'")


@contextmanager
def hub_errors(name: str, file: str = "") -> Iterator[None]:
    """Translate the errors of a block that talks to the Hub. name: the run. file: what is fetched of it."""
    try:
        yield
    except WorldlabError:
        raise
    except Exception as error:
        found = _translated(error, one_line(name, 60), one_line(file, 60))
        if found is None:
            raise
        raise found from None  # the client's own traceback holds requests, which no message should repeat


def _translated(error: Exception, name: str, file: str) -> WorldlabError | None:
    """Return the error for the user; None for one that is a bug."""
    import httpx2
    from huggingface_hub import errors

    status = _status(error)
    if isinstance(error, errors.RevisionNotFoundError):
        return ConfigError(
            one_line(f"the hub has no such revision: {name!r}"), fix="leave @revision out, or correct it"
        )
    if isinstance(error, errors.RemoteEntryNotFoundError):
        return CheckpointError(
            one_line(f"{name!r} lacks {file!r}: it is no run that worldlab has published, or not all of one"),
            cause="worldlab push writes bundle.json and the files it lists",
            fix="check the name; publish the run again if it is yours",
        )
    if (
        isinstance(error, errors.GatedRepoError)
        or status in (401, 403, 404)
        or isinstance(error, errors.RepositoryNotFoundError)
    ):
        return ConfigError(
            one_line(f"the hub refuses {name!r}: it is not there, or you may not do this with it"),
            cause=f"the hub answered {status or 'no'}; for a private run it does not say which of both it is",
            fix=SIGN_IN,
        )
    if isinstance(error, errors.HFValidationError):
        return ConfigError(one_line(f"{name!r} is no name on the hub"), cause=one_line(error, 200), fix="hf:user/name")
    if status is not None:
        cause = one_line(getattr(error, "server_message", "") or error, 300)
        return StorageError(one_line(f"the hub answered {status} for {name!r}"), cause=cause, fix="try again later")
    if isinstance(error, OSError) and error.errno is not None and not isinstance(error, ConnectionError | TimeoutError):
        return StorageError(
            one_line(f"what is fetched of {name!r} cannot be written: {error.strerror}"),
            cause=one_line(error, 300),
            fix="free space on the disk, or give another folder: worldlab pull ADDRESS DIR",
        )
    offline = (errors.OfflineModeIsEnabled, errors.LocalEntryNotFoundError, httpx2.TransportError, OSError)
    if isinstance(error, offline):
        return StorageError(
            one_line(f"the hub cannot be reached, or the connection broke, for {name!r}"),
            cause=one_line(f"{type(error).__name__}: {error}", 300),
            fix="check the network, HF_ENDPOINT and HF_HUB_OFFLINE, then try again; a folder that worldlab pull made needs none",
        )
    if isinstance(error, ValueError | RuntimeError):  # of a card that the hub does not accept, or a failed upload
        return StorageError(one_line(f"the hub did not take {name!r}"), cause=one_line(error, 300), fix="try again")
    return None


def _status(error: BaseException | None) -> int | None:
    """Return the HTTP status of an error or of what caused it."""
    while error is not None:
        response = getattr(error, "response", None)
        if response is not None:
            return int(response.status_code)
        error = error.__cause__
    return None
