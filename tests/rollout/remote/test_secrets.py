"""Keys come from the environment and leave through nothing: no error text, log, row, cassette or traceback."""

from __future__ import annotations

import asyncio
import logging
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from aiohttp import web
from hypothesis import given
from hypothesis import strategies as st

from sparring.rollout.errors import RemoteError
from sparring.rollout.remote.call import ChatRequest
from sparring.rollout.remote.config import Endpoint, Price, RemoteConfig
from sparring.rollout.remote.remote import RemoteModels
from sparring.rollout.remote.secrets import HIDDEN, SHOWN, Secrets

KEY = "sk-proj-Abc123_DEF456-ghi789JKL"
ODD = "0123456789abcdef0123456789abcdef"
"""A key that looks like nothing in particular."""


@pytest.fixture
def secrets(monkeypatch: pytest.MonkeyPatch) -> Iterator[Secrets]:
    monkeypatch.setenv("MY_KEY", KEY)
    monkeypatch.setenv("ODD_KEY", f" {ODD}\n")
    secrets = Secrets()
    assert secrets.read("MY_KEY", "m") == KEY
    assert secrets.read("ODD_KEY", "m") == ODD
    yield secrets
    secrets.close()


@pytest.mark.parametrize(
    ("text", "hidden"),
    [
        (f"Incorrect API key provided: {KEY}.", f"Incorrect API key provided: {HIDDEN}."),
        (f"key={ODD}&x=1", f"key={HIDDEN}&x=1"),
        ("Incorrect API key provided: sk-proj-****************789J.", f"Incorrect API key provided: {HIDDEN}"),
        ("Authorization: Bearer abc.def", f"Authorization: {HIDDEN}"),
        ("x-api-key: 1234567890", HIDDEN),
        ('{"api_key": "zzz"}', '{"' + HIDDEN + '"}'),
        ("sk-ant-api03-aaaaaaaaaaaa and hf_bbbbbbbbbb", f"{HIDDEN} and {HIDDEN}"),
        ("a task-oriented risk-averse desk-top", "a task-oriented risk-averse desk-top"),
        ("two\nlines\r\n of  it", "two lines of it"),
    ],
)
def test_what_is_hidden(secrets: Secrets, text: str, hidden: str) -> None:
    assert secrets.hide(text) == hidden


@given(st.text(max_size=40), st.text(max_size=1200), st.integers(0, 3))
def test_no_part_of_a_key_survives(before: str, after: str, times: int) -> None:
    secrets = Secrets()
    secrets._known = [KEY, ODD]
    said = secrets.hide(before + (KEY + after + ODD) * (times + 1))
    assert KEY not in said and ODD not in said and len(said) <= SHOWN


def test_a_key_at_the_edge_of_what_is_shown_is_not_cut_in_two(secrets: Secrets) -> None:
    for length in range(SHOWN - 40, SHOWN + 1):
        assert ODD[:8] not in secrets.hide("x" * length + ODD)


@pytest.mark.parametrize("value", [None, "", "  ", "kéy", "two\nlines"])
def test_a_key_that_is_missing_or_cannot_be_one(monkeypatch: pytest.MonkeyPatch, value: str | None) -> None:
    monkeypatch.delenv("NO_KEY", raising=False)
    if value is not None:
        monkeypatch.setenv("NO_KEY", value)
    with pytest.raises(RemoteError, match="the environment variable NO_KEY") as caught:
        Secrets().read("NO_KEY", "mine:m")
    assert not value or not value.strip() or value not in str(caught.value)


def test_client_libraries_log_without_keys_until_it_is_closed(secrets: Secrets, caplog: pytest.LogCaptureFixture) -> None:
    logger = logging.getLogger("httpcore2.http11")
    with caplog.at_level(logging.DEBUG):
        logger.debug("headers %r", [(b"x-debug", ODD.encode())])
        secrets.close()
        logger.debug("%s", "plain")
    assert [record.getMessage() for record in caplog.records] == [f"headers [(b'x-debug', b'{HIDDEN}')]", "plain"]
    assert secrets not in logger.filters


class Echo:
    """A server that quotes the key it was sent wherever it can: in errors, headers and answers."""

    def __init__(self, status: int) -> None:
        self.status = status

    async def answer(self, request: web.Request) -> web.Response:
        key = request.headers.get("x-api-key") or request.headers["authorization"].removeprefix("Bearer ")
        assert key == ODD
        if self.status != 200:
            body: Any = {"error": {"message": f"no access with {key}", "type": key, "code": key}}
        elif request.path.endswith("/messages"):
            body = {"content": [{"type": "text", "text": f"Your key is {key}"}], "stop_reason": "end_turn", "model": key}
        else:
            choice = {"message": {"content": f"Your key is {key}"}, "finish_reason": "stop"}
            body = {"choices": [choice], "model": key}
        headers = {"x-request-id": key, "x-debug": key}
        return web.Response(body=msgspec.json.encode(body), status=self.status, content_type="application/json", headers=headers)


@pytest.mark.parametrize("kind", ["openai", "anthropic"])
@pytest.mark.parametrize("status", [200, 400, 401, 404, 500])
def test_a_server_that_quotes_the_key_everywhere(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    ask: Callable[..., ChatRequest],
    make_journal: Any,
    kind: Any,
    status: int,
) -> None:
    monkeypatch.setenv("ODD_KEY", ODD)
    caplog.set_level(logging.DEBUG)
    journal, cassette = make_journal(), tmp_path / "cassette.jsonl"

    async def main() -> str:
        app = web.Application()
        app.router.add_post("/{any:.*}", Echo(status).answer)
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        config = RemoteConfig(
            endpoints={"e": Endpoint(base_url=url, kind=kind, api_key_env="ODD_KEY")},
            prices={"e:m": Price(input=1, output=1)},
            max_retries=1,
            backoff=0.001,
            deadline=1.0,
            max_backoff=0.01,
            cassette=str(cassette),
            cassette_mode="record",
        )
        try:
            async with RemoteModels(config, journal) as remote:
                return repr(await remote.chat(ask(model="e:m")))
        except ValueError as error:
            chain: BaseException | None = error
            said = "".join(traceback.format_exception(error))
            while chain is not None:
                said += repr(chain) + repr(chain.__dict__)
                chain = chain.__cause__ or chain.__context__
            return said
        finally:
            await runner.cleanup()

    said = asyncio.run(main())
    assert HIDDEN in said
    kept = said + caplog.text + cassette.read_text() + repr(journal.rows)
    assert ODD not in kept
    assert "HTTP Response" in caplog.text
    assert all(row.error for row in journal.rows) and journal.rows
