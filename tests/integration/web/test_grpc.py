"""Services with threads and with asyncio behind the interceptor, and methods of all four kinds."""

import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any, TypeAlias

import grpc
import pytest

from session_authority import (
    SESSION_TOKEN_METADATA_KEY,
    AsyncSessionClient,
    NewSession,
    SessionClient,
    SessionNotLive,
    SessionToken,
    Unavailable,
)
from session_authority.grpc import (
    AsyncSessionInterceptor,
    SessionInterceptor,
    current_session,
    token_metadata,
)
from tests.integration.web.threaded_authority import ThreadedAuthority, threaded_authority
from tests.support.status import reason_of

PUBLIC = "/shop.Cart/Public"
KINDS = ["UnaryUnary", "UnaryStream", "StreamUnary", "StreamStream"]
Metadata: TypeAlias = tuple[tuple[str, str], ...]


def whose() -> bytes:
    """Return the user of the call, and the number of metadata entries to pass on."""
    (entry,) = token_metadata()
    return f"{current_session().user_id} {entry[0]} {len(entry[1])}".encode()


class Threaded:
    def __getattr__(self, name: str) -> Any:
        def unary(_request: object, _context: object) -> bytes:
            return whose()

        def stream(_request: object, _context: object) -> Iterator[bytes]:
            yield whose()
            yield whose()

        return stream if name.endswith("Stream") else unary

    def Public(self, _request: bytes, _context: object) -> bytes:  # noqa: N802
        return public()

    def start(self, client: Any, stack: ExitStack) -> str:
        threads = stack.enter_context(ThreadPoolExecutor(2))
        interceptor = SessionInterceptor(client, public_methods=[PUBLIC, "/shop.Health/*"])
        server = grpc.server(threads, interceptors=[interceptor])
        server.add_generic_rpc_handlers(tuple(handlers(self)))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        stack.callback(lambda: server.stop(None).wait())
        return f"127.0.0.1:{port}"


class Asynchronous:
    def __getattr__(self, name: str) -> Any:
        async def unary(_request: object, _context: object) -> bytes:
            return whose()

        async def stream(_request: object, _context: object) -> AsyncIterator[bytes]:
            yield whose()
            yield whose()

        return stream if name.endswith("Stream") else unary

    async def Public(self, _request: bytes, _context: object) -> bytes:  # noqa: N802
        return public()


def public() -> bytes:
    with pytest.raises(SessionNotLive):
        current_session()
    return f"welcome {len(token_metadata())}".encode()


def handlers(service: Any) -> Iterator[grpc.GenericRpcHandler]:
    methods: dict[str, Any] = {
        "UnaryUnary": grpc.unary_unary_rpc_method_handler(service.UnaryUnary),
        "UnaryStream": grpc.unary_stream_rpc_method_handler(service.UnaryStream),
        "StreamUnary": grpc.stream_unary_rpc_method_handler(service.StreamUnary),
        "StreamStream": grpc.stream_stream_rpc_method_handler(service.StreamStream),
        "Public": grpc.unary_unary_rpc_method_handler(service.Public),
    }
    yield grpc.method_handlers_generic_handler("shop.Cart", methods)
    yield grpc.method_handlers_generic_handler("shop.Health", {"Check": methods["Public"]})


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ThreadedAuthority]:
    with threaded_authority(tmp_path_factory.mktemp("authority")) as running:
        yield running


@pytest.fixture
def new(authority: ThreadedAuthority) -> NewSession:
    return authority.do(authority.authority.client.create("ada"))


Start: TypeAlias = Callable[[str], Awaitable[str]]


@pytest.fixture(params=["threads", "asyncio"])
async def start(
    request: pytest.FixtureRequest, authority: ThreadedAuthority
) -> AsyncIterator[Start]:
    """Return a function that starts a service for an authority's address, and returns the service's address."""
    with ExitStack() as stack:
        closing: list[Callable[[], Awaitable[None]]] = []

        async def start(address: str) -> str:
            if request.param == "threads":
                client = stack.enter_context(
                    SessionClient(address, api_key=authority.key, deadline_seconds=2)
                )
                return Threaded().start(client, stack)
            aclient = AsyncSessionClient(address, api_key=authority.key, deadline_seconds=2)
            interceptor = AsyncSessionInterceptor(
                aclient, public_methods=[PUBLIC, "/shop.Health/*"]
            )
            server = grpc.aio.server(interceptors=[interceptor])
            server.add_generic_rpc_handlers(tuple(handlers(Asynchronous())))
            port = server.add_insecure_port("127.0.0.1:0")
            await server.start()
            closing.extend((aclient.close, lambda: server.stop(None)))
            return f"127.0.0.1:{port}"

        yield start
        for close in reversed(closing):
            await close()


