"""The sessions page of an app that knows nothing about sessions, through nginx and HAProxy."""

import re
import uuid
from collections.abc import Iterator
from datetime import timedelta

import httpx
import pytest

from tests.browser.devices import FIREFOX_ON_LINUX
from tests.gateway.page_site import COOKIE, ROOT, Site, running_site
from tests.support import proxies

EXAMPLES = {"nginx": "page.conf", "haproxy": "page.cfg"}
CLEARED = (
    f"{COOKIE}=; Path=/; Max-Age=0; Expires=Thu, 01 Jan 1970 00:00:00 GMT; "
    "Secure; HttpOnly; SameSite=Lax"
)
MEGABYTE = 2**20


@pytest.fixture(scope="module", params=EXAMPLES)
def site(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    name: str = request.param
    if proxies.program(name) is None:
        pytest.skip(f"{name} is not installed")
    with running_site(
        name, EXAMPLES[name], tmp_path_factory.mktemp(name), maximum_age=timedelta(days=1)
    ) as running:
        yield running


@pytest.fixture
def user(request: pytest.FixtureRequest) -> str:
    """A user that no other test uses."""
    return str(request.node.name)


def proof_on(page: httpx.Response) -> str:
    found = re.search(r'name="proof" value="([^"]+)"', page.text)
    assert found, page.text
    return found[1]


def form(site: Site, token: str, **fields: str) -> dict[str, str]:
    """Open the page, and return a form as the page sends it."""
    with site.browser(token) as browser:
        return {"proof": proof_on(browser.get(ROOT)), **fields}


def test_the_proxy_sends_the_page_to_the_gateway_and_everything_else_to_the_app(
    site: Site,
) -> None:
    with site.browser() as browser:
        for path in ("/", "/sessionsx", "/sessions.html", "/shop/sessions"):
            assert browser.get(path).json()["path"] == path
        for path in (ROOT, f"{ROOT}/"):
            assert "You&#39;re logged out" in browser.get(path).text


def test_the_page_shows_only_the_users_own_sessions(site: Site, user: str) -> None:
    site.sign_in(user, FIREFOX_ON_LINUX)
    site.authority.sign_in("stranger", user_agent=FIREFOX_ON_LINUX, ip_address="192.0.2.99")
    with site.browser(site.sign_in(user)) as browser:
        page = browser.get(ROOT)
        listed = browser.get(f"{ROOT}/sessions.json")

    assert page.status_code == 200
    assert "2 active sessions" in page.text
    assert "Firefox on Linux" in page.text
    assert "192.0.2.99" not in page.text + listed.text
    assert len(listed.json()["sessions"]) == 2
    assert listed.headers["content-disposition"] == 'attachment; filename="sessions.json"'


def test_a_user_logs_out_another_device(site: Site, user: str) -> None:
    phone = site.new_session(user, FIREFOX_ON_LINUX)
    mine = site.sign_in(user)
    sent = form(site, mine, session_id=phone.session.session_id)
    with site.browser(mine, origin=site.origin) as browser:
        asked = browser.post(f"{ROOT}/log-out", data=sent)
        assert "Log out Firefox on Linux?" in asked.text
        assert site.is_live(phone.token.reveal())
        done = browser.post(f"{ROOT}/log-out", data=sent | {"confirmed": "1"})
        after = browser.get(done.headers["location"])

    assert done.status_code == 303
    assert done.headers["location"].startswith(f"{ROOT}?")
    assert "Firefox on Linux was logged out" in after.text
    assert not site.is_live(phone.token.reveal())
    assert site.is_live(mine)


def test_another_users_session_is_not_found(site: Site, user: str) -> None:
    strangers = site.new_session("stranger")
    mine = site.sign_in(user)
    answers = []
    for session_id in (strangers.session.session_id, str(uuid.uuid4())):
        sent = form(site, mine, session_id=session_id, confirmed="1")
        with site.browser(mine, origin=site.origin) as browser:
            answers.append(browser.post(f"{ROOT}/log-out", data=sent))

    assert [each.status_code for each in answers] == [404, 404]
    assert len({re.sub(r'data-now="[^"]*"', "", each.text) for each in answers}) == 1
    assert site.is_live(strangers.token.reveal())


def test_signing_out_ends_the_session_and_clears_the_cookie(site: Site, user: str) -> None:
    mine = site.sign_in(user)
    with site.browser(mine, origin=site.origin) as browser:
        left = browser.post(f"{ROOT}/sign-out", data=form(site, mine))

    assert (left.status_code, left.headers["location"]) == (303, ROOT)
    assert left.headers.get_list("set-cookie") == [CLEARED]
    assert left.headers["cache-control"].startswith("no-store")
    assert not site.is_live(mine)


def test_a_cookie_of_an_ended_session_is_cleared_when_the_page_opens(site: Site, user: str) -> None:
    mine = site.sign_in(user)
    with site.authority.client() as client:
        client.sign_out(mine)
    with site.browser(mine) as browser:
        opened = browser.get(ROOT)
        prefetched = browser.get(ROOT, headers={"sec-purpose": "prefetch"})

    assert opened.status_code == 401
    assert 'href="/sign-in?next=%2Fsessions"' in opened.text
    assert opened.headers.get_list("set-cookie") == [CLEARED]
    assert "set-cookie" not in prefetched.headers


FORGED_HEADERS = [
    {"origin": "https://evil.example"},
    {"origin": "null"},
    {"origin": "http://localhost"},
    {"origin": "https://localhost.evil.example"},
    {"sec-fetch-site": "cross-site"},
    {"sec-fetch-site": "same-site"},
    {"sec-fetch-site": "none"},
]


def test_a_form_of_another_site_changes_nothing(site: Site, user: str) -> None:
    mine, other = site.sign_in(user), site.sign_in(user)
    sent = form(site, mine, confirmed="1")
    with site.browser() as browser:
        for forged in FORGED_HEADERS:
            for action in ("sign-out", "log-out-elsewhere"):
                for cookies in ({"cookie": f"{COOKIE}={mine}"}, {}):
                    headers = forged | cookies
                    answer = browser.post(f"{ROOT}/{action}", data=sent, headers=headers)
                    assert answer.status_code == 403, (forged, action, cookies)
                    assert "set-cookie" not in answer.headers
    assert site.is_live(mine)
    assert site.is_live(other)


def test_a_form_needs_the_proof_of_its_own_session(site: Site, user: str) -> None:
    mine, attackers = site.sign_in(user), site.sign_in("attacker")
    forms = [{"x": ""}, {"proof": ""}, {"proof": "00.00"}, form(site, attackers)]
    in_query = f"{ROOT}/sign-out?proof={form(site, mine)['proof']}"
    with site.browser(mine, origin=site.origin) as browser:
        answers = [browser.post(f"{ROOT}/sign-out", data=each) for each in forms]
        answers.append(browser.post(in_query, data={"x": ""}))

    assert {each.status_code for each in answers} == {403}
    assert site.is_live(mine)


def test_an_action_needs_post(site: Site, user: str) -> None:
    mine = site.sign_in(user)
    with site.browser(mine) as browser:
        for action in ("sign-out", "log-out", "log-out-elsewhere"):
            for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS", "PATCH"):
                refused = browser.request(method, f"{ROOT}/{action}")
                assert (refused.status_code, refused.headers["allow"]) == (405, "POST"), method
        assert browser.post(ROOT).headers["allow"] == "GET, HEAD"
    assert site.is_live(mine)


def test_forged_forwarding_headers_change_nothing(site: Site, user: str) -> None:
    mine = site.sign_in(user)
    forged = {
        "x-forwarded-for": "198.51.100.66",
        "x-forwarded-proto": "http",
        "x-forwarded-host": "evil.example",
        "x-forwarded-uri": "//evil.example",
        "x-forwarded-prefix": "//evil.example",
        "x-script-name": "//evil.example",
        "x-original-url": "/verify",
        "x-rewrite-url": "/verify",
        "forwarded": "for=198.51.100.66;host=evil.example;proto=http",
    }
    with site.browser(mine, **forged, origin=site.origin) as browser:
        page = browser.get(ROOT)
        left = browser.post(f"{ROOT}/sign-out", data={"proof": proof_on(page)})

    assert "evil.example" not in page.text + str(page.headers) + str(left.headers)
    assert (left.status_code, left.headers["location"]) == (303, ROOT)
    assert left.headers.get_list("set-cookie") == [CLEARED]


def test_a_forged_host_reaches_no_link(site: Site, user: str) -> None:
    with site.browser(site.sign_in(user), host="evil.example") as browser:
        for path in (ROOT, f"{ROOT}/", f"{ROOT}/nothing"):
            answer = browser.get(path)
            assert "evil.example" not in answer.text + str(answer.headers)
    with site.browser(site.sign_in(user), host="evil.example", origin=site.origin) as browser:
        refused = browser.post(f"{ROOT}/sign-out", data=form(site, site.sign_in(user)))
    assert refused.status_code == 403


TOSSED = [
    "auth_session={}",
    "__host-auth_session={}",
    "__HOST-AUTH_SESSION={}",
    "__%48ost-auth_session={}",
    "__Host-auth_session[]={}",
    "__Host-auth_session.x={}",
    "__Host.auth_session={}",
    "__Secure-auth_session={}",
    "\x0b__Host-auth_session={}",
    "\xa0__Host-auth_session={}",
    "x=1, __Host-auth_session={}",
    '__Host-auth_session="{}',
]


def test_a_cookie_that_another_host_can_set_is_not_the_session(site: Site) -> None:
    attackers = site.sign_in("attacker")
    for tossed in TOSSED:
        answer = site.exchange(
            b"GET /sessions HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nCookie: "
            + tossed.format(attackers).encode("latin-1")
            + b"\r\n\r\n"
        )
        assert answer.split(b" ", 2)[1] in (b"400", b"401"), tossed


def test_a_second_cookie_of_the_same_name_does_not_hide_the_live_session(
    site: Site, user: str
) -> None:
    mine = site.sign_in(user)
    with site.browser() as browser:
        for cookie in (f"{COOKIE}=ses_dead; {COOKIE}={mine}", f"{COOKIE}={mine}; {COOKIE}=x"):
            page = browser.get(ROOT, headers={"cookie": cookie})
            assert page.status_code == 200
            assert "set-cookie" not in page.headers


def test_the_page_reads_the_token_from_the_cookie_only(site: Site) -> None:
    token = site.sign_in("ada")
    with site.browser() as browser:
        for name, value in {
            "x-session-token": token,
            "authorization": f"Bearer {token}",
            "x-session-user-id": "ada",
        }.items():
            assert browser.get(ROOT, headers={name: value}).status_code == 401, name


def test_only_the_static_files_may_be_cached(site: Site, user: str) -> None:
    with site.browser(site.sign_in(user)) as browser:
        page = browser.get(ROOT)
        files = re.findall(r'(?:href|src)="(/sessions/static/[^"]+)"', page.text)
        cached = [browser.get(each) for each in files]
        rest = [
            browser.get(ROOT + below)
            for below in ("", "/", "/sessions.json", "/nothing", "/x.css", "/log-out")
        ]

    assert len(files) >= 2
    for each in cached:
        assert each.headers["cache-control"] == "public, max-age=31536000, immutable"
        assert "set-cookie" not in each.headers
        assert user not in each.text
    assert [each.headers["cache-control"] for each in rest] == ["no-store"] * len(rest)


def test_head_has_the_headers_of_get_and_no_body(site: Site, user: str) -> None:
    with site.browser(site.sign_in(user)) as browser:
        head, get = browser.head(ROOT), browser.get(ROOT)
    assert (head.status_code, head.content) == (200, b"")
    assert abs(int(head.headers["content-length"]) - len(get.content)) < 100  # times are relative
    assert head.headers["content-security-policy"] == get.headers["content-security-policy"]


ODD_PATHS = [
    "/sessions/%2e%2e/verify",
    "/sessions/..%2fverify",
    "/sessions/../verify",
    "/sessions/../session_authority.v1.SessionService/ListSessions",
    "/sessions/%00",
    "/sessions/%0d%0aSet-Cookie:%20x=1",
    "/sessions/%0aLocation:%20//evil.example",
    "/sessions//evil.example",
    "/sessions//evil.example/..",
    "/sessions/%5cevil.example",
    "/sessions/%2f%2fevil.example",
    "/sessions/static/%2e%2e/%2e%2e/page.py",
    "/sessions;x=1",
    "/sessions%3fx",
    "/sessions/sessions.json/",
    "/sessions/sessions%2ejson%00.css",
    "/SESSIONS",
    "//sessions",
    "/sessions/%ff%fe",
    "/sessions/" + "a" * 3_000,
]


def test_an_unusual_path_shows_no_page_and_redirects_nowhere(site: Site, user: str) -> None:
    cookie = f"{COOKIE}={site.sign_in(user)}"
    rest = f" HTTP/1.1\r\nHost: localhost\r\nCookie: {cookie}\r\nConnection: close\r\n\r\n"
    for path in ODD_PATHS:
        answer = site.exchange(f"GET {path}{rest}".encode()).decode()
        head, _, body = answer.partition("\r\n\r\n")
        statuses = (200,) if body.startswith('{"path"') else (400, 404, 414)
        assert int(head.split(" ")[1]) in statuses, path
        assert "Current session" not in body, path
        assert "\nset-cookie" not in head.lower(), path
        assert "\nlocation" not in head.lower(), path


def test_a_huge_body_is_refused_and_changes_nothing(site: Site, user: str) -> None:
    mine = site.sign_in(user)
    content = b"proof=" + b"x" * MEGABYTE
    with site.browser(mine, origin=site.origin) as browser:
        for body in (content, iter([content])):  # the second is sent in chunks
            refused = browser.post(
                f"{ROOT}/sign-out",
                content=body,
                headers={"content-type": "application/x-www-form-urlencoded"},
            )
            assert refused.status_code == 413
            assert "set-cookie" not in refused.headers
    assert site.is_live(mine)


def test_an_outage_logs_no_user_out(site: Site, user: str) -> None:
    mine = site.sign_in(user)
    sent = form(site, mine)
    with site.browser(mine, origin=site.origin) as browser, site.authority.outage():
        answers = [
            browser.get(ROOT),
            browser.get(f"{ROOT}/sessions.json"),
            browser.post(f"{ROOT}/sign-out", data=sent),
            browser.get(ROOT, headers={"cookie": f"{COOKIE}={mine}; {COOKIE}=other"}),
        ]
    for each in answers:
        assert (each.status_code, each.headers["retry-after"]) == (503, "5")
        assert "set-cookie" not in each.headers
    with site.browser(mine) as browser:
        assert browser.get(ROOT).status_code == 200


def test_a_user_whose_proof_of_identity_is_too_old_gets_a_link_to_the_sign_in_page(
    site: Site, user: str
) -> None:
    mine = site.sign_in(user)
    site.authority.advance(timedelta(days=2))
    with site.browser(mine) as browser:
        refused = browser.get(f"{ROOT}?next=//evil.example")
        assert refused.status_code == 403
        assert 'href="/sign-in?next=%2Fsessions"' in refused.text
        assert "evil.example" not in refused.text
        with site.authority.client() as client:
            renewed = client.reauthenticate(mine, authentication_methods=["pwd"])
        page = browser.get(ROOT, headers={"cookie": f"{COOKIE}={renewed.token.reveal()}"})
        assert page.status_code == 200


def test_the_page_is_in_the_visitors_language(site: Site, user: str) -> None:
    with site.browser(site.sign_in(user)) as browser:
        for tag, title in {"de-AT": "Ihre Sitzungen", "fr": "Vos sessions", "xx": "Your"}.items():
            page = browser.get(ROOT, headers={"accept-language": tag})
            assert title in page.text
            assert page.headers["content-language"] in ("de-AT", "de", "fr", "en")
