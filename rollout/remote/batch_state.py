"""What a batch under way leaves on disk, so that another process can go on with it.

The file is written before anything is sent, and after each step; whoever finds it knows which job to look for at the provider.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from sparring.rollout.errors import RemoteError
from sparring.rollout.files import sync_folder, write_durably


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
    write_durably(path, msgspec.json.encode(state))


def drop_state(path: Path) -> None:
    """The job is done."""
    path.unlink(missing_ok=True)
    sync_folder(path.parent)
