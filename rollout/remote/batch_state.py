"""What a batch under way leaves on disk, so that another process can go on with it.

The file is written before anything is sent, and after each step; whoever finds it knows which job to look for at the provider.
"""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from sparring.rollout.errors import RemoteError


class BatchState(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A job. `file` and `batch` are the provider's names, "" as long as none is known to this side."""

    job: str
    """Our name for it, under which the provider's list shows it."""
    model: str
    """The player spec."""
    endpoint: str
    """The base URL that it was sent to."""
    digests: tuple[str, ...]
    """Of its requests."""
    file: str = ""
    batch: str = ""
    started: float = 0.0
    """When the job was made, in seconds since 1970."""


def load_state(path: Path) -> BatchState | None:
    """The job under way. Raises `RemoteError` for a file that is none."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=BatchState)
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, ValueError) as error:
        raise RemoteError(f"{path} is not the state of a batch ({error}): move it away to begin anew") from error


def save_state(path: Path, state: BatchState) -> None:
    """Durably, and never half."""
    save_durably(path, msgspec.json.encode(state))


def save_durably(path: Path, data: bytes) -> None:
    """A temporary file, synced, takes the place of the old one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.new")
    with open(fresh, "wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(fresh, path)
    _sync(path.parent)


def drop_state(path: Path) -> None:
    """The job is done."""
    path.unlink(missing_ok=True)
    _sync(path.parent)


def _sync(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
