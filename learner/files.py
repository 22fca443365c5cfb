"""Writing a folder so that a reader finds all of it or none: temporary name, fsync, rename."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

from sparring.rollout.files import sync_folder


def write_folder(folder: Path, files: Mapping[str, bytes]) -> None:
    """Puts `files` into `folder`; a name may lie one folder deeper. A folder that exists keeps its other files, and each of ours
    is replaced at once."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{folder.name}.", dir=folder.parent))
    try:
        temporary.chmod(0o755)
        for name, data in files.items():
            (temporary / name).parent.mkdir(exist_ok=True)
            with open(temporary / name, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
        sync_folder(temporary)
        if folder.exists():
            for name in files:
                (folder / name).parent.mkdir(exist_ok=True)
                os.replace(temporary / name, folder / name)
            sync_folder(folder)
        else:
            temporary.rename(folder)
        sync_folder(folder.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
