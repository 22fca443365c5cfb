"""`sparring bench`: how fast this machine plays and learns, and whether the engine holds what it promises there."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from sparring.engine.cli.options import ConfigOption, JsonOption, PresetOption, QuietOption, SetOption, examples, load_settings
from sparring.engine.cli.output import notices, print_json, results, write_output

FAILED = 1

app = typer.Typer(no_args_is_help=True, rich_markup_mode="markdown", help="Measure how fast this machine plays and learns.")


@app.callback()
def bench() -> None:
    """Measure how fast this machine plays and learns."""


@app.command(epilog=examples("sparring bench throughput", "sparring bench throughput --steps 20 --set threads=2 --json"))
def throughput(
    steps: Annotated[int, typer.Option("--steps", metavar="N", min=1, help="Measured steps, after one to warm up.")] = 5,
    preset: PresetOption = None,
    config: ConfigOption = None,
    sets: SetOption = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Tokens/s and games/hour of playing, of learning and of the whole loop, and the share of each phase.

    Plays real deals with a fresh adapter; nothing is kept. Also the games/s of the runner and the referee without a model.
    """
    from sparring.bench.throughput import measure

    found = measure(load_settings(preset, config, sets), steps=steps, quiet=quiet)
    if as_json:
        print_json(found)
    else:
        print(found.text)


@app.command(
    epilog=examples("sparring bench engine", "sparring bench engine --shape 7b --cap-gb 48", "sparring bench engine --cycles 5")
)
def engine(
    preset: Annotated[
        str | None, typer.Option("--preset", metavar="NAME", help="Settings to run with; those made for this machine by default.")
    ] = None,
    shape: Annotated[
        str | None,
        typer.Option(
            "--shape", metavar="SHAPE", help="Random weights of the shape 7b, 1.5b, 0.5b or of a Qwen2 model's folder; or tiny."
        ),
    ] = None,
    cycles: Annotated[int, typer.Option("--cycles", metavar="N", min=1, help="Measured cycles, after one to warm up.")] = 50,
    seeds: Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Rounds of games beside LLM.generate.")] = 3,
    cap_gb: Annotated[
        float | None, typer.Option("--cap-gb", metavar="GB", min=1, help="Hold the run to a smaller GPU's memory, such as 48.")
    ] = None,
    sets: SetOption = None,
    output: Annotated[
        Path | None, typer.Option("--output", metavar="FILE.json", help="Where the report goes; bench/results by default.")
    ] = None,
    quiet: QuietOption = False,
    as_json: JsonOption = False,
) -> None:
    """Accept the engine on this machine: cycles of play, learn and publish, checked and timed.

    One copy of the weights, agreement of generator and learner, memory, publication, KV cache, speed beside plain vLLM, the
    learner's utilisation. Needs no network. Exits with 1 where a check fails; what this machine cannot show is "not measured".
    """
    import msgspec

    from sparring.bench.engine import default_preset, default_shape, measure, result_path, run_config, shaped

    config = run_config(preset or default_preset(cap_gb), sets or (), cap_gb)
    with shaped(config, shape or default_shape()) as settings:
        found = measure(settings, cycles=cycles, seeds=seeds, cap_gb=cap_gb, quiet=quiet)
    path = output or result_path(found)
    write_output(path, msgspec.json.format(msgspec.json.encode(found), indent=2) + b"\n")
    if as_json:
        print_json(found)
    else:
        for table in found.tables:
            results().print(table)
    notices().print(f"written to {path}")
    if found.failed:
        raise typer.Exit(FAILED)


