"""Opening one of our SQLite files: made when new, recognised when old, refused when foreign, broken or from a newer version.

Owns the connection's settings (WAL, busy timeout) and the check of the file's identity; tables and queries are their owners'.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sparring.scenarios.errors import SparringError

BUSY_SECONDS = 30.0
"""How long a reader or writer waits for another's transaction."""


class Unusable(Exception):
    """The file cannot serve; the text says why, and `explained` wraps it in the caller's own error."""


@contextmanager
def explained(kind: type[SparringError], doing: str, hint: str) -> Iterator[None]:
    """Turns what the database or the file system raises inside into `kind`: "cannot `doing` (why): `hint`"."""
    try:
        yield
    except Unusable as error:
        raise kind(f"{error}: give another path") from error
    except (sqlite3.Error, OSError) as error:
        raise kind(f"cannot {doing} ({error}): {hint}") from error


def connect(path: Path, schema: Path, *, application: int, version: int, read_only: bool = False) -> sqlite3.Connection:
    """A connection to the database at `path`, made by the script `schema` where there is none yet.

    `application` marks the file as ours (SQLite's application id), `version` is the schema's. Raises `Unusable` for a file that
    is missing (read-only), foreign, corrupt or of a newer version; `sqlite3.Error` and `OSError` where the system refuses.
    """
    if read_only and not path.is_file():
        raise Unusable(f"{path} does not exist")
    mode = "ro" if read_only else "rwc"
    uri = f"{path.absolute().as_uri()}?mode={mode}"
    connection = sqlite3.connect(uri, uri=True, timeout=BUSY_SECONDS, isolation_level=None)
    try:
        _identify(connection, path, schema, application, version, read_only)
    except sqlite3.DatabaseError as error:
        connection.close()
        if isinstance(error, sqlite3.OperationalError):
            raise
        raise Unusable(f"{path} is not a usable SQLite database ({error})") from error
    except BaseException:
        connection.close()
        raise
    return connection


@contextmanager
def transaction(connection: sqlite3.Connection) -> Iterator[sqlite3.Connection]:
    """All or nothing; takes the write lock at once, so that two writers queue instead of failing half-way."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield connection
        connection.execute("COMMIT")
    except BaseException:
        if connection.in_transaction:  # a full disk makes SQLite roll back by itself
            connection.execute("ROLLBACK")
        raise


def _identify(connection: sqlite3.Connection, path: Path, schema: Path, application: int, version: int, read_only: bool) -> None:
    if not read_only and _identity(connection) == (0, 0):
        _make(connection, schema, application, version)
    found = _identity(connection)
    if found[0] != application:
        raise Unusable(f"{path} is a database of another program")
    if found[1] > version:
        raise Unusable(f"{path} has schema version {found[1]}, this sparring knows up to {version}: update sparring")
    if found[1] < version:
        raise Unusable(f"{path} has schema version {found[1]}, from an earlier sparring, and this one reads {version}")
    if not read_only:
        _enter_wal(connection)
    # WAL with NORMAL survives a killed process at any instant; only a power cut may take back the last transactions.
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA foreign_keys = ON")


def _make(connection: sqlite3.Connection, schema: Path, application: int, version: int) -> None:
    """Fills an empty file; leaves any other alone, also one that another process has filled since we looked."""
    with transaction(connection):
        if connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            return
        for statement in schema.read_text(encoding="utf-8").split(";\n"):
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {application}")
        connection.execute(f"PRAGMA user_version = {version}")


def _enter_wal(connection: sqlite3.Connection) -> None:
    """Switches to WAL. SQLite does not wait for others here, whatever the busy timeout, so the waiting is ours."""
    deadline = time.monotonic() + BUSY_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) or time.monotonic() > deadline:
                raise
            time.sleep(0.01)


def _identity(connection: sqlite3.Connection) -> tuple[int, int]:
    """Whose file it is, and its schema's version; (0, 0) where nobody said."""
    application, version = (connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
    return application, version
