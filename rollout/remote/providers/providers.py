"""`Providers`: opens the provider of a model, one client for each endpoint, and closes them all."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from sparring.rollout.remote.config import RemoteConfig
from sparring.rollout.remote.models import ModelRef
from sparring.rollout.remote.providers.provider import Provider
from sparring.rollout.remote.secrets import Secrets


class Providers:
    """All that are open. Client libraries are imported when they are first needed."""

    def __init__(self, config: RemoteConfig, secrets: Secrets, given: Mapping[str, Provider]) -> None:
        """`given` stand in for the real ones, by player spec."""
        self._config, self._secrets, self._given = config, secrets, given
        self._clients: dict[str, Any] = {}
        self._open: list[Provider] = list(given.values())

    def open(self, ref: ModelRef) -> Provider:
        """The model's provider. Raises `RemoteError` where its key or library is missing."""
        if ref.spec in self._given:
            return self._given[ref.spec]
        provider = self._new(ref)
        self._open.append(provider)
        return provider

    async def close(self) -> None:
        for provider in self._open:
            await provider.close()
        self._open.clear()

    def _new(self, ref: ModelRef) -> Provider:
        connections = self._config.concurrency
        if ref.kind == "local":
            from sparring.rollout.remote.providers.local import LocalProvider

            return LocalProvider(ref)
        held = self._clients.get(ref.endpoint_name)
        if ref.kind == "anthropic":
            from sparring.rollout.remote.providers.anthropic import AnthropicProvider, open_anthropic

            speaker = held or open_anthropic(ref, self._secrets, connections)
            self._clients[ref.endpoint_name] = speaker
            return AnthropicProvider(ref, speaker, self._secrets)
        from sparring.rollout.remote.providers.openai import OpenAIProvider, open_openai

        client = held or open_openai(ref, self._secrets, connections)
        self._clients[ref.endpoint_name] = client
        return OpenAIProvider(ref, client, self._secrets)
