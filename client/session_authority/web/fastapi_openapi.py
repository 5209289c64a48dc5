"""What an app's OpenAPI document says of operations that need a session: the cookie, and the answer 401."""

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.models import APIKey, APIKeyIn
from fastapi.security.base import SecurityBase
from starlette.requests import HTTPConnection

SCHEME_NAME = "session"

_NOT_SIGNED_IN = {
    "description": "Not logged in",
    "content": {
        "application/json": {
            "schema": {"type": "object", "properties": {"detail": {"type": "string"}}}
        }
    },
}


class CookieScheme(SecurityBase):
    """The security scheme of the cookie. As a dependency it has no effect but on the document."""

    def __init__(self, cookie_name: str) -> None:
        self.model = APIKey.model_validate({"in": APIKeyIn.cookie, "name": cookie_name})
        self.scheme_name = SCHEME_NAME

    async def __call__(self, _connection: HTTPConnection) -> None:
        """Do nothing: the dependency that names this one asks for the session."""


def document(app: FastAPI, cookie_name: str) -> None:
    """Have an app's document name the site's own cookie, and 401 for each operation that needs it."""
    made = app.openapi

    def openapi() -> dict[str, Any]:
        schema = made()
        schemes = schema.get("components", {}).get("securitySchemes", {})
        if SCHEME_NAME in schemes:
            schemes[SCHEME_NAME]["name"] = cookie_name
        for path in schema.get("paths", {}).values():
            for operation in path.values():
                if any(SCHEME_NAME in each for each in operation.get("security", ())):
                    operation["responses"].setdefault("401", _NOT_SIGNED_IN)
        return schema

    app.openapi = openapi  # type: ignore[method-assign]  # as FastAPI's documentation has it