async def call(address: str, method: str, metadata: Metadata = ()) -> list[bytes]:
    """Call a method of any kind, and return its answers."""
    channel: Any
    async with grpc.aio.insecure_channel(address) as channel:
        name = method.rpartition("/")[2]
        path = method if "/" in method else f"/shop.Cart/{method}"
        requests = [b"a", b"b"]
        match name:
            case "UnaryStream":
                return [x async for x in channel.unary_stream(path)(b"a", metadata=metadata)]
            case "StreamUnary":
                return [await channel.stream_unary(path)(iter(requests), metadata=metadata)]
            case "StreamStream":
                answers = channel.stream_stream(path)(iter(requests), metadata=metadata)
                return [answer async for answer in answers]
            case _:
                return [await channel.unary_unary(path)(b"a", metadata=metadata)]


async def refused(address: str, method: str, metadata: Metadata) -> grpc.aio.AioRpcError:
    """Call a method that refuses the call before it reads the request, and return the error."""
    while True:
        with pytest.raises(grpc.aio.AioRpcError) as caught:
            await call(address, method, metadata)
        # gRPC's client reports this when a stream ends while it is still sending.
        if "execute_batch" not in (caught.value.debug_error_string() or ""):
            return caught.value


@pytest.mark.parametrize("kind", KINDS)
async def test_a_service_gets_the_user_of_a_call_and_passes_the_token_on(
    authority: ThreadedAuthority, start: Start, new: NewSession, kind: str
) -> None:
    address = await start(authority.address)

    answers = await call(address, kind, token_metadata(new.token))

    assert set(answers) == {b"ada x-session-token 74"}
    assert len(answers) == (2 if kind.endswith("Stream") else 1)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("token", ["", "ses_nonsense", "x" * 5000, "revoked"])
async def test_without_a_live_session_a_call_is_unauthenticated(
    authority: ThreadedAuthority, start: Start, new: NewSession, kind: str, token: str
) -> None:
    address = await start(authority.address)
    if token == "revoked":
        authority.do(authority.authority.client.sign_out(new.token))
        token = new.token.reveal()

    refusal = await refused(address, kind, ((SESSION_TOKEN_METADATA_KEY, token),) if token else ())

    assert refusal.code() is grpc.StatusCode.UNAUTHENTICATED
    assert reason_of(refusal) == "SESSION_NOT_LIVE"


@pytest.mark.parametrize("kind", KINDS)
async def test_an_outage_is_unavailable_and_never_unauthenticated(start: Start, kind: str) -> None:
    address = await start("127.0.0.1:9")

    refusal = await refused(address, kind, token_metadata("ses_" + "0" * 70))

    assert refusal.code() is grpc.StatusCode.UNAVAILABLE


async def test_a_failed_validation_in_the_service_is_internal_and_not_unauthenticated(
    start: Start, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The service that answers here is no authority.
    inner = await start("127.0.0.1:9")
    address = await start(inner)

    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(address, "UnaryUnary", token_metadata("ses_" + "0" * 70))

    assert caught.value.code() is grpc.StatusCode.INTERNAL
    assert "can't be validated" in caplog.text
    assert "ses_0" not in caplog.text


@pytest.mark.parametrize("method", [PUBLIC, "/shop.Health/Check"])
async def test_public_methods_make_no_call_and_have_no_session(start: Start, method: str) -> None:
    address = await start("127.0.0.1:9")
    assert await call(address, method) == [b"welcome 0"]
    assert await call(address, method, token_metadata("ses_x")) == [b"welcome 1"]


async def test_an_unknown_method_is_unimplemented(
    authority: ThreadedAuthority, start: Start
) -> None:
    address = await start(authority.address)
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call(address, "/shop.Cart/Nothing")
    assert caught.value.code() is grpc.StatusCode.UNIMPLEMENTED


@pytest.mark.parametrize("kind", [AsyncSessionInterceptor, SessionInterceptor])
def test_an_invalid_method_name_raises(kind: Any) -> None:
    for name in ("Check", "/Check", "grpc.health.v1.Health/Check", "/a/b/c", "/a/"):
        with pytest.raises(ValueError, match="a method name has the form"):
            kind(None, public_methods=[name])
    with pytest.raises(TypeError, match="not a str"):
        kind(None, public_methods="/a/b")


def test_current_session_raises_outside_of_a_call() -> None:
    for ask in (current_session, token_metadata):
        with pytest.raises(LookupError, match="current call did not pass"):
            ask()


def test_a_token_is_passed_on_unchanged() -> None:
    assert token_metadata(SessionToken("ses_a")) == (("x-session-token", "ses_a"),)
    assert token_metadata("ses_a") == (("x-session-token", "ses_a"),)
    assert token_metadata("") == ()


def test_a_slow_look_up_delays_no_other_call() -> None:
    """In a server with threads, one thread accepts all calls and runs their interceptors."""

    class Stuck:
        def require(self, _token: object) -> None:
            stuck.set()
            released.wait(10)
            raise Unavailable

    stuck, released = threading.Event(), threading.Event()
    with ExitStack() as stack:
        address = Threaded().start(Stuck(), stack)
        channel: Any
        with grpc.insecure_channel(address) as channel:
            waiting = channel.unary_unary("/shop.Cart/UnaryUnary").future(b"a")
            assert stuck.wait(10)
            assert channel.unary_unary(PUBLIC)(b"a", timeout=60) == b"welcome 0"
            released.set()
            assert waiting.code() is grpc.StatusCode.UNAVAILABLE
