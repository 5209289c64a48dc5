"""Scenarios 11 to 15: lists. Scenario 15 covers only the data of a row."""

from datetime import timedelta

import grpc
import pytest
from google.rpc.error_details_pb2 import BadRequest

from session_authority import (
    AsyncSessionClient,
    Session,
    SessionLimitReached,
    SessionState,
)
from session_authority.v1 import session_service_pb2 as pb
from session_authority_server.domain.policy import AtLimit, Policy
from tests.support.authority import NOON, Authority
from tests.support.status import details_of

CHROME_ON_WINDOWS = (
    "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) "
    "Chrome/141.0.0.0 Safari/537.36"
)


def _ids(sessions: list[Session]) -> list[str]:
    return [session.session_id for session in sessions]


async def test_11_a_user_sees_all_their_sessions_no_others_and_one_as_current(
    client: AsyncSessionClient,
) -> None:
    adas = [await client.create("ada") for _ in range(5)]
    bobs = [await client.create("bob") for _ in range(3)]

    for mine in adas:
        listed = await client.list(mine.token)
        assert sorted(_ids(listed)) == sorted(new.session.session_id for new in adas)
        assert [each.session_id for each in listed if each.current] == [mine.session.session_id]
    listed = await client.list(bobs[0].token)
    assert {each.user_id for each in listed} == {"bob"}
    assert len(listed) == 3


@pytest.mark.parametrize("user_id", ["ad", "ada%", "a_a", "ADA", "ada\u0301", "' OR '1'='1", "ада"])
async def test_11_a_user_id_that_looks_like_another_is_a_different_user(
    client: AsyncSessionClient, user_id: str
) -> None:
    await client.create("ada")
    other = await client.create(user_id)

    assert _ids(await client.list(other.token)) == [other.session.session_id]


class TestAtEveryInstant:
    LIMIT = 6

    @pytest.fixture
    def policy(self) -> Policy:
        return Policy(session_limit=self.LIMIT, at_limit=AtLimit.REFUSE)

    async def test_12_validation_list_limit_and_worker_agree(
        self, authority: Authority, client: AsyncSessionClient
    ) -> None:
        mine = await client.create("ada")
        made = [
            mine,
            await client.create("ada", lifetime=timedelta(minutes=5)),
            await client.create("ada", idle_timeout=timedelta(minutes=3)),
            await client.create(
                "ada", lifetime=timedelta(minutes=4), idle_timeout=timedelta(minutes=2)
            ),
            await client.create("ada"),
            await client.create("ada"),
        ]
        boundaries = [timedelta(minutes=minutes) for minutes in (2, 3, 4, 5)]
        instants = [
            boundary + timedelta(microseconds=step)
            for boundary in boundaries
            for step in (-1, 0, 1)
        ]
        live_counts = []
        for number, instant in enumerate(instants):
            authority.clock.advance(NOON + instant - authority.clock.now())
            if number == 4:
                await client.revoke(mine.token, made[4].session.session_id)

            live = {
                new.session.session_id
                for new in made
                if await client.validate(new.token, passive=True)
            }
            listed = set(_ids(await client.list(mine.token)))
            assert listed == live
            shown = await client.list(mine.token, show_ended=True)
            assert {each.session_id for each in shown if each.end_time is None} == live
            assert (len(live) == self.LIMIT) is await self._is_at_limit(client)
            await authority.expire()()
            unended = authority.query(
                "SELECT count(*) FROM sessions WHERE end_time IS NULL AND user_id = 'ada' AND "
                "(check_time, session_id) > (SELECT expired_until, expired_id FROM upkeep)"
            )
            assert unended == [(len(live),)]
            live_counts.append(len(live))
        assert live_counts == [6, 5, 5, 5, 3, 3, 3, 3, 3, 3, 2, 2]

    async def _is_at_limit(self, client: AsyncSessionClient) -> bool:
        try:
            another = await client.create("ada")
        except SessionLimitReached:
            return True
        await client.sign_out(another.token)
        return False