@app.command(
    epilog=examples(
        "sparring bench provider --port 8787 --p50 2 --p99 20 --scale 0.05 --faults 0.3",
        "sparring bench provider --rpm 500 --tpm 200000 --price gpt-4o-mini=0.15,0.6",
        "sparring bench provider --reply judge:longest --faults 0.1 --fault timeout --fault cut=2",
    )
)
def provider(
    port: Annotated[
        int, typer.Option("--port", metavar="N", min=0, max=65535, help="Where to listen; 0 takes a free port.")
    ] = 8787,
    p50: Annotated[float, typer.Option("--p50", metavar="SECONDS", help="Median time to an answer.")] = 2.0,
    p99: Annotated[float, typer.Option("--p99", metavar="SECONDS", help="99th percentile; between them it is lognormal.")] = 20.0,
    scale: Annotated[
        float,
        typer.Option(
            "--scale", metavar="X", help="How long a second of the provider lasts: 0.05 rehearses an hour in 3 minutes."
        ),
    ] = 1.0,
    faults: Annotated[float, typer.Option("--faults", metavar="SHARE", help="Share of requests that go wrong, 0 to 1.")] = 0.0,
    fault: Annotated[
        list[str] | None,
        typer.Option("--fault", metavar="KIND[=WEIGHT]", help="Only these kinds go wrong; every kind by default. Repeatable."),
    ] = None,
    rpm: Annotated[float, typer.Option("--rpm", metavar="N", help="Requests a minute and model; 0 sets no limit.")] = 0.0,
    tpm: Annotated[float, typer.Option("--tpm", metavar="N", help="Tokens a minute and model; 0 sets no limit.")] = 0.0,
    reply: Annotated[
        str,
        typer.Option(
            "--reply",
            metavar="NAME",
            help="What it says: auto (whatever is asked for), short, echo, negotiator, debater, judge, judge:first, "
            "judge:longest, judge:random, judge:tie.",
        ),
    ] = "auto",
    price: Annotated[
        list[str] | None,
        typer.Option("--price", metavar="MODEL=IN,OUT", help="Dollars a million tokens, over the prices that ship. Repeatable."),
    ] = None,
    seed: Annotated[int, typer.Option("--seed", metavar="N", help="Of latency, faults and answers.")] = 0,
    as_json: JsonOption = False,
) -> None:
    """Rehearse a run's cost and speed: a fake OpenAI and Anthropic on this machine, with latency, faults, rate limits and a bill.

    Start it, then train in another terminal with the two settings that it prints; keys are not needed, and nothing leaves
    the machine:

    `sparring train --task debate --judge openai:gpt-4o-mini --set 'remote.endpoints.openai={base_url="http://127.0.0.1:8787/v1"}'`

    Ctrl-C stops it and shows what it was asked and what that would have cost (tokens are estimated at four bytes each).
    Answers that never arrive are billed too: timeouts, cut, malformed, empty and refused ones. A 429 or 5xx is not.
    With --scale 0.05 divide the run's own timeouts by 20 as well: `--set remote.timeout=3`.
    """
    import asyncio

    try:
        from sparring.bench.fake_provider import FakeProvider, Faults, Latency, RateLimit
        from sparring.bench.provider.serve import bill, listed_prices, read_prices, read_weights, serve
    except ModuleNotFoundError as error:
        if error.name != "aiohttp":
            raise
        notices().print("sparring: the fake provider needs aiohttp: pip install 'sparring[rehearse]'")
        raise typer.Exit(2) from error

    fake = FakeProvider(
        Faults(rate=faults, kinds=read_weights(fault)) if fault else Faults(rate=faults),
        Latency(p50=p50, p99=p99),
        limit=RateLimit(requests_per_minute=rpm, tokens_per_minute=tpm),
        scale=scale,
        seed=seed,
        reply=reply,
        prices=listed_prices() | read_prices(price or ()),
        port=port,
    )
    totals = asyncio.run(serve(fake, notices().print))
    if as_json:
        print_json(totals)
    else:
        for line in bill(totals):
            print(line)


@app.command(epilog=examples("sparring bench partners", "sparring bench partners --part faults --json"))
def partners(
    part: Annotated[
        list[str] | None, typer.Option("--part", metavar="limits|idle|faults", help="Only this one; repeatable. All by default.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Games with partners over the network, against a fake provider on this machine (median 2 s, 99th percentile 20 s, scaled).

    **limits**: how much of a rate limit 256 games use, beside a plain `asyncio.gather` over the client. **idle**: how long the
    generator waits, by games in flight. **faults**: games while 30% of all requests fail; what must hold of scores, budget and
    ledger. Takes about 4 minutes. Exits with 1 where something that must hold does not.
    """
    from sparring.bench.partners import measure

    found = measure(part or ())
    if as_json:
        print_json(found)
    else:
        for table in found.tables:
            results().print(table)
    if found.broken:
        notices().print("\n".join(found.broken))
        raise typer.Exit(FAILED)
