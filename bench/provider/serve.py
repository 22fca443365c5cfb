"""The fake provider as a program: it tells how to point a run at it, serves until it is stopped, and shows its ledger."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Callable, Iterable, Iterator

from sparring.bench.provider.latency import RehearsalError
from sparring.bench.provider.ledger import Price, Totals
from sparring.bench.provider.server import FakeProvider
from sparring.rollout.remote.models import price_table


async def serve(provider: FakeProvider, say: Callable[[str], None]) -> Totals:
    """Serves until Ctrl-C or SIGTERM. Raises `OSError` where the port is taken."""
    stopped, loop = asyncio.Event(), asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stopped.set)
    try:
        async with provider:
            for line in lesson(provider):
                say(line)
            await stopped.wait()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)
    return provider.ledger.totals()


def lesson(provider: FakeProvider) -> Iterator[str]:
    """What a user does next."""
    yield f"listening on {provider.url}; stop with Ctrl-C. Give a run these settings, and its models are rehearsed here:"
    yield f"""  --set 'remote.endpoints.openai={{base_url="{provider.url}"}}'"""
    yield f"""  --set 'remote.endpoints.anthropic={{base_url="{provider.anthropic_url}", kind="anthropic"}}'"""
    yield f"the bill: {provider.anthropic_url}/ledger"


def listed_prices() -> dict[str, Price]:
    """The prices that ship with Sparring, by model."""
    return {
        model: Price(input=price.input, output=price.output)
        for models in price_table().values()
        for model, price in models.items()
    }


def read_prices(given: Iterable[str]) -> dict[str, Price]:
    """Prices written MODEL=IN,OUT. Raises `RehearsalError`."""
    found = {}
    for text in given:
        model, _, numbers = text.rpartition("=")
        try:
            prompt, completion = map(float, numbers.split(","))
        except ValueError:
            prompt = completion = -1.0
        if not model or min(prompt, completion) < 0:
            raise RehearsalError(f"price {text!r}: write MODEL=IN,OUT in dollars a million tokens, such as small=0.15,0.6")
        found[model] = Price(input=prompt, output=completion)
    return found


def read_weights(given: Iterable[str]) -> dict[str, float]:
    """Faults written KIND or KIND=WEIGHT. Raises `RehearsalError`."""
    found = {}
    for text in given:
        kind, _, weight = text.partition("=")
        try:
            found[kind] = float(weight or 1)
        except ValueError as error:
            raise RehearsalError(f"fault {text!r}: write KIND or KIND=WEIGHT, such as timeout=2") from error
    return found


def bill(totals: Totals) -> Iterator[str]:
    """The ledger, as lines."""
    rows = dict(totals.models)
    if len(rows) > 1:
        rows["all models"] = totals.total
    for name, count in rows.items():
        kinds = ", ".join(f"{number} {kind}" for kind, number in sorted(count.outcomes.items(), key=lambda item: -item[1]))
        yield f"{name or '(no model)'}: {count.requests:,} requests ({kinds})"
        tokens = f"{count.prompt_tokens:,} prompt and {count.completion_tokens:,} completion tokens"
        again = f"; {count.paid_again:,} of them for what was answered before" if count.paid_again else ""
        yield f"  {count.billed:,} billed: {tokens}, ${count.dollars:,.4f}{again}"
    yield f"at most {totals.peak_in_flight:,} at once over {totals.connections:,} connections; {totals.abandoned:,} abandoned"
