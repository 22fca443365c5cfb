"""Cassettes: replies and failures come back, in order; a kill at any byte loses at most the call it hit; damage is told."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from sparring.rollout.errors import CallError, CassetteError
from sparring.rollout.remote.call import ChatReply, ChatRequest
from sparring.rollout.remote.cassette import Cassette, open_cassette
from sparring.rollout.remote.config import RemoteConfig

Ask = Callable[..., ChatRequest]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "deep" / "calls.jsonl"


def reply(text: str) -> ChatReply:
    return ChatReply(text=text, model="m-1")


def record(path: Path, *calls: tuple[ChatRequest, ChatReply | CallError]) -> None:
    cassette = Cassette(path, replays=False)
    for request, outcome in calls:
        cassette.record(request, request.digest, outcome)
    cassette.close()


def found(cassette: Cassette, request: ChatRequest) -> ChatReply | None:
    return cassette.find(request, request.digest)


def test_what_was_recorded_is_replayed(path: Path, ask: Ask) -> None:
    answers = [(ask(str(number)), reply(f"¿{number}?\n\u2028 \ud7ff")) for number in range(20)]
    record(path, *answers[:10])
    record(path, *answers[10:])
    cassette = Cassette(path, replays=True)
    for _ in range(2):
        for request, answer in answers:
            assert found(cassette, request) == answer


def test_a_failure_is_replayed_and_tried_again_while_recording(path: Path, ask: Ask) -> None:
    record(path, (ask(), CallError("test:m gave no answer")))
    recording = Cassette(path, replays=False)
    assert found(recording, ask()) is None
    recording.close()
    with pytest.raises(CallError, match=r"^test:m gave no answer$"):
        found(Cassette(path, replays=True), ask())


def test_a_game_that_was_called_off_is_void_again_unless_it_was_taken_up(path: Path, ask: Ask) -> None:
    """A replay is faster than the time limit was: it would ask for what nobody answered, or end the game otherwise."""
    cassette = Cassette(path, replays=False)
    for game in ("a", "b"):
        cassette.record(ask(f"{game}/seller/0"), ask(f"{game}/seller/0").digest, reply("hello"))
        cassette.call_off(game)
        cassette.call_off(game)
    cassette.record(ask("b/seller/1"), ask("b/seller/1").digest, reply("again"))
    cassette.close()
    assert len(path.read_bytes().splitlines()) == 6
    again = Cassette(path, replays=True)
    for turn in range(2):
        with pytest.raises(CallError, match="the game's time ran out when it was recorded"):
            found(again, ask(f"a/seller/{turn}"))
    assert found(again, ask("b/seller/0")) == reply("hello")
    assert found(again, ask("b/seller/1")) == reply("again")


def test_takes_of_one_call_come_back_in_their_order(path: Path, ask: Ask) -> None:
    record(path, (ask(), CallError("first")), (ask(), reply("second")))
    cassette = Cassette(path, replays=True)
    with pytest.raises(CallError, match="first"):
        found(cassette, ask())
    assert found(cassette, ask()) == found(cassette, ask()) == reply("second")


def test_a_call_that_is_not_held_is_named(path: Path, ask: Ask) -> None:
    record(path, (ask("a"), reply("x")))
    cassette = Cassette(path, replays=True)
    with pytest.raises(CassetteError, match="holds no answer to the call 3/0/1/buyer/2 of test:m: replay with the settings"):
        found(cassette, ask("3/0/1/buyer/2"))
    with pytest.raises(CassetteError, match="the call judge of test:m"):
        found(cassette, ask(purpose="judge"))


@pytest.mark.parametrize("change", [{"max_tokens": 11}, {"temperature": 0.5}, {"key": "b"}, {"model": "test:n"}])
def test_another_call_is_not_taken_for_it(path: Path, ask: Ask, change: dict[str, object]) -> None:
    record(path, (ask("a"), reply("x")))
    with pytest.raises(CassetteError, match="holds no answer"):
        found(Cassette(path, replays=True), ask(**({"key": "a"} | change)))


def test_killed_at_every_byte(path: Path, ask: Ask, tmp_path: Path) -> None:
    """What was whole is kept, what was cut is recorded again, and the file stays readable."""
    calls = [(ask(str(number)), reply(f"{number}")) for number in range(2)]
    record(path, *calls)
    whole = path.read_bytes()
    ends = [place + 1 for place, byte in enumerate(whole) if byte == ord("\n")]
    cut = tmp_path / "cut.jsonl"
    for size in range(len(whole) + 1):
        cut.write_bytes(whole[:size])
        kept = sum(end <= size for end in ends[1:])
        cassette = Cassette(cut, replays=False)
        held = [found(cassette, request) for request, _ in calls]
        assert held == [answer for _, answer in calls[:kept]] + [None] * (2 - kept)
        for request, answer in calls[kept:]:
            cassette.record(request, request.digest, answer)
        cassette.close()
        assert cut.read_bytes() == whole


def test_a_replay_ignores_a_cut_last_line_and_changes_nothing(path: Path, ask: Ask) -> None:
    record(path, (ask("a"), reply("x")), (ask("b"), reply("y")))
    cut = path.read_bytes()[:-5]
    path.write_bytes(cut)
    cassette = Cassette(path, replays=True)
    assert found(cassette, ask("a")) == reply("x")
    with pytest.raises(CassetteError):
        found(cassette, ask("b"))
    cassette.record(ask("c"), "c", reply("z"))
    cassette.close()
    assert path.read_bytes() == cut


def test_every_call_is_on_the_disk_before_it_is_answered(path: Path, ask: Ask) -> None:
    cassette = Cassette(path, replays=False)
    for number in range(3):
        cassette.record(ask(str(number)), ask(str(number)).digest, reply("x"))
        assert path.read_bytes().count(b"\n") == number + 2
    cassette.close()


@pytest.mark.parametrize("body", [b"", b"hello\n", b'{"cassette": "x"}\n', b"\xff\xfe\n", b"[" * 100_000 + b"\n"])
def test_what_is_no_cassette_is_refused(path: Path, body: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(body)
    with pytest.raises(CassetteError, match="is no cassette: name another file"):
        Cassette(path, replays=True)
    assert path.read_bytes() == body


def test_another_file_is_never_overwritten(path: Path) -> None:
    path.parent.mkdir()
    path.write_bytes(b"my notes\nof years")
    with pytest.raises(CassetteError, match="is no cassette"):
        Cassette(path, replays=False)
    path.write_bytes(b"my notes")
    with pytest.raises(CassetteError, match="is no cassette"):
        Cassette(path, replays=False)
    assert path.read_bytes() == b"my notes"


def test_a_damaged_line_and_another_version_are_told(path: Path, ask: Ask) -> None:
    record(path, (ask("a"), reply("x")), (ask("b"), reply("y")))
    lines = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(lines[0] + b'{"digest": 7}\n' + lines[2])
    with pytest.raises(CassetteError, match=r"line 2 of the cassette .* is damaged"):
        Cassette(path, replays=True)
    path.write_bytes(b'{"cassette":2}\n')
    with pytest.raises(CassetteError, match="has version 2, this program reads 1"):
        Cassette(path, replays=True)


def test_what_the_settings_ask_for(path: Path) -> None:
    assert open_cassette(RemoteConfig()) is None
    with pytest.raises(CassetteError, match=r'cassette_mode = "record" needs a file: set remote\.cassette'):
        open_cassette(RemoteConfig(cassette_mode="record"))
    with pytest.raises(CassetteError, match=r"there is no cassette .* to replay: record it first"):
        open_cassette(RemoteConfig(cassette_mode="replay", cassette=str(path)))
    cassette = open_cassette(RemoteConfig(cassette_mode="record", cassette=str(path)))
    assert cassette is not None and not cassette.replays
    cassette.close()
    with pytest.raises(CassetteError, match="cannot use the cassette"):
        open_cassette(RemoteConfig(cassette_mode="record", cassette=str(path.parent)))


def test_lines_are_for_a_reader_too(path: Path, ask: Ask) -> None:
    record(path, (ask("train/1/buyer/0"), reply("I say 40.")))
    line = msgspec.json.decode(path.read_bytes().splitlines()[1])
    assert (line["model"], line["key"], line["reply"]["text"]) == ("test:m", "train/1/buyer/0", "I say 40.")


@pytest.mark.parametrize("name", ["/dev/zero", "/", "a\0b"])
@pytest.mark.parametrize("replays", [False, True])
def test_what_is_no_file_is_refused(name: str, replays: bool) -> None:
    """A device was read until the memory was full, and a NUL in the name was a ValueError."""
    with pytest.raises(CassetteError, match=r"^cannot use the cassette .*: it is no file$"):
        Cassette(Path(name), replays=replays)


def test_a_full_disk_is_told_once(path: Path, ask: Ask) -> None:
    """Closing tried to write again, and its OSError took the place of what says how to go on."""
    cassette = Cassette(path, replays=False)
    assert cassette._file is not None
    cassette._file.close()
    cassette._file = open("/dev/full", "ab")  # noqa: SIM115 - closed below
    with pytest.raises(CassetteError, match="No space left on device; free space and go on with --resume"):
        cassette.record(ask(), ask().digest, reply("40"))
    cassette.close()
    assert path.read_bytes().count(b"\n") == 1
