import logging
import time

import pytest

from session_authority.web.cookies import (
    CANDIDATES_LIMIT,
    COOKIE_HEADER_LIMIT_BYTES,
    SessionCookie,
    is_local,
)

TOKEN = "ses_" + "A" * 70


def test_the_cookie_is_bound_to_its_host_and_hidden_from_scripts() -> None:
    header = SessionCookie().holding(TOKEN, local=False).header()

    assert header == (
        f"__Host-auth_session={TOKEN}; Path=/; Max-Age=34560000; Secure; HttpOnly; SameSite=Lax"
    )


def test_a_cookie_for_subdomains_has_another_prefix() -> None:
    header = SessionCookie(domain=".Example.com").holding(TOKEN, local=False).header()

    assert header.startswith("__Secure-auth_session=")
    assert "; Domain=example.com; Secure;" in header


def test_a_cookie_can_end_with_the_browser() -> None:
    cookie = SessionCookie(persistent=False)

    assert "Max-Age" not in cookie.holding(TOKEN, local=False).header()
    assert "Max-Age" in cookie.holding(TOKEN, local=False, persistent=True).header()


def test_on_localhost_the_name_has_no_prefix_and_a_warning_is_logged_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    cookie = SessionCookie(domain="example.com")

    with caplog.at_level(logging.WARNING):
        headers = {cookie.holding(TOKEN, local=True).header() for _ in range(3)}

    assert headers == {f"auth_session={TOKEN}; Path=/; Max-Age=34560000; HttpOnly; SameSite=Lax"}
    assert [record.message.split(",")[0] for record in caplog.records] == [
        "The session cookie is set without Secure"
    ]
    assert TOKEN not in caplog.text


def test_clearing_uses_the_same_cookie_name_and_attributes() -> None:
    (cleared,) = SessionCookie(domain="example.com").cleared(local=False)

    assert cleared.header() == (
        "__Secure-auth_session=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; "
        "Domain=example.com; Secure; HttpOnly; SameSite=Lax"
    )
    assert [each.name for each in SessionCookie().cleared(local=True)] == [
        "__Host-auth_session",
        "auth_session",
    ]


def test_the_token_is_found_among_other_cookies() -> None:
    header = f'a=1; __Host-auth_session={TOKEN};b="x;y"; __Host-auth_session_=no; c'

    assert SessionCookie().tokens(header, local=False) == (TOKEN,)


@pytest.mark.parametrize(
    "header",
    [
        f'__Host-auth_session="{TOKEN}"',
        f'$Version="1"; __Host-auth_session="{TOKEN}"; $Path="/"; $Domain="app.example"',
        f'__Host-auth_session=""; __Host-auth_session="{TOKEN}"',
        f'a="open; __Host-auth_session="{TOKEN}" ; b',
        f"a=b ;  \t__Host-auth_session= {TOKEN} \t; c",
        f'__Host-auth_session={TOKEN}; __Host-auth_session="{TOKEN}"',
    ],
)
def test_quotes_and_spaces_around_a_value_are_ignored(header: str) -> None:
    assert SessionCookie().tokens(header, local=False) == (TOKEN,)


@pytest.mark.parametrize(
    "pair",
    [
        # Browsers protect a prefix only at the very beginning of a name.
        f"\x85__Host-auth_session={TOKEN}",
        f"\xa0__Host-auth_session={TOKEN}",
        f"\x0b__Host-auth_session={TOKEN}",
        f"__Host-auth_session\xa0={TOKEN}",
        f"__Host-auth_session ={TOKEN}",
        f'"__Host-auth_session"={TOKEN}',
        f"a=b,__Host-auth_session={TOKEN}",
        f"__HOST-auth_session={TOKEN}",
    ],
)
def test_a_similar_name_is_another_cookie(pair: str) -> None:
    assert SessionCookie().tokens(pair, local=False) == ()


@pytest.mark.parametrize("value", ['"', f'"{TOKEN}', f'{TOKEN}"', f"'{TOKEN}'", f'""{TOKEN}""'])
def test_other_quotation_marks_belong_to_the_value(value: str) -> None:
    assert TOKEN not in SessionCookie().tokens(f"__Host-auth_session={value}", local=False)


