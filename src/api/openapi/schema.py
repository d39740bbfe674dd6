"""The OpenAPI document: FastAPI's, completed by what FastAPI cannot know: the headers that
`RequestMiddleware` reads and sends, and the forms of events in a stream and a log."""

from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from fastapi.routing import iter_route_contexts

from api.middleware.request import CLIENT_REQUEST_ID_PATTERN
from api.schemas.responses import Event, LogLine, QueueMessage

_PARAMETERS = {
    "ClientRequestId": {
        "name": "X-Client-Request-Id",
        "in": "header",
        "description": "your own id for this request: it comes back, and is recorded with the job",
        "schema": {"type": "string", "pattern": CLIENT_REQUEST_ID_PATTERN},
        "example": "order-4711",
    }
}
_HEADERS = {
    "RequestId": {
        "description": "our id for this request; `correlation_id` of an error",
        "required": True,
        "schema": {"type": "string"},
        "example": "0f3c5a2e9d4b4c1f8e7a6b5c4d3e2f10",
    },
    "ClientRequestId": {
        "description": "what you sent under this name, if you did",
        "schema": {"type": "string"},
        "example": "order-4711",
    },
}
_EVERY_RESPONSE = {
    "X-Request-Id": {"$ref": "#/components/headers/RequestId"},
    "X-Client-Request-Id": {"$ref": "#/components/headers/ClientRequestId"},
}


class DocumentedApi(FastAPI):
    """FastAPI with a complete document."""

    def openapi(self) -> dict[str, Any]:
        if self.openapi_schema is None:
            document = super().openapi()
            _add_components(document["components"])
            documented = {
                route.operation_id: route.responses
                for route in iter_route_contexts(self.routes)
                if hasattr(route, "operation_id")
            }
            for path in document["paths"].values():
                for operation in path.values():
                    _add_headers(operation)
                    _restore_examples(operation, documented[operation["operationId"]])
            self.openapi_schema = document
        return self.openapi_schema


def _add_components(components: dict[str, Any]) -> None:
    for model in (Event, LogLine, QueueMessage):
        schema = model.model_json_schema(ref_template="#/components/schemas/{model}")
        components["schemas"] |= schema.pop("$defs", {}) | {model.__name__: schema}
    components |= {"parameters": _PARAMETERS, "headers": _HEADERS}


def _add_headers(operation: dict[str, Any]) -> None:
    operation.setdefault("parameters", []).append(
        {"$ref": "#/components/parameters/ClientRequestId"}
    )
    for response in operation["responses"].values():
        response["headers"] = {**response.get("headers", {}), **_EVERY_RESPONSE}


def _restore_examples(operation: Mapping[str, Any], responses: Mapping[int | str, Any]) -> None:
    """Put examples in unchanged: FastAPI drops every name whose value is null, in examples too, and
    readers need to see `"error": null`."""
    for status, response in responses.items():
        for kind, media in response.get("content", {}).items():
            shown = operation["responses"][str(status)]["content"][kind]
            shown |= {name: media[name] for name in ("example", "examples") if name in media}
