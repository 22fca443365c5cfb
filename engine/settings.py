"""Typed settings from TOML, strictly: an unknown key or a wrong type is one line that names the file, the key and the way out.

Works on any tree of msgspec structs and knows no setting by name; those stand beside the classes they configure.
"""

from __future__ import annotations

import difflib
import math
import tomllib
import types
import typing
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import tomli_w

from sparring.engine.errors import ConfigError

T = TypeVar("T", bound=msgspec.Struct)

PRESETS = Path(__file__).with_name("presets")
NONE = "none"
"""How TOML, which has no null, writes a setting that is off."""


def presets() -> tuple[str, ...]:
    """The names of the settings files that ship with the package."""
    return tuple(sorted(path.stem for path in PRESETS.glob("*.toml")))


def load_config(kind: type[T], *sources: str | Path, overrides: Sequence[str] = ()) -> T:
    """Settings of type `kind`: its defaults, then each source (a preset's name or a TOML file), then `key.key=value` overrides.

    Raises `ConfigError` for a source that cannot be read, a key that does not exist, and a value of the wrong type.

    Example:
        >>> load_config(RunConfig, "demo", "mine.toml", overrides=["sampling.temperature=0.8", "model=tiny"])
    """
    tree: dict[str, Any] = {}
    for source in sources:
        _merge(tree, _checked(_read(source), kind, _label(source)))
    for override in overrides:
        _merge(tree, _parse_override(kind, override))
    try:
        return msgspec.convert(tree, kind)
    except msgspec.ValidationError as error:
        raise ConfigError(f"{' + '.join(map(_label, sources)) or 'settings'}: {_say(error)}") from error


def dump_config(config: msgspec.Struct) -> str:
    """Every setting as TOML, such that loading it gives an equal config."""
    return tomli_w.dumps(_writable(msgspec.to_builtins(config)))


def _label(source: str | Path) -> str:
    return f"preset {source}" if _is_preset(source) else str(source)


def _is_preset(source: str | Path) -> bool:
    return isinstance(source, str) and not source.endswith(".toml") and "/" not in source


def _read(source: str | Path) -> dict[str, Any]:
    path = PRESETS / f"{source}.toml" if _is_preset(source) else Path(source)
    if path.parent == PRESETS and not path.is_file():
        raise ConfigError(
            f"no preset is called {source!r}: choose from {', '.join(presets())}, or give a path that ends in .toml"
        )
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"cannot read the settings file {path}: {error}") from error
    except (ValueError, RecursionError) as error:  # a TOMLDecodeError is a ValueError; so is an integer of 5,000 digits
        raise ConfigError(f"{path}: not TOML: {error}") from error


def _parse_override(kind: type[msgspec.Struct], override: str) -> dict[str, Any]:
    """`a.b=c` as a tree. `c` is a TOML value; what is none, or does not fit as one, is the string itself."""
    dotted, equals, text = override.partition("=")
    keys, label = [key.strip() for key in dotted.split(".")], f"--set {override}"
    if not equals or not all(keys):
        raise ConfigError(f"{label}: write it as key=value, with dots between nested keys")
    text = text.strip()
    try:
        return _checked(_nest(keys, _toml_value(text)), kind, label)
    except ConfigError as error:
        try:
            return _checked(_nest(keys, text), kind, label)
        except ConfigError:
            raise error from None  # of the two readings, the value as TOML is the one to explain


def _toml_value(text: str) -> Any:
    try:
        document = tomllib.loads(f"value = {text}")
    except (ValueError, RecursionError):
        return text
    return document["value"] if len(document) == 1 else text


def _nest(keys: list[str], value: Any) -> dict[str, Any]:
    for key in reversed(keys):
        value = {key: value}
    tree: dict[str, Any] = value
    return tree


def _merge(tree: dict[str, Any], new: dict[str, Any]) -> None:
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(tree.get(key), dict):
            _merge(tree[key], value)
        else:
            tree[key] = value


