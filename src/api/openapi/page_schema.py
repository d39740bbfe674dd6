"""JSON Schemas and examples of the OpenAPI document as HTML, for `/docs`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any

Schema = Mapping[str, Any]

# What bounds a value, and how a reader says it.
_BOUNDS = (
    ("minimum", "≥ {}"),
    ("exclusiveMinimum", "> {}"),
    ("maximum", "≤ {}"),
    ("exclusiveMaximum", "< {}"),
    ("multipleOf", "multiple of {}"),
    ("maxLength", "at most {} characters"),
)


def fields(schema: Schema) -> str:
    """The properties of an object as a table; of anything else its type."""
    properties: Mapping[str, Schema] = schema.get("properties", {})
    if not properties:
        return f"<p>{kind(schema)}</p>"
    required = schema.get("required", [])
    rows = "".join(
        f"<tr><td><code>{escape(name)}</code>{' <em>required</em>' if name in required else ''}"
        f"</td><td>{kind(each)}</td><td>{prose(each.get('description', ''))}</td></tr>"
        for name, each in properties.items()
    )
    return f"<table><tr><th>Field<th>Type<th></tr>{rows}</table>"


def kind(schema: Schema) -> str:
    """A type in a few words, with its bounds and default; other schemas as links."""
    words = [_form(schema)]
    words += [text.format(_number(schema[name])) for name, text in _BOUNDS if name in schema]
    if schema.get("default") is not None:
        words.append(f"default <code>{escape(json.dumps(schema['default']))}</code>")
    return ", ".join(words)


def _number(value: float) -> float:
    """FastAPI's document has floats where the schema has whole numbers."""
    return int(value) if value == int(value) else value


def _form(schema: Schema) -> str:
    match schema:
        case {"$ref": str(reference)}:
            name = reference.rpartition("/")[2]
            return f"<a href='#schema-{escape(name)}'>{escape(name)}</a>"
        case {"anyOf": [*options]}:
            return " or ".join(kind(option) for option in options)
        case {"const": value}:
            return f"<code>{escape(json.dumps(value))}</code>"
        case {"enum": [*values]}:
            return " · ".join(f"<code>{escape(json.dumps(value))}</code>" for value in values)
        case {"type": "array", "items": dict(items)}:
            return f"list of {kind(items)}"
        case {"type": "string", "contentSchema": dict(inner)}:
            return f"text that holds {kind(inner)}"
        case {"type": str(name)}:
            return escape(schema.get("format", "text") if name == "string" else name)
        case _:
            return "any"


def examples(media: Mapping[str, Any]) -> str:
    """The examples of a media type, each under its name if there are several."""
    found = {name: each["value"] for name, each in media.get("examples", {}).items()}
    if "example" in media:
        found = {"": media["example"]}
    return "".join(
        (f"<p class=name>{prose(name.replace('_', ' '))}</p>" if len(found) > 1 else "")
        + code(value)
        for name, value in found.items()
    )


def code(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{escape(text.rstrip())}</pre>"


def prose(text: str) -> str:
    """A description: what stands between backticks is code, an empty line begins a paragraph."""
    parts = escape(text).split("`")
    marked = "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
    return marked.replace("\n\n", "<p>")