def test_a_name_without_the_prefix_is_accepted_only_on_localhost() -> None:
    header = f"auth_session={TOKEN}"

    assert SessionCookie().tokens(header, local=False) == ()
    assert SessionCookie().tokens(header, local=True) == (TOKEN,)


def test_several_cookies_of_the_name_are_candidates_in_the_browsers_order() -> None:
    header = "; ".join(f"__Host-auth_session={each}" for each in ("b", "a", "b", "c"))

    assert SessionCookie().tokens(header, local=False) == ("b", "a", "c")


def test_the_number_of_candidates_is_limited() -> None:
    header = "; ".join(f"__Host-auth_session=t{number}" for number in range(1000))

    assert len(SessionCookie().tokens(header, local=False)) == CANDIDATES_LIMIT


@pytest.mark.parametrize(
    "header",
    [
        "",
        "=",
        ";;;;=;",
        "__Host-auth_session",
        "__Host-auth_session=",
        "__host-auth_session=a",
        "x__Host-auth_session=a",
        "=__Host-auth_session=a",
    ],
)
def test_a_header_without_the_cookie_has_no_token(header: str) -> None:
    assert SessionCookie().tokens(header, local=False) == ()


def test_a_hostile_header_costs_little_time() -> None:
    longest = ("__Host-auth_session;" * COOKIE_HEADER_LIMIT_BYTES)[:COOKIE_HEADER_LIMIT_BYTES]

    began = time.process_time()
    assert SessionCookie().tokens(longest, local=False) == ()
    assert time.process_time() - began < 0.5
    beyond = f"__Host-auth_session={TOKEN}".ljust(COOKIE_HEADER_LIMIT_BYTES + 1)
    assert SessionCookie().tokens(beyond, local=False) == ()
    assert SessionCookie().tokens(beyond[:-1], local=False) == (TOKEN,)


@pytest.mark.parametrize("token", ["a;Domain=evil", "a\r\nSet-Cookie: b", "", "a b", "é"])
def test_only_a_token_is_accepted_as_the_value(token: str) -> None:
    with pytest.raises(ValueError, match="letters, digits"):
        SessionCookie().holding(token, local=False)


@pytest.mark.parametrize("name", ["", "a b", "a;b", "__Host-x", "__SECURE-x", "x" * 65])
def test_an_invalid_cookie_name_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="cookie's name"):
        SessionCookie(name)


@pytest.mark.parametrize("domain", ["com", "a b.com", "example.com;x", "-a.com", ""])
def test_an_invalid_cookie_domain_is_refused(domain: str) -> None:
    with pytest.raises(ValueError, match="cookie's domain"):
        SessionCookie(domain=domain)


@pytest.mark.parametrize(
    ("scheme", "host", "origin", "local"),
    [
        ("http", "localhost", "", True),
        ("http", "LOCALHOST:8000", "", True),
        ("http", "app.localhost:8000", "http://app.localhost:8000", True),
        ("http", "127.0.0.1:8000", "null", True),
        ("http", "[::1]:8000", "", True),
        ("ws", "localhost:8000", "http://localhost:8000", True),
        ("https", "localhost", "", False),
        ("wss", "localhost", "", False),
        ("http", "app.example", "", False),
        ("http", "localhost.app.example", "", False),
        ("http", "192.168.1.5:8000", "", False),
        ("http", "", "", False),
        ("http", "[", "", False),
        # A proxy that hides the host from the app does not hide it from the browser.
        ("http", "localhost:8000", "https://app.example", False),
        ("http", "127.0.0.1:8000", "https://localhost", False),
    ],
)
def test_only_a_browsers_own_machine_over_plain_http_is_local(
    scheme: str, host: str, origin: str, local: bool
) -> None:
    assert is_local(scheme, host, origin) is local


def test_an_invalid_origin_is_not_local() -> None:
    assert not is_local("http", "localhost", "http://[")
