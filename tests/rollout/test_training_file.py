"""The training file: reads back bit for bit, and refuses what is damaged or belongs to another model."""

from __future__ import annotations

import struct
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from sparring.rollout.errors import TrainingFileError
from sparring.rollout.player import Sampling
from sparring.rollout.training_file import Header, TrainingWriter, read_header, read_trajectories
from sparring.rollout.trajectory import Trajectory
from sparring.scenarios.outcome import Verdict

HEADER = Header(base_model="base-1", tokenizer="tok-1", policy="pol-1", sampling=Sampling(temperature=0.7))


def trajectory(game: str = "g0", logprobs: tuple[float, ...] = (-0.5, -1.25), reward: float | None = 1.0) -> Trajectory:
    return Trajectory(
        game_id=game,
        scenario_id="s",
        family="haggle",
        seat="seller",
        partner="script:linear",
        token_ids=[5, 6, *range(len(logprobs))],
        logprobs=[0.0, 0.0, *logprobs],
        loss_mask=[False, False] + [True] * len(logprobs),
        temperature=0.7,
        policy="pol-1",
        reward=reward,
        verdict=Verdict.VOID if reward is None else Verdict.WIN,
        score=0.25,
        truncated=1,
    )


def write(path: Path, *trajectories: Trajectory) -> list[bytes]:
    with TrainingWriter(path, HEADER) as file:
        for one in trajectories:
            file.add(one)
    return path.read_bytes().splitlines(keepends=True)


def test_what_is_written_reads_back(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    sent = [trajectory("g0"), trajectory("g0", reward=None), trajectory("g1", (-0.1,))]
    lines = write(path, *sent)
    assert list(read_trajectories(path)) == sent and read_header(path) == HEADER
    assert len(lines) == 5 and lines[-1] == b'{"trajectories":3,"games":2}\n'
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.jsonl"]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(max_value=0, allow_infinity=False, allow_nan=False), min_size=1, max_size=8))
def test_logprobs_keep_every_bit(tmp_path_factory: pytest.TempPathFactory, logprobs: list[float]) -> None:
    path = tmp_path_factory.mktemp("bits") / "data.jsonl"
    write(path, trajectory(logprobs=tuple(logprobs)))
    (back,) = read_trajectories(path)
    assert [struct.pack("d", value) for value in back.logprobs[2:]] == [struct.pack("d", value) for value in logprobs]


def test_the_same_games_write_the_same_bytes(tmp_path: Path) -> None:
    assert write(tmp_path / "a", trajectory(), trajectory("g1")) == write(tmp_path / "b", trajectory(), trajectory("g1"))


def test_an_empty_file_of_no_games_is_complete(tmp_path: Path) -> None:
    write(tmp_path / "data")
    assert list(read_trajectories(tmp_path / "data")) == []


def test_an_error_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    before = write(path, trajectory())

    def interrupted() -> None:
        with TrainingWriter(path, HEADER) as file:
            file.add(trajectory("g7"))
            raise KeyError("stop")

    with pytest.raises(KeyError):
        interrupted()
    assert path.read_bytes().splitlines(keepends=True) == before
    assert [entry.name for entry in tmp_path.iterdir()] == ["data.jsonl"]


def test_nothing_stands_under_the_name_until_the_file_is_complete(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    with TrainingWriter(path, HEADER) as file:
        file.add(trajectory())
        assert not path.exists()
    assert path.exists()


def test_another_model_is_refused_with_a_reason() -> None:
    HEADER.check(base_model="base-1", tokenizer="tok-1")
    with pytest.raises(TrainingFileError, match="collected with base model base-1, but this is base model base-2"):
        HEADER.check(base_model="base-2", tokenizer="tok-1")
    with pytest.raises(TrainingFileError, match="collected with tokenizer tok-1, but this is tokenizer tok-2"):
        HEADER.check(base_model="base-1", tokenizer="tok-2")


@pytest.mark.parametrize(
    ("line", "old", "new", "error"),
    [
        (1, b'"format":"sparring-training"', b'"format":"other"', "line 1: this is not a training file"),
        (1, b'"version":1', b'"version":2', "format version 2, this program reads 1"),
        (1, b'"base_model":"base-1",', b"", "line 1: Object missing required field `base_model`"),
        (1, b"{", b"<", "line 1: JSON is malformed"),
        (2, b'"seat":"seller"', b'"seat":4', r"line 2: Expected `str`, got `int` - at `\$\.seat`"),
        (2, b"[5,6,", b"[5,", "line 2: token_ids, logprobs and loss_mask differ in length"),
        (2, b"[5,", b"[-5,", "line 2: a token id is negative"),
        (2, b"true", b"false", "line 2: no token was sampled"),
        (2, b"-0.5", b"1e999", "line 2: "),
        (2, b"-0.5", b"null", "line 2: Expected `float`, got `null`"),
        (3, b'"game_id"', b'\xff"game_id"', "line 3: "),
        (3, b"}", b"", "line 3: Input data was truncated"),
        (4, b'"trajectories":2', b'"trajectories":3', "line 4: the footer does not agree with the lines"),
        (4, b'"games":2', b'"games":1', "line 4: the footer does not agree with the lines"),
    ],
)
def test_a_damaged_line_is_named(tmp_path: Path, line: int, old: bytes, new: bytes, error: str) -> None:
    path = tmp_path / "data.jsonl"
    lines = write(path, trajectory("g0"), trajectory("g1"))
    assert old in lines[line - 1]
    lines[line - 1] = lines[line - 1].replace(old, new)
    path.write_bytes(b"".join(lines))
    with pytest.raises(TrainingFileError, match=rf"data\.jsonl.*{error}"):
        list(read_trajectories(path))


def test_a_file_cut_off_anywhere_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    whole = b"".join(write(path, trajectory("g0"), trajectory("g1")))
    for end in range(len(whole) - 1):
        path.write_bytes(whole[:end])
        with pytest.raises(TrainingFileError, match=r"data\.jsonl"):
            list(read_trajectories(path))


def test_lines_after_the_footer_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "data.jsonl"
    lines = write(path, trajectory())
    path.write_bytes(b"".join([*lines, lines[1]]))
    with pytest.raises(TrainingFileError, match="line 3: the footer does not agree"):
        list(read_trajectories(path))


def test_no_file(tmp_path: Path) -> None:
    with pytest.raises(TrainingFileError, match="none: No such file"):
        read_header(tmp_path / "none")


def test_what_cannot_be_trained_on_is_not_written(tmp_path: Path) -> None:
    with TrainingWriter(tmp_path / "data", HEADER) as file, pytest.raises(AssertionError, match="no token was sampled"):
        file.add(msgspec.structs.replace(trajectory(), loss_mask=[False] * 4))