async def test_12_ended_sessions_are_history_with_their_reason(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine, revoked, gone = [await client.create("ada") for _ in range(3)]
    expired = await client.create("ada", lifetime=timedelta(minutes=5))
    idle = await client.create("ada", idle_timeout=timedelta(minutes=2))
    await client.revoke(mine.token, revoked.session.session_id)
    await client.sign_out(gone.token)
    authority.pass_time(minutes=10)

    listed = await client.list(mine.token)
    with_history = await client.list(mine.token, show_ended=True)

    assert _ids(listed) == [mine.session.session_id]
    assert _ids(with_history)[:3] == [new.session.session_id for new in (mine, expired, idle)], (
        "the live ones first, then the latest that ended"
    )
    assert {each.session_id: each.end_reason and each.end_reason.name for each in with_history} == {
        mine.session.session_id: None,
        revoked.session.session_id: "REVOKED",
        gone.session.session_id: "SIGNED_OUT",
        expired.session.session_id: "EXPIRED",
        idle.session.session_id: "IDLE_TIMEOUT",
    }
    assert with_history[1].end_time == NOON + timedelta(minutes=5)
    assert with_history[2].end_time == NOON + timedelta(minutes=2)


async def test_13_no_request_of_the_api_names_another_user() -> None:
    [service] = pb.DESCRIPTOR.services_by_name.values()
    shows_sessions = {
        method.name
        for method in service.methods
        if any(
            field.message_type is not None and field.message_type.name == "Session"
            for field in method.output_type.fields
        )
    }
    assert shows_sessions == {
        "CreateSession",
        "ListSessions",
        "NameSession",
        "ReauthenticateSession",
        "RevokeSession",
        "ValidateSession",
    }
    for name in shows_sessions - {"CreateSession"}:
        fields = service.methods_by_name[name].input_type.fields_by_name
        assert "session_token" in fields, f"{name} asks for proof"
        assert "user_id" not in fields or name == "ValidateSession"


async def test_13_another_users_page_token_shows_nothing(
    authority: Authority, client: AsyncSessionClient
) -> None:
    adas = [await client.create("ada") for _ in range(3)]
    bobs = await client.create("bob")
    page = await authority.stub.ListSessions(
        pb.ListSessionsRequest(session_token=adas[0].token.reveal(), page_size=1)
    )
    assert page.next_page_token

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await authority.stub.ListSessions(
            pb.ListSessionsRequest(
                session_token=bobs.token.reveal(), page_token=page.next_page_token
            )
        )
    violations = details_of(caught.value, BadRequest).field_violations
    assert [each.field for each in violations] == ["page_token"]
    await authority.stub.ListSessions(
        pb.ListSessionsRequest(
            session_token=adas[1].token.reveal(), page_token=page.next_page_token
        )
    )


async def test_14_the_most_recently_active_comes_first(
    authority: Authority, client: AsyncSessionClient
) -> None:
    made = []
    for _ in range(5):
        made.append(await client.create("ada"))
        authority.pass_time(minutes=2)
    first, second, third, fourth, fifth = made
    await client.validate(second.token)
    await authority.activity.flush()

    assert _ids(await client.list(first.token)) == [
        new.session.session_id for new in (second, fifth, fourth, third, first)
    ]


async def test_14_pages_are_stable_while_sessions_come_and_go(
    authority: Authority, client: AsyncSessionClient
) -> None:
    made = []
    for _ in range(35):
        made.append(await client.create("ada"))
        authority.pass_time(minutes=2)
    mine = made[-1]
    revoked_unseen, used_unseen, revoked_seen = made[3], made[5], made[-2]
    pages: list[list[str]] = []
    page_token = ""
    while True:
        page = await authority.stub.ListSessions(
            pb.ListSessionsRequest(
                session_token=mine.token.reveal(), page_size=10, page_token=page_token
            )
        )
        pages.append([session.session_id for session in page.sessions])
        page_token = page.next_page_token
        if not page_token:
            break
        if len(pages) == 1:
            newcomer = await client.create("ada")
            authority.pass_time(minutes=2)
            await client.revoke(mine.token, revoked_unseen.session.session_id)
            await client.revoke(mine.token, revoked_seen.session.session_id)
            await client.validate(
                used_unseen.token
            )  # this session moves to the front while the pages are read
            await authority.activity.flush()

    seen = [session_id for page in pages for session_id in page]
    gone = {each.session.session_id for each in (revoked_unseen, revoked_seen)}
    live_throughout = {new.session.session_id for new in made} - gone
    assert live_throughout <= set(seen)
    assert revoked_unseen.session.session_id not in seen
    assert set(seen) <= {new.session.session_id for new in (*made, newcomer)}
    assert len(seen) == len(set(seen)), "nothing moved among the pages was shown twice"
    assert max(len(page) for page in pages) <= 10
    disturbed = {used_unseen.session.session_id, newcomer.session.session_id}
    undisturbed = [each for each in seen if each not in disturbed]
    in_order = [new.session.session_id for new in reversed(made)]
    assert undisturbed == [each for each in in_order if each in undisturbed]


async def test_15_a_row_has_a_readable_name_its_address_and_both_times(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine = await client.create("ada", ip_address="203.0.113.7", user_agent=CHROME_ON_WINDOWS)
    authority.pass_time(hours=1)
    await client.validate(mine.token, ip_address="203.0.113.8")
    await authority.activity.flush()
    authority.pass_time(hours=2)

    [row] = await client.list(mine.token)

    assert row.device.display_name == "Chrome on Windows"
    assert row.last_ip_address == "203.0.113.8"
    assert authority.clock.now() - row.last_active_time == timedelta(hours=2)
    assert authority.clock.now() - row.authenticate_time == timedelta(hours=3)
    assert row.last_active_time.tzinfo is not None
    assert row.state is SessionState.ACTIVE


async def test_15_re_authentication_updates_the_time_in_the_current_row(
    authority: Authority, client: AsyncSessionClient
) -> None:
    mine = await client.create("ada")
    authority.pass_time(hours=5)

    renewed = await client.reauthenticate(mine.token, authentication_methods=["otp"])

    [row] = await client.list(renewed.token)
    assert row.authenticate_time == NOON + timedelta(hours=5)
    assert row.create_time == NOON
    assert row.session_id == mine.session.session_id


@pytest.mark.parametrize(
    ("user_agent", "name"),
    [
        ("", "Unknown device"),
        ("   ", "Unknown device"),
        ("\x00\r\n\t", "Unknown device"),
        ("????", "Unknown device"),
        ("curl/8.5.0", "curl"),
        ("AcmeSync/3.2", "AcmeSync"),
    ],
)
async def test_15_unknown_and_empty_user_agents_have_readable_names(
    client: AsyncSessionClient, user_agent: str, name: str
) -> None:
    new = await client.create("ada", user_agent=user_agent)

    assert new.session.device.display_name == name
