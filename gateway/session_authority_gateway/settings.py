"""The operator's settings of the gateway."""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import urlsplit

from pydantic import Field, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from session_authority.backchannel.provider import Provider, providers_of
from session_authority.errors import ConfigurationError as ClientConfigurationError
from session_authority.near_cache.options import MAX_SESSIONS_LIMIT
from session_authority.web.client_ip import ClientIp
from session_authority.web.cookies import SessionCookie
from session_authority.web.origin import site_origin
from session_authority.web.sessions_page import PageOptions
from session_authority.web.sessions_page.language import Languages
from session_authority.web.sessions_page.options import is_path
from session_authority_server.config import (
    CHOICES,
    ENV_PREFIX,
    checked_choice,
    load,
    read_duration,
    split_address,
)

GATEWAY_PREFIX = f"{ENV_PREFIX}GATEWAY_"
BACKCHANNEL_PATH = "/backchannel"
"""The path below which identity providers report sign-outs."""
TABLE = "gateway"
"""The table of the configuration file with these settings."""

_PAGE_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
_OWN_PATHS = ("verify", "healthz", "ssf", ".well-known", BACKCHANNEL_PATH.removeprefix("/"))
_PAGE_LOOK = (
    "page_app_name",
    "page_home_url",
    "page_signed_out_path",
    "page_stylesheet_path",
    "page_icon_path",
)


