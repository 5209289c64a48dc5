"""Users name their own sessions."""

from datetime import timedelta
from uuid import uuid4

import pytest

from session_authority import (
    AsyncSessionClient,
    ImpersonationForbidden,
    InvalidArgument,
    NewSession,
    SessionAuthorityError,
    SessionNotFound,
    SessionNotLive,
)
from tests.support.authority import Authority


async def test_a_name_appears_in_the_list_and_in_validations(client: AsyncSessionClient) -> None:
    mine, phone = await client.create("ada"), await client.create("ada")
    assert (mine.session.label, phone.session.label) == (None, None)

    named = await client.name(mine.token, phone.session.session_id, "  Old phone 📱 ")

    assert (named.session_id, named.label) == (phone.session.session_id, "Old phone 📱")
    assert not named.current
    labels = {each.session_id: each.label for each in await client.list(mine.token)}
    assert labels == {mine.session.session_id: None, phone.session.session_id: "Old phone 📱"}
    assert (await client.require(phone.token)).label == "Old phone 📱"


async def test_the_own_session_can_be_named_renamed_and_unnamed(
    client: AsyncSessionClient,
) -> None:
    mine = await client.create("ada")
    for label, shown in (("Study", "Study"), ("Kitchen", "Kitchen"), (" ", None)):
        named = await client.name(mine.token, mine.session.session_id, label)
        assert (named.label, named.current) == (shown, True)
        assert (await client.require(mine.token)).label == shown


async def test_a_name_stays_in_the_history_and_after_a_re_authentication(
    client: AsyncSessionClient,
) -> None:
    mine, phone = await client.create("ada"), await client.create("ada")
    await client.name(mine.token, phone.session.session_id, "Phone")
    renewed = await client.reauthenticate(phone.token)
    assert renewed.session.label == "Phone"
    await client.revoke(mine.token, phone.session.session_id)
    [_, ended] = await client.list(mine.token, show_ended=True)
    assert ended.label == "Phone"


async def test_unknown_foreign_and_ended_sessions_get_the_same_answer(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine, bobs, ended = [await client.create(user_id) for user_id in ("ada", "bob", "ada")]
    expired = await client.create("ada", lifetime=timedelta(minutes=1))
    await client.sign_out(ended.token)
    authority.pass_time(minutes=2)
    before = authority.contents()

    refusals = set()
    for session_id in (
        str(uuid4()),
        bobs.session.session_id,
        ended.session.session_id,
        expired.session.session_id,
    ):
        with pytest.raises(SessionNotFound) as refusal:
            await client.name(mine.token, session_id, "Stolen")
        refusals.add((str(refusal.value), refusal.value.reason))
    assert len(refusals) == 1
    assert authority.contents() == before


@pytest.mark.parametrize(
    "label",
    [
        "x" * 65,
        "two\nlines",
        "\x00",
        "\x1b[31m",
        "a\u2028b",
        "\u202ecod.exe",
        "a\u2066b",
        "\u200b",
        "\u3164\u2800",
        "\ufe0f\u2060",
    ],
)
async def test_a_name_that_does_not_fit_is_refused(client: AsyncSessionClient, label: str) -> None:
    mine = await client.create("ada")
    with pytest.raises(InvalidArgument) as refusal:
        await client.name(mine.token, mine.session.session_id, label)
    assert [each.field for each in refusal.value.violations] == ["label"]


async def test_a_name_has_64_characters_in_any_script(client: AsyncSessionClient) -> None:
    """A family is 7 code points, so 9 of them and a letter are 64, although a reader counts 10."""
    mine = await client.create("ada")
    family = "👨\u200d👩\u200d👧\u200d👦"
    for label in ("漢" * 64, family * 9 + "x", "क्\u200dष", "מחשב\u200f", "<b>&\"'</b>"):
        assert (await client.name(mine.token, mine.session.session_id, label)).label == label


async def test_only_a_live_session_without_an_actor_can_name_sessions(
    client: AsyncSessionClient,
) -> None:
    mine, ended = await client.create("ada"), await client.create("ada")
    actor = await client.create("ada", actor_id="support-7")
    await client.sign_out(ended.token)

    async def refusal(by: NewSession) -> type[SessionAuthorityError]:
        with pytest.raises(SessionAuthorityError) as refused:
            await client.name(by.token, mine.session.session_id, "Mine")
        return refused.type

    assert await refusal(ended) is SessionNotLive
    assert await refusal(actor) is ImpersonationForbidden
    assert (await client.require(mine.token)).label is None
