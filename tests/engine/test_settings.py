"""Typed settings from TOML: layers, overrides, one-line errors, and a round trip."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import Meta

from sparring.engine.errors import ConfigError
from sparring.engine.settings import dump_config, load_config


class Inner(msgspec.Struct, frozen=True, kw_only=True):
    clip_low: Annotated[float, Meta(ge=0)] = 0.2
    clip_high: float = 0.3
    kind: Literal["token", "sequence"] = "token"


class Outer(msgspec.Struct, frozen=True, kw_only=True):
    name: str = "run"
    count: Annotated[int, Meta(ge=1)] = 4
    on: bool = False
    limit: float | None = 1.5
    tags: tuple[str, ...] = ("a",)
    weights: dict[str, float] = {}
    inner: Inner = Inner()
    spare: Inner | None = None


def write(path: Path, text: str) -> Path:
    path.write_text(text, encoding="utf-8")
    return path


def test_defaults_sources_and_overrides_in_order(tmp_path: Path) -> None:
    first = write(tmp_path / "one.toml", 'name = "x"\ncount = 7\n[inner]\nclip_low = 0.1\n')
    second = write(tmp_path / "two.toml", "count = 8\n[inner]\nclip_high = 0.5\n[spare]\n")
    assert load_config(Outer) == Outer()
    found = load_config(Outer, first, second, overrides=["inner.clip_high=0.6", "inner.kind=sequence"])
    assert found == Outer(name="x", count=8, inner=Inner(clip_low=0.1, clip_high=0.6, kind="sequence"), spare=Inner())


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("name=tiny", Outer(name="tiny")),
        ('name="tiny model"', Outer(name="tiny model")),
        ("name=a=b", Outer(name="a=b")),
        ("name=2024", Outer(name="2024")),
        ("name=true", Outer(name="true")),
        ("name=", Outer(name="")),
        ("name=x\ncount = 9", Outer(name="x\ncount = 9")),
        ("name=1\ncount = 9", Outer(name="1\ncount = 9")),
        (" count = 3 ", Outer(count=3)),
        ("on=true", Outer(on=True)),
        ("limit=2", Outer(limit=2.0)),
        ("limit=none", Outer(limit=None)),
        ('tags=["x", "y"]', Outer(tags=("x", "y"))),
        ("inner={clip_low=0.4}", Outer(inner=Inner(clip_low=0.4))),
        ("spare.clip_low=0.4", Outer(spare=Inner(clip_low=0.4))),
        ("weights.haggle=0.5", Outer(weights={"haggle": 0.5})),
    ],
)
def test_override_values(override: str, expected: Outer) -> None:
    assert load_config(Outer, overrides=[override]) == expected


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("coumt = 3", "{path}: there is no setting coumt: did you mean count?"),
        ("[inner]\nclip_hgh = 3", "{path}: there is no setting inner.clip_hgh: did you mean inner.clip_high?"),
        ("clip_high = 3", "{path}: there is no setting clip_high: did you mean inner.clip_high?"),
        ("[inner]\nzzz = 3", "{path}: there is no setting inner.zzz: known here: clip_low, clip_high, kind"),
        ('count = "many"', "{path}: count: expected int, got str"),
        ("count = 1.5", "{path}: count: expected int, got float"),
        ("count = true", "{path}: count: expected int, got bool"),
        ("count = 0", "{path}: count: expected int >= 1"),
        ("[inner]\nclip_low = -1", "{path}: inner.clip_low: expected float >= 0.0"),
        ('[inner]\nkind = "words"', "{path}: inner.kind: invalid enum value 'words'"),
        ("inner = 3", "{path}: inner: expected object, got int"),
        ("tags = [1]", "{path}: tags: expected str, got int - at $[0]"),
        ('on = "none"', "{path}: on: expected bool, got str"),
        ("= 3", "{path}: not TOML: Invalid statement (at line 1, column 1)"),
    ],
)
def test_errors_are_one_line_with_file_key_and_way_out(tmp_path: Path, text: str, message: str) -> None:
    path = write(tmp_path / "mine.toml", text)
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, path)
    assert str(caught.value) == message.format(path=path)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("count", "--set count: write it as key=value, with dots between nested keys"),
        ("inner..clip_low=1", "--set inner..clip_low=1: write it as key=value, with dots between nested keys"),
        ("count=many", "--set count=many: count: expected int, got str"),
        ("count=1.5", "--set count=1.5: count: expected int, got float"),
        ("iner.clip_low=1", "--set iner.clip_low=1: there is no setting iner: did you mean inner?"),
        ("count.x=1", "--set count.x=1: count: expected int, got object"),
    ],
)
def test_errors_of_overrides(override: str, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        load_config(Outer, overrides=[override])
    assert str(caught.value) == message


def test_sources_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"no preset is called 'demmo': choose from .*demo.*or give a path"):
        load_config(Outer, "demmo")
    with pytest.raises(ConfigError, match=r"cannot read the settings file .*none\.toml"):
        load_config(Outer, tmp_path / "none.toml")
    binary = tmp_path / "binary.toml"
    binary.write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"cannot read the settings file .*binary\.toml"):
        load_config(Outer, str(binary))


def test_a_required_setting_that_is_missing() -> None:
    class Needy(msgspec.Struct, kw_only=True):
        path: str

    with pytest.raises(ConfigError, match="settings: missing required field path"):
        load_config(Needy)


numbers = st.floats(allow_nan=False, allow_infinity=False, min_value=0)
words = st.text(st.characters(exclude_categories=("Cs",)))
inners = st.builds(
    Inner,
    clip_low=numbers,
    clip_high=st.floats(allow_nan=False, allow_infinity=False),
    kind=st.sampled_from(["token", "sequence"]),
)
outers = st.builds(
    Outer,
    name=words,
    count=st.integers(1, 2**62),
    on=st.booleans(),
    limit=st.none() | numbers,
    tags=st.lists(words).map(tuple),
    weights=st.dictionaries(words, numbers, max_size=3),
    inner=inners,
    spare=st.none() | inners,
)


@given(outers)
def test_loading_a_dump_gives_the_same(tmp_path_factory: pytest.TempPathFactory, config: Outer) -> None:
    path = tmp_path_factory.mktemp("dump") / "config.toml"
    path.write_text(dump_config(config), encoding="utf-8", newline="")
    assert load_config(Outer, path) == config
