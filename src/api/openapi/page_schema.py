"""JSON Schemas and examples of the OpenAPI document as HTML, for `/docs`."""

import json
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

Schema = Mapping[str, Any]

# The bounds of a value, as text for readers.
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
    mark = dict.fromkeys(schema.get("required", []), " <em>required</em>")
    rows = [
        (inline(name) + mark.get(name, ""), kind(each), description(each))
        for name, each in properties.items()
    ]
    return table(("Field", "Type"), rows)


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells that are HTML; the last column has no heading."""
    head = "".join(f"<th>{heading}" for heading in headings)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{head}<th></tr>{body}</table>"


def kind(schema: Schema) -> str:
    """A type in short, with its bounds and default; other schemas as links."""
    phrases = [_form(schema)]
    phrases += [text.format(_number(schema[name])) for name, text in _BOUNDS if name in schema]
    if schema.get("default") is not None:
        phrases.append(f"default {inline(json.dumps(schema['default']))}")
    return ", ".join(phrases)


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
            return inline(json.dumps(value))
        case {"enum": [*values]}:
            return " · ".join(inline(json.dumps(value)) for value in values)
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
    values = {name: each["value"] for name, each in media.get("examples", {}).items()}
    if "example" in media:
        values = {"": media["example"]}
    return "".join(
        (f"<p class=name>{prose(name.replace('_', ' '))}</p>" if len(values) > 1 else "")
        + code(value)
        for name, value in values.items()
    )


def code(value: Any) -> str:
    """Text as it is, anything else as JSON."""
    text = value if isinstance(value, str) else json.dumps(value, indent=2, ensure_ascii=False)
    return f"<pre>{escape(text.rstrip())}</pre>"


def inline(text: str) -> str:
    """A name or a value within a line."""
    return f"<code>{escape(text)}</code>"


def description(item: Schema) -> str:
    """What the document says about a schema, a parameter, a header or an answer."""
    return prose(item.get("description", ""))


def prose(text: str) -> str:
    """A description: what stands between backticks is code, an empty line begins a paragraph."""
    parts = escape(text).split("`")
    marked = "".join(f"<code>{part}</code>" if n % 2 else part for n, part in enumerate(parts))
    return marked.replace("\n\n", "<p>")