def _checked(tree: dict[str, Any], kind: type[msgspec.Struct], label: str, above: str = "", root: Any = None) -> dict[str, Any]:
    """The tree with every key known and every value of its setting's type; `NONE` read as `None` where that is allowed."""
    hints, root = typing.get_type_hints(kind, include_extras=True), root or kind
    result: dict[str, Any] = {}
    for key, value in tree.items():
        if key not in kind.__struct_fields__:
            raise ConfigError(f"{label}: there is no setting {above}{key}: {_suggest(key, kind, above, root)}")
        options = _options(hints[key])
        section = next((option for option in options if _is_struct(option)), None)
        items = next((item for option in options if (item := _items(option)) is not None), None)
        if value == NONE and types.NoneType in options:
            result[key] = None
        elif section is not None and isinstance(value, dict):
            result[key] = _checked(value, section, label, f"{above}{key}.", root)
        elif items is not None and isinstance(value, dict | list) and _all_tables(value):
            result[key] = _each(value, partial(_checked, kind=items, label=label, root=root), f"{above}{key}")
        else:
            try:
                msgspec.convert(value, hints[key])
            except msgspec.ValidationError as error:
                raise ConfigError(f"{label}: {above}{key}: {_say(error)}") from error
            if not _finite(value):
                raise ConfigError(f"{label}: {above}{key}: expected a finite number")
            result[key] = value
    return result


def _items(hint: Any) -> type[msgspec.Struct] | None:
    """The struct that a table of tables (`dict[str, Struct]`) or a list of them (`tuple[Struct, ...]`) holds."""
    inside = typing.get_args(hint)[-1 if typing.get_origin(hint) is dict else 0 :][:1]
    return inside[0] if typing.get_origin(hint) in (dict, tuple) and inside and _is_struct(inside[0]) else None


def _all_tables(value: dict[str, Any] | list[Any]) -> bool:
    return all(isinstance(item, dict) for item in (value.values() if isinstance(value, dict) else value))


def _each(value: dict[str, Any] | list[Any], check: Callable[..., Any], above: str) -> Any:
    """Every item checked, under a name that tells which one it is."""
    if isinstance(value, dict):
        return {name: check(item, above=f"{above}.{name}.") for name, item in value.items()}
    return [check(item, above=f"{above}[{number}].") for number, item in enumerate(value)]


def _finite(value: Any) -> bool:
    """Whether every number in it is one: TOML also writes inf and nan, which no setting means."""
    if isinstance(value, (list, tuple)):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _suggest(key: str, kind: type[msgspec.Struct], above: str, root: type[msgspec.Struct]) -> str:
    """The nearest known key: of that very name elsewhere, beside the wrong one, else anywhere, else all there are."""
    everywhere: dict[str, str] = {}
    for dotted in _settings(root):
        everywhere.setdefault(dotted.rpartition(".")[2], dotted)
    if key in everywhere:
        return f"did you mean {everywhere[key]}?"
    if near := difflib.get_close_matches(key, kind.__struct_fields__, n=1):
        return f"did you mean {above}{near[0]}?"
    if near := difflib.get_close_matches(key, everywhere, n=1, cutoff=0.8):
        return f"did you mean {everywhere[near[0]]}?"
    return f"known here: {', '.join(kind.__struct_fields__)}"


def _settings(kind: type[msgspec.Struct], above: str = "") -> Iterator[str]:
    """Every setting's dotted key."""
    for key, hint in typing.get_type_hints(kind).items():
        if key in kind.__struct_fields__:
            yield f"{above}{key}"
            for option in filter(_is_struct, _options(hint)):
                yield from _settings(option, f"{above}{key}.")


def _options(hint: Any) -> tuple[Any, ...]:
    """The members of a union, or the type alone."""
    if typing.get_origin(hint) is typing.Annotated:
        hint = typing.get_args(hint)[0]
    return typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _say(error: msgspec.ValidationError) -> str:
    text = str(error).replace(" - at `$.", " - at `").replace("Object missing", "missing").replace(" | null", " or none")
    return text[:1].lower() + text[1:].replace("`", "")


def _writable(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _writable(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_writable(item) for item in value]
    return NONE if value is None else value
