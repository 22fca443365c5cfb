"""Keys: the one place that reads them from the environment, and that takes them out of any text which may be kept or shown."""

from __future__ import annotations

import logging
import os
import re

from sparring.rollout.errors import RemoteError

HIDDEN = "[hidden]"
SHOWN = 600
"""Characters of a provider's message that are kept."""

# What looks like a key though it is none of ours: providers echo the one they were sent, at times partly starred out.
_LIKE_A_KEY = re.compile(
    r"\b(?:sk|pk|rk|xai|gsk|hf|key)[-_][A-Za-z0-9_\-*.]{6,}"
    r"|\b[Bb]earer\s+[^\s\"',;]+"
    r"|(?i:\b(?:x-)?api[-_]?key\b[\"']?\s*(?:[:=]|provided:)\s*[\"']?)(?!\[hidden\])[^\s\"',;}]+"
)

_VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]{0,127}", re.ASCII)

_TALKATIVE = (
    "openai",
    "openai._base_client",
    "anthropic",
    "anthropic._base_client",
    "httpx2",
    "httpcore2.connection",
    "httpcore2.http11",
    "httpcore2.http2",
    "httpcore2.proxy",
    "httpcore2.socks",
)
"""Loggers of client libraries that tell of headers and bodies, though at levels nobody sees by default: a server may quote a key
there."""


class Secrets(logging.Filter):
    """The keys in use. As a filter of the client libraries' loggers it also takes them out of what those write.

    Example:
        >>> secrets = Secrets()
        >>> key = secrets.read("OPENAI_API_KEY", "openai:gpt-4o")
        >>> secrets.hide(f"Incorrect API key provided: {key}")
        'Incorrect API key provided: [hidden]'
    """

    def __init__(self) -> None:
        super().__init__()
        self._known: list[str] = []

    def close(self) -> None:
        """Leaves the loggers alone again."""
        for name in _TALKATIVE:
            logging.getLogger(name).removeFilter(self)

    def read(self, variable: str, model: str) -> str:
        """The key that an environment variable holds. Raises `RemoteError` naming the variable where it is not set."""
        if not _VARIABLE.fullmatch(variable):  # not quoted: it may be the key itself
            raise RemoteError(
                f"the api_key_env of {model} is no variable's name: name the variable that holds the key, not the key"
            )
        key = os.environ.get(variable, "").strip()
        if not key:
            raise RemoteError(f"{model} needs a key: set the environment variable {variable}")
        if not key.isascii() or not key.isprintable():
            raise RemoteError(f"the environment variable {variable} holds characters that no key has: set it again")
        if key not in self._known:
            for name in _TALKATIVE:
                logging.getLogger(name).addFilter(self)
            self._known.append(key)
            self._known.sort(key=len, reverse=True)  # a key that contains another goes first
        return key

    def hide(self, text: str) -> str:
        """A message of a provider or library without keys, on one line and of bounded length."""
        return " ".join(_LIKE_A_KEY.sub(HIDDEN, self.hide_known(text[: 64 * SHOWN])).split())[:SHOWN]

    def hide_known(self, text: str) -> str:
        """A text without the keys in use, otherwise unchanged."""
        for key in self._known:
            if key in text:
                text = text.replace(key, HIDDEN)
        return text

    def filter(self, record: logging.LogRecord) -> bool:
        """Lets every record through, without keys."""
        said = record.getMessage()
        if any(key in said for key in self._known):
            record.msg, record.args = self.hide_known(said), ()
        return True
