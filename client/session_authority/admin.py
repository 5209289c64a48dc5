"""Calls to the authority's SessionAdminService, for the command line of the same distribution."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, TypeAlias

import grpc
from google.protobuf.message import Message

from session_authority._channel import channel_options
from session_authority._error_details import error_of
from session_authority._settings import Settings
from session_authority.v1.session_admin_service_pb2_grpc import SessionAdminServiceStub

AdminCall: TypeAlias = Callable[[str, Message], Any]
"""Calls the method with this name, and returns its response."""


@contextmanager
def admin_calls(environ: Mapping[str, str]) -> Iterator[AdminCall]:
    """Connect to the authority with the variables of `SessionClient.from_env`.

    A failed call raises a `SessionAuthorityError`.

    Raises:
        ConfigurationError: A variable has no usable value; the message names it.
    """
    settings = Settings.from_env(environ)
    credentials, options = settings.credentials(), channel_options(settings)
    if credentials is None:
        channel = grpc.insecure_channel(settings.address, options)
    else:
        channel = grpc.secure_channel(settings.address, credentials, options)
    with channel:
        stub = SessionAdminServiceStub(channel)

        def call(method: str, request: Message) -> Any:
            try:
                return getattr(stub, method)(
                    request, timeout=settings.deadline_seconds, metadata=settings.metadata
                )
            except grpc.RpcError as error:
                raise error_of(error) from None

        yield call
