"""The page about settings, from the classes that hold them."""

import inspect
from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import Enum
from typing import Any, Literal, get_args, get_origin

from annotated_types import Ge, Le
from pydantic_settings import BaseSettings
from tools.reference.markdown import Docstring, shown, table

from session_authority import NearCache, SessionClient
from session_authority import _settings as client_settings
from session_authority.backchannel.provider import providers_of
from session_authority.web.client_ip import ClientIp
from session_authority.web.cookies import SessionCookie
from session_authority.web.django import options as django
from session_authority.web.sessions_page import PageOptions
from session_authority.web.site import Site
from session_authority_gateway.settings import GATEWAY_PREFIX, TABLE, GatewaySettings
from session_authority_server.config import ENV_PREFIX, Settings, unit_of
from session_authority_server.domain.duration import EXAMPLE, format_duration


def span(name: str, number: Any) -> str:
    """Return the value of a setting of the server for readers, as a duration if it is a span of time."""
    unit = unit_of(name)
    return shown(number) if unit is None else f"`{format_duration(number * unit)}`"


def values(name: str, annotation: Any, metadata: Iterable[Any]) -> str:
    """Return the values that a setting of the server takes, as far as its type says."""
    if get_origin(annotation) is Literal:
        return ", ".join(f"`{each}`" for each in get_args(annotation))
    if isinstance(annotation, type) and issubclass(annotation, Enum):
        return ", ".join(f"`{each.value}`" for each in annotation)
    if annotation is bool:
        return "`true`, `false`"
    least = [each.ge for each in metadata if isinstance(each, Ge)]
    most = [each.le for each in metadata if isinstance(each, Le)]
    if not (least and most):
        return ""
    if unit_of(name) is not None:
        return f"{span(name, least[0])} to {span(name, most[0])}"
    return f"{least[0]:,} to {most[0]:,}"


def arguments(of: Callable[..., Any], documented: Any) -> Iterator[list[str]]:
    """Return name, default and meaning of each argument."""
    described = Docstring(documented).described
    for name, parameter in inspect.signature(of).parameters.items():
        if name != "self":
            yield [f"`{name}`", shown(parameter.default), described[name]]


# The argument or attribute whose docstring describes a key of Django's SESSION_AUTHORITY.
_DJANGO: Mapping[str, tuple[Any, str]] = {
    "CLIENT": (django.Options, "client"),
    "COOKIE_NAME": (SessionCookie.__init__, "name"),
    "COOKIE_DOMAIN": (SessionCookie.__init__, "domain"),
    "COOKIE_PERSISTENT": (SessionCookie.__init__, "persistent"),
    "TRUSTED_PROXIES": (ClientIp.__init__, "trusted_proxies"),
    "FORWARDING_HEADER": (ClientIp.__init__, "header"),
    "ORIGIN": (Site, "origin"),
    "BROWSER_IDLE_TIMEOUT": (django.Options, "browser_idle_timeout"),
    "CLOCK": (Site, "clock"),
    "ADOPT_EXISTING": (django.Options, "adopt_existing"),
    "REVOKE_OTHERS_ON_PASSWORD_CHANGE": (django.Options, "revoke_others_on_password_change"),
    "PAGE": (django.Options, "page_options"),
    "PROVIDERS": (providers_of, "given"),
}


def page() -> Iterator[str]:
    """Return the page about settings."""
    yield from _of_server()
    yield from _of_gateway()
    yield from _of_client()
    yield from _of_web()


def _of_server() -> Iterator[str]:
    yield from (
        "## Server and worker",
        "",
        "A setting comes from the environment, then from a TOML file, then from its default. Options of a command",
        "outrank all three. The file is the one that `--config` or `SESSION_AUTHORITY_CONFIG` names, or else",
        "`session-authority.toml` in the working directory. In the file, names are in lower case and without the",
        f"prefix `{ENV_PREFIX}`.",
        "",
        f"A span of time is {EXAMPLE}, or a plain number of the unit that its name ends",
        "with. An empty value counts as unset.",
        "",
    )
    yield from _operators(Settings, ENV_PREFIX)


def _of_gateway() -> Iterator[str]:
    yield from (
        "## Gateway",
        "",
        f"The sources and forms are the same. In the file, these settings are in the table `[{TABLE}]`, without the prefix",
        f"`{GATEWAY_PREFIX}`. The variables of the client, below, say how the gateway reaches the",
        "authority.",
        "",
    )
    yield from _operators(GatewaySettings, GATEWAY_PREFIX)


def _operators(kind: type[BaseSettings], prefix: str) -> Iterator[str]:
    yield from table(
        "variable",
        "default",
        "values",
        "meaning",
        rows=(
            [
                f"`{prefix}{name.upper()}`",
                span(name, field.default),
                values(name, field.annotation, field.metadata),
                field.description or "",
            ]
            for name, field in kind.model_fields.items()
        ),
    )


def _of_client() -> Iterator[str]:
    yield from (
        "## Client",
        "",
        "`SessionClient(...)` and `AsyncSessionClient(...)` take arguments; `from_env()` reads variables. There, a",
        "switch is `on` or `off`, and a certificate or key is the path of its PEM file. An empty variable counts as",
        "unset.",
        "",
    )
    variables = client_settings._VARIABLES
    yield from table(
        "argument",
        "variable",
        "default",
        "meaning",
        rows=(
            [
                name,
                f"`{variables[name.strip('`')]}`" if name.strip("`") in variables else "none",
                *rest,
            ]
            for name, *rest in arguments(SessionClient.__init__, SessionClient.__init__)
        ),
    )
    yield from ("## Near cache", "", "`SessionClient(near_cache=NearCache(...))`:", "")
    yield from table("argument", "default", "meaning", rows=arguments(NearCache, NearCache))


def _of_web() -> Iterator[str]:
    yield from ("## Web integrations", "")
    for kind, documented in (
        (Site, Site),
        (SessionCookie, SessionCookie.__init__),
        (ClientIp, ClientIp.__init__),
        (PageOptions, PageOptions),
    ):
        yield from (f"### {kind.__name__}", "")
        yield from table("argument", "default", "meaning", rows=arguments(kind, documented))
    yield from (
        "### Django",
        "",
        "The keys of the dict `SESSION_AUTHORITY` in Django's settings:",
        "",
    )
    yield from table(
        "key",
        "default",
        "meaning",
        rows=(
            [
                f"`{key}`",
                shown(default),
                Docstring(_DJANGO[key][0]).described[_DJANGO[key][1]],
            ]
            for key, default in django._DEFAULTS.items()
        ),
    )
