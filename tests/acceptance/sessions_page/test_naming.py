"""Users name their sessions on the page, without a browser."""

import json
import re

import pytest

from session_authority import AsyncSessionClient, NewSession
from tests.acceptance.sessions_page.visitor import FORM, ROOT, Visitor, header, said
from tests.support.authority import Authority


async def label_of(client: AsyncSessionClient, session: NewSession) -> str | None:
    return (await client.require(session.token)).label


async def test_a_named_session_shows_its_name_and_its_device(
    client: AsyncSessionClient, visitor: Visitor, other: NewSession
) -> None:
    asked = await visitor.send("/name", session_id=other.session.session_id)
    assert asked.status == 200
    assert "Name this session Firefox on Linux · Last active just now · 192.0.2.44" in said(asked)

    done = await visitor.send(
        "/name", session_id=other.session.session_id, label=" Work laptop ", page="1"
    )

    assert done.status == 303
    location = header(done, "location") or ""
    assert "Work" not in location, "a name is personal, and servers log URLs"
    assert other.session.session_id not in location
    query = dict(re.findall(r"(\w+)=([^&]*)", location))
    text = said(await visitor.ask("GET", query=query))
    assert "The name was saved." in text
    assert "Work laptop New device Firefox on Linux Last active" in text
    again = await visitor.send("/name", session_id=other.session.session_id)
    assert 'value="Work laptop"' in again.body.decode()


async def test_an_empty_name_removes_the_name(
    client: AsyncSessionClient, visitor: Visitor, mine: NewSession
) -> None:
    await client.name(mine.token, mine.session.session_id, "Work laptop")
    assert "Work laptop Current session Chrome on Windows" in said(await visitor.ask("GET"))

    done = await visitor.send("/name", session_id=mine.session.session_id, label="  ")

    query = dict(re.findall(r"(\w+)=([^&]*)", header(done, "location") or ""))
    assert "The name was removed." in said(await visitor.ask("GET", query=query))
    assert await label_of(client, mine) is None


@pytest.mark.parametrize(
    ("label", "problem"),
    [
        ("x" * 65, "This name has 65 characters. Use at most 64."),
        (" " + "👨\u200d👩\u200d👧\u200d👦" * 10, "This name has 70 characters. Use at most 64."),
        ("two\nlines", "This name contains an invisible character, such as a line break."),
        ("\u202ecod.exe", "This name contains an invisible character, such as a line break."),
        ("\u200b", "This name contains an invisible character, such as a line break."),
        ("\x1b[31m", "This name contains an invisible character, such as a line break."),
    ],
)
async def test_a_name_that_is_refused_stays_in_the_form_with_the_reason(
    client: AsyncSessionClient, visitor: Visitor, other: NewSession, label: str, problem: str
) -> None:
    response = await visitor.send("/name", session_id=other.session.session_id, label=label)

    assert response.status == 400
    page = response.body.decode()
    assert problem in said(response)
    assert f'value="{label}"' in page
    assert 'aria-describedby="problem hint" aria-invalid="true"' in page
    assert await label_of(client, other) is None


@pytest.mark.parametrize(
    "label", ["<script>alert(1)</script>", "\"'><img src=x>", "%(device)s %s", "מחשב", "📱" * 64]
)
async def test_a_hostile_name_is_only_text(
    client: AsyncSessionClient, visitor: Visitor, other: NewSession, label: str
) -> None:
    await client.name(visitor.token, other.session.session_id, label)

    page = await visitor.look()
    asked = await visitor.send("/log-out", session_id=other.session.session_id)
    export = await visitor.ask("GET", "/sessions.json")

    for html in (page, asked.body.decode()):
        assert html.count("<script") == 1
        assert "<img" not in html
    assert said(asked).startswith(f"Log out {said_as_text(label)}? Firefox on Linux")
    assert label in [each["label"] for each in json.loads(export.body)["sessions"]]


def said_as_text(label: str) -> str:
    """Return a text as `said` returns the page's escaped form of it."""
    for character, entity in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ('"', "&#34;")):
        label = label.replace(character, entity)
    return label


async def test_a_name_needs_the_proof_of_the_visitors_own_form(
    authority: Authority, client: AsyncSessionClient, visitor: Visitor, other: NewSession
) -> None:
    bob = await client.create("bob")
    foreign = await Visitor(authority, bob.token.reveal()).proof()
    form = {"session_id": other.session.session_id, "label": "Stolen"}

    for proof, headers in (
        ({}, {}),
        ({"proof": foreign}, {}),
        ({"proof": await visitor.proof()}, {"origin": "https://evil.example"}),
        ({"proof": await visitor.proof()}, {"sec-fetch-site": "cross-site"}),
    ):
        response = await visitor.ask(
            "POST", "/name", form={**form, **proof}, headers={"content-type": FORM, **headers}
        )
        assert response.status == 403
    assert (await visitor.ask("GET", "/name")).status == 405
    assert await label_of(client, other) is None


async def test_foreign_unknown_and_malformed_ids_get_the_same_answer(
    client: AsyncSessionClient, visitor: Visitor
) -> None:
    bob = await client.create("bob")
    answers = [
        await visitor.send("/name", session_id=session_id, **label)
        for session_id in (bob.session.session_id, "019bc186-de00-7e6a-861a-328cc6e826c6", "x")
        for label in ({}, {"label": "Stolen"})
    ]
    assert {(each.status, said(each)) for each in answers} == {(404, said(answers[0]))}
    assert await label_of(client, bob) is None


async def test_an_ended_session_cannot_be_named(
    client: AsyncSessionClient, visitor: Visitor, other: NewSession
) -> None:
    await client.sign_out(other.token)

    asked = await visitor.send("/name", session_id=other.session.session_id)
    assert (asked.status, header(asked, "location") or "") > (303, f"{ROOT}?notice=already-logged")
    done = await visitor.send("/name", session_id=other.session.session_id, label="Late")
    assert done.status == 404
