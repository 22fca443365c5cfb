"""Answers that conform to a JSON Schema, for structured output.

Knows what providers' structured output takes: objects with all their properties, arrays, enums, constants, unions, references,
numbers within bounds. Strings are short words.
"""

from __future__ import annotations

from random import Random
from typing import Any

from sparring.bench.provider.ask import BadRequest

WORDS = ["price", "deal", "offer", "trade", "split", "share", "terms", "value", "reason", "point", "claim", "plan", "cost"]
MOST_ITEMS = 3
DEPTH = 12
"""Recursive schemas end here: deeper, arrays are empty and unions take their last case."""

Schema = dict[str, Any]


def conforming(schema: Schema, rng: Random) -> Any:
    """A value of the schema, as builtins. Raises `BadRequest` for a kind of schema that it does not know."""
    return _value(schema, schema, rng, 0)


def check_strict(schema: Schema) -> None:
    """What OpenAI asks of a strict schema: closed objects that require all they name. Raises `BadRequest`."""
    if schema.get("type") == "object":
        names = set(schema.get("properties", {}))
        if schema.get("additionalProperties") is not False:
            raise BadRequest("Invalid schema: 'additionalProperties' is required to be supplied and to be false.")
        if set(schema.get("required", ())) != names:
            raise BadRequest("Invalid schema: 'required' must include every key in properties.")
    inner = [*schema.get("properties", {}).values(), *schema.get("$defs", {}).values(), *schema.get("anyOf", ())]
    for part in (*inner, *([schema["items"]] if "items" in schema else [])):
        check_strict(part)


def _value(schema: Schema, root: Schema, rng: Random, depth: int) -> Any:
    if "$ref" in schema:
        return _value(_resolve(schema["$ref"], root), root, rng, depth + 1)
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    for union in ("anyOf", "oneOf"):
        if union in schema:
            cases = schema[union]
            return _value(cases[-1] if depth > DEPTH else rng.choice(cases), root, rng, depth + 1)
    kind = schema.get("type", "object" if "properties" in schema else None)
    if isinstance(kind, list):
        kind = kind[-1] if depth > DEPTH else rng.choice(kind)
    if kind == "object":
        return {name: _value(part, root, rng, depth + 1) for name, part in schema.get("properties", {}).items()}
    if kind == "array":
        return _array(schema, root, rng, depth)
    return _scalar(kind, schema, rng)


def _array(schema: Schema, root: Schema, rng: Random, depth: int) -> list[Any]:
    least = schema.get("minItems", 0)
    most = max(least, min(schema.get("maxItems", MOST_ITEMS), MOST_ITEMS)) if depth <= DEPTH else least
    return [_value(schema.get("items", {"type": "string"}), root, rng, depth + 1) for _ in range(rng.randint(least, most))]


def _scalar(kind: Any, schema: Schema, rng: Random) -> Any:
    low, high = schema.get("minimum", 0), schema.get("maximum", schema.get("minimum", 0) + 10)
    match kind:
        case "string":
            return _string(schema, rng)
        case "integer":
            return rng.randint(int(low), int(high))
        case "number":
            return round(rng.uniform(low, high), 3)
        case "boolean":
            return rng.random() < 0.5
        case "null":
            return None
    raise BadRequest(f"Invalid schema: type {kind!r} is not supported.")


def _string(schema: Schema, rng: Random) -> str:
    text = " ".join(rng.choices(WORDS, k=rng.randint(2, 6)))
    while len(text) < schema.get("minLength", 0):
        text += f" {rng.choice(WORDS)}"
    return text[: schema.get("maxLength", len(text))]


def _resolve(ref: str, root: Schema) -> Schema:
    found: Any = root
    for name in ref.removeprefix("#").strip("/").split("/"):
        if name and (not isinstance(found, dict) or name not in found):
            raise BadRequest(f"Invalid schema: reference {ref!r} leads nowhere.")
        found = found[name] if name else found
    return dict(found)
