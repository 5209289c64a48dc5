"""The checked settings of `settings.SESSION_AUTHORITY`, and the objects that are created from them."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from django.conf import settings
from django.core.exceptions import ImproperlyConfigured
from django.core.signals import setting_changed
from django.shortcuts import resolve_url

from session_authority.backchannel.provider import providers_of
from session_authority.sync import SessionClient
from session_authority.web.client_ip import ClientIp
from session_authority.web.cookies import SessionCookie
from session_authority.web.sessions_page import PageOptions, SessionsPage
from session_authority.web.site import Site, time_at

if TYPE_CHECKING:
    from session_authority.backchannel.receiver import Receiver

SETTING = "SESSION_AUTHORITY"

_DEFAULTS: Mapping[str, Any] = {
    "CLIENT": None,
    "COOKIE_NAME": "auth_session",
    "COOKIE_DOMAIN": None,
    "COOKIE_PERSISTENT": True,
    "TRUSTED_PROXIES": (),
    "FORWARDING_HEADER": "x-forwarded-for",
    "ORIGIN": None,
    "BROWSER_IDLE_TIMEOUT": timedelta(days=1),
    "CLOCK": None,
    "ADOPT_EXISTING": None,
    "REVOKE_OTHERS_ON_PASSWORD_CHANGE": True,
    "PAGE": {},
    "PROVIDERS": (),
}


@dataclass(frozen=True, slots=True)
class Options:
    """The settings of `settings.SESSION_AUTHORITY`.

    Attributes:
        client: The client of the authority. It connects at its first call, so it may be created before a fork.
        site: The cookie, the trusted proxies and the origin.
        own_cookie: The cookie that keeps the actor's own session while the actor acts as another user.
        browser_idle_timeout: The idle timeout of logins that end with the browser, if the policy has none.
        page: The sessions page.
        page_options: The look and the links of the page.
        adopt_existing: When Session Authority was deployed. Logins that may be older get a session. If None,
            they are logged out.
        revoke_others_on_password_change: Whether a password change signs the user out elsewhere.
        receiver: Receives sign-outs at identity providers. None without providers.
    """

    client: SessionClient
    site: Site
    own_cookie: SessionCookie
    browser_idle_timeout: timedelta | None
    page: SessionsPage
    page_options: PageOptions
    adopt_existing: datetime | None
    revoke_others_on_password_change: bool
    receiver: "Receiver | None"


@lru_cache(maxsize=1)
def options() -> Options:
    """Return the settings, which are read once.

    Raises:
        ImproperlyConfigured: A key is unknown, or its value is invalid. The message names it.
    """
    given: Mapping[str, Any] = getattr(settings, SETTING, {})
    unknown = sorted(given.keys() - _DEFAULTS.keys())
    if unknown:
        raise ImproperlyConfigured(
            f"{SETTING} has no key {', '.join(unknown)}; its keys are {', '.join(_DEFAULTS)}"
        )
    value = {**_DEFAULTS, **given}
    try:
        client = _client(value["CLIENT"])
        page_options = _page_options(value["PAGE"])
        if client.near_cache_statistics is not None:
            page_options = page_options.with_near_cache()
        name, domain = value["COOKIE_NAME"], value["COOKIE_DOMAIN"]
        site = Site(
            SessionCookie(name, domain=domain, persistent=value["COOKIE_PERSISTENT"]),
            ClientIp(value["TRUSTED_PROXIES"], header=value["FORWARDING_HEADER"]),
            value["ORIGIN"],
            _clock(value["CLOCK"]) or partial(time_at, client.address),
        )
        return Options(
            client=client,
            site=site,
            own_cookie=SessionCookie(name + "_own", domain=domain, persistent=False),
            browser_idle_timeout=_idle_timeout(value["BROWSER_IDLE_TIMEOUT"]),
            page=SessionsPage(page_options, now=site.clock),
            page_options=page_options,
            adopt_existing=_moment(value["ADOPT_EXISTING"]),
            revoke_others_on_password_change=bool(value["REVOKE_OTHERS_ON_PASSWORD_CHANGE"]),
            receiver=_receiver(value["PROVIDERS"], site.clock),
        )
    except (TypeError, ValueError) as error:
        raise ImproperlyConfigured(f"{SETTING}: {error}") from error


def _client(given: object) -> SessionClient:
    if given is None:
        return SessionClient.from_env()
    if not isinstance(given, SessionClient):
        raise TypeError(f"CLIENT must be a SessionClient, not {type(given).__name__}")
    return given


def _page_options(given: Mapping[str, Any]) -> PageOptions:
    # The page uses Django's own sign-in page by default.
    return PageOptions(**{"sign_in_url": resolve_url(settings.LOGIN_URL), **given})


def _receiver(given: object, now: Callable[[], datetime]) -> "Receiver | None":
    try:
        providers = providers_of(given)
    except ValueError as error:
        raise ValueError(f"PROVIDERS: {error}") from None
    if not providers:
        return None
    # These need the extra `backchannel`.
    from session_authority.backchannel.key_fetch import fetch_keys
    from session_authority.backchannel.receiver import Receiver

    return Receiver(providers, now, fetch_keys)


def _clock(given: object) -> Callable[[], datetime] | None:
    if given is not None and not callable(given):
        raise TypeError(
            f"CLOCK must be a function that returns the time, not {type(given).__name__}"
        )
    return given


def _idle_timeout(given: object) -> timedelta | None:
    if given is None or (isinstance(given, timedelta) and given >= timedelta(minutes=1)):
        return given
    raise ValueError(
        f"BROWSER_IDLE_TIMEOUT must be a timedelta of at least a minute, or None, not {given!r}"
    )


def _moment(given: object) -> datetime | None:
    if given is None:
        return None
    moment = datetime.fromisoformat(given) if isinstance(given, str) else given
    if not isinstance(moment, datetime) or moment.utcoffset() is None:
        raise ValueError(
            "ADOPT_EXISTING must be the moment of the deployment, with its time zone, such as "
            f'"2026-12-01T09:00+00:00", not {given!r}'
        )
    return moment


def _forget(*, setting: str, **_kwargs: object) -> None:
    if setting in {SETTING, "LOGIN_URL"}:
        options.cache_clear()


setting_changed.connect(_forget)  # only Django's test tools send this signal