class GatewaySettings(BaseSettings):
    """The settings of the gateway.

    Each setting comes from the environment (`SESSION_AUTHORITY_GATEWAY_` and the name in capitals), then from the table
    `[gateway]` of the configuration file, then from its default. The client's own variables, such as
    `SESSION_AUTHORITY_ADDRESS`, say where the authority is.
    """

    model_config = SettingsConfigDict(
        env_prefix=GATEWAY_PREFIX, env_ignore_empty=True, extra="forbid", frozen=True
    )

    listen: str = Field(
        "127.0.0.1:50552",
        description="The address to serve HTTP on, as host:port. Port 0 picks a free port.",
    )
    grpc_listen: str = Field(
        "127.0.0.1:50553",
        description="The address to serve Envoy's ext_authz on over gRPC, as host:port. Empty for none.",
    )
    json_listen: str = Field(
        "",
        description="The address to serve the JSON API on over HTTP, as host:port. Only your own programs may reach it. "
        "Empty for none.",
    )
    trusted_proxies: str = Field(
        "127.0.0.0/8, ::1",
        description="The addresses and networks of the proxies that ask the gateway, separated by commas. The gateway "
        "answers `/verify` to these alone, and believes their X-Forwarded headers.",
    )
    sign_in_url: str = Field(
        "",
        description="The sign-in page of the app: a path, or an address with https://. A visitor without a session is "
        "redirected to it, with the page to return to as `next`. Empty to answer 401.",
    )
    reauthenticate_url: str = Field(
        "",
        description="The page on which users confirm their identity, for routes with `max_age`. Empty for SIGN_IN_URL.",
    )
    cookie_name: str = Field(
        "auth_session",
        description="The name of the session cookie, without its prefix `__Host-` or `__Secure-`.",
    )
    cookie_domain: str = Field(
        "",
        description="The domain whose sub-domains share the session cookie, for example example.com. Empty if the site "
        "has one host.",
    )
    origin: str = Field(
        "",
        description="The only origin that browsers see, for example https://app.example. Empty if it follows from each "
        "request.",
    )
    page_path: str = Field(
        "",
        description="The path on the app's site under which the gateway serves the page of a user's sessions, for "
        "example /sessions. Empty for no page.",
    )
    page_app_name: str = Field("", description="The name of the site, in the page's title.")
    page_home_url: str = Field(
        "",
        description="The target of the page's link back: a path or an address. Empty for no link.",
    )
    page_signed_out_path: str = Field(
        "", description="The path to open after signing out on the page. Empty for the page itself."
    )
    page_catalogues: str = Field(
        "", description="A folder with further languages of the page, as .po files. Empty for none."
    )
    page_language: str = Field(
        "",
        description="The only language of the page, for example de. Empty for each visitor's own.",
    )
    page_stylesheet_path: str = Field(
        "", description="The path of the app's style sheet for the page. Empty for none."
    )
    page_icon_path: str = Field(
        "", description="The path of the app's icon for the page. Empty for the page's own icon."
    )
    providers: Annotated[tuple[Provider, ...], NoDecode] = Field(
        (),
        description="The identity providers whose sign-outs end sessions: a JSON list of objects, or tables "
        "`[[gateway.providers]]` in the file. Each has `issuer`, `client_id` and, if the issuer has no discovery "
        "document, `jwks_url`. Empty for none.",
    )
    cached_sessions: Annotated[int, Field(ge=1, le=MAX_SESSIONS_LIMIT)] = Field(
        100_000,
        description="How many sessions the near cache holds. A session takes about 700 bytes.",
    )
    metrics_listen: str = Field(
        "",
        description="The address to serve Prometheus metrics on over HTTP, as host:port. Empty for no metrics.",
    )
    log_level: str = Field(
        "info", description="The lowest level to log: debug, info, warning or error."
    )
    log_format: str = Field(
        "auto",
        description="The format of the log: json, console, or auto (console on a terminal, json elsewhere).",
    )
    drain_seconds: Annotated[float, Field(ge=0, le=600)] = Field(
        10, description="How long requests in flight may continue after SIGTERM."
    )
    tls_certificate: str = Field(
        "",
        description="The PEM file of the gateway's certificate and its chain, for all ports. The gateway reloads the "
        "file when it changes. Empty for no encryption.",
    )
    tls_key: str = Field(
        "",
        validate_default=True,
        description="The PEM file of the certificate's private key, without a passphrase.",
    )
    tls_client_ca: str = Field(
        "",
        description="The PEM file of the CA certificates for clients. One of them must have signed each proxy's "
        "certificate. Empty to request no client certificate.",
    )

    @field_validator("*", mode="before")
    @classmethod
    def _read_duration(cls, value: object, info: ValidationInfo) -> object:
        return read_duration(cls, str(info.field_name), value)

    @field_validator("listen", "grpc_listen", "json_listen", "metrics_listen")
    @classmethod
    def _check_address(cls, value: str, info: ValidationInfo) -> str:
        if value or info.field_name == "listen":
            split_address(value)
        return value

    @field_validator("trusted_proxies")
    @classmethod
    def _check_proxies(cls, value: str) -> str:
        ClientIp(_listed(value))
        return value

    @field_validator("sign_in_url", "reauthenticate_url")
    @classmethod
    def _check_page(cls, value: str) -> str:
        if value and not ((is_path(value) and value.isascii()) or _is_web_address(value)):
            raise ValueError(
                "give a path such as /sign-in, or an address such as https://login.example/"
            )
        return value

    @field_validator("cookie_name")
    @classmethod
    def _check_cookie_name(cls, value: str) -> str:
        SessionCookie(value)
        return value

    @field_validator("cookie_domain")
    @classmethod
    def _check_cookie_domain(cls, value: str) -> str:
        SessionCookie(domain=value or None)
        return value

    @field_validator("origin")
    @classmethod
    def _check_origin(cls, value: str) -> str:
        return site_origin(value) if value else value

    @field_validator("page_path")
    @classmethod
    def _check_page_path(cls, value: str) -> str:
        if value and not _PAGE_PATH.fullmatch(value):
            raise ValueError(
                "give a path such as /sessions, of letters, digits and . _ ~ -, without a slash at the end"
            )
        first = value.removeprefix("/").partition("/")[0]
        if first in _OWN_PATHS or first.startswith("session_authority."):
            raise ValueError(f"the gateway itself uses /{first}; give another path")
        return value

    @field_validator("providers", mode="before")
    @classmethod
    def _read_providers(cls, value: object) -> tuple[Provider, ...]:
        if isinstance(value, str):
            try:
                value = json.loads(value)
            except (ValueError, RecursionError):
                raise ValueError(
                    'give a JSON list such as [{"issuer": "https://id.example", "client_id": "shop"}]'
                ) from None
        return providers_of(value)

    @field_validator(*_PAGE_LOOK)
    @classmethod
    def _check_page_look(cls, value: str, info: ValidationInfo) -> str:
        if value:
            _refuse_unusable(lambda: PageOptions(**_without_prefix({str(info.field_name): value})))
        return value

    @field_validator("page_catalogues", "page_language")
    @classmethod
    def _check_page_language(cls, value: str, info: ValidationInfo) -> str:
        catalogues = (
            value if info.field_name == "page_catalogues" else info.data.get("page_catalogues")
        )
        only = value if info.field_name == "page_language" else None
        if catalogues and not Path(catalogues).is_dir():
            raise ValueError("give a folder with .po files")
        _refuse_unusable(lambda: Languages(Path(catalogues) if catalogues else None, only or None))
        return value

    @field_validator(*CHOICES)
    @classmethod
    def _check_choice(cls, value: str, info: ValidationInfo) -> str:
        return checked_choice(str(info.field_name), value)

    @field_validator("tls_certificate", "tls_key", "tls_client_ca")
    @classmethod
    def _check_path(cls, value: str) -> str:
        if "\0" in value:
            raise ValueError("give a path")
        return value

    @field_validator("tls_key")
    @classmethod
    def _check_tls_key(cls, value: str, info: ValidationInfo) -> str:
        if bool(value) != bool(info.data.get("tls_certificate")):
            raise ValueError("give both tls_certificate and tls_key, or neither")
        return value

    @field_validator("tls_client_ca")
    @classmethod
    def _check_tls_client_ca(cls, value: str, info: ValidationInfo) -> str:
        if value and not info.data.get("tls_certificate"):
            raise ValueError("needs tls_certificate and tls_key; set both")
        return value

    @property
    def proxies(self) -> ClientIp:
        """The proxies whose headers the gateway believes."""
        return ClientIp(_listed(self.trusted_proxies))

    @property
    def page_options(self) -> PageOptions:
        """The look and the links of the sessions page."""
        return PageOptions(
            sign_in_url=self.sign_in_url or None,
            reauthenticate_url=self.reauthenticate_url or None,
            language=self.page_language or None,
            catalogues=Path(self.page_catalogues) if self.page_catalogues else None,
            **_without_prefix({name: getattr(self, name) for name in _PAGE_LOOK}),
        )

    @property
    def cookie(self) -> SessionCookie:
        """The session cookie."""
        return SessionCookie(self.cookie_name, domain=self.cookie_domain or None)


def load_gateway_settings(config_file: Path | None = None, **given: Any) -> GatewaySettings:
    """Return the settings of the gateway. Arguments take precedence over the environment, and that over the file.

    Raises:
        ConfigurationError: If a setting is invalid, or the file can't be read.
    """
    return load(GatewaySettings, config_file, table=TABLE, **given)


def _refuse_unusable(check: Callable[[], object]) -> None:
    """Raise an error of the client about a setting as a ValueError, which pydantic reports with the name."""
    try:
        check()
    except ClientConfigurationError as error:
        raise ValueError(error.problem) from None


def _without_prefix(given: Mapping[str, str]) -> dict[str, Any]:
    """Return the options of the page with a value, by their names there."""
    return {name.removeprefix("page_"): value for name, value in given.items() if value}


def _listed(text: str) -> list[str]:
    return [item for each in text.split(",") if (item := each.strip())]


def _is_web_address(address: str) -> bool:
    try:
        parts = urlsplit(address)
    except ValueError:
        return False
    is_plain = "\\" not in address and all("!" <= character <= "~" for character in address)
    return parts.scheme in ("https", "http") and bool(parts.hostname) and is_plain
