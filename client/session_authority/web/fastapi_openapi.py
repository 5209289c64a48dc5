"""The session cookie and the status 401 in an app's OpenAPI document, for operations that need a session."""

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
    """The security scheme of the cookie. As a dependency, it changes only the OpenAPI document."""

    def __init__(self, cookie_name: str) -> None:
        self.model = APIKey.model_validate({"in": APIKeyIn.cookie, "name": cookie_name})
        self.scheme_name = SCHEME_NAME

    async def __call__(self, _connection: HTTPConnection) -> None:
        """Do nothing: the dependency that uses this one looks the session up."""


def document(app: FastAPI, cookie_name: str) -> None:
    """Add the site's cookie name, and 401 for each operation that needs a session, to an app's OpenAPI document."""
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

    app.openapi = openapi  # type: ignore[method-assign]  # FastAPI's documentation recommends this
