"""The options of gRPC channels: load balancing, retries, reconnection and limits."""

import json

from session_authority._retries import (
    BUDGET_TOKENS,
    INITIAL_PAUSE_SECONDS,
    MAX_ATTEMPTS,
    MAX_PAUSE_SECONDS,
    RETRYABLE,
    TOKENS_OF_AN_ANSWER,
)
from session_authority._settings import Settings, is_local

_MIB_BYTES = 1024 * 1024
ANSWER_LIMIT_BYTES = 16 * _MIB_BYTES
"""The answer to a batch has 1,000 sessions of up to about 7 KiB each. gRPC's default is 4 MiB."""

_KEEPALIVE_TIME_SECONDS = 30
_KEEPALIVE_TIMEOUT_SECONDS = 10
_CONNECT_TIMEOUT_SECONDS = 2
_INITIAL_RECONNECT_BACKOFF_SECONDS = 0.1
_MAX_RECONNECT_BACKOFF_SECONDS = 2

_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            # No retries for streams: the near cache must see each loss, and opens the next stream itself.
            {"name": [{"service": "session_authority.v1.SessionWatchService"}]},
            {
                # All other methods. Only the admin commands use these retries: the clients retry by themselves, with
                # the same rules. A test compares these values with the table in the server's `rpc/methods.py`.
                "name": [{}],
                "retryPolicy": {
                    "maxAttempts": MAX_ATTEMPTS,
                    "initialBackoff": f"{INITIAL_PAUSE_SECONDS}s",
                    "maxBackoff": f"{MAX_PAUSE_SECONDS}s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": [code.name for code in RETRYABLE],
                },
            },
        ],
        "retryThrottling": {"maxTokens": BUDGET_TOKENS, "tokenRatio": TOKENS_OF_AN_ANSWER},
    }
)

WITHOUT_RETRIES = ("grpc.enable_retries", 0)
"""Switches gRPC's own retries off. `_retries` says why."""


def channel_options(settings: Settings) -> list[tuple[str, str | int]]:
    """Return the gRPC options of a channel to the authority.

    They set retry rules, the size limit of answers, keepalive and reconnection. For a list of addresses, they set the
    `:authority` header. For a local address, they switch proxies off.
    """
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", _SERVICE_CONFIG),
        # DNS must not replace the service config.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_receive_message_length", ANSWER_LIMIT_BYTES),
        # Channels must not share connections: one inherited over a fork uses the parent's sockets.
        ("grpc.use_local_subchannel_pool", 1),
        # Detects a dead peer while calls or streams are in flight.
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_SECONDS * 1000),
        # If a server does not answer a connection attempt, calls wait for it, by default for 20 seconds.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_SECONDS * 1000),
        # gRPC's default maximum of two minutes would prolong every outage.
        ("grpc.initial_reconnect_backoff_ms", int(_INITIAL_RECONNECT_BACKOFF_SECONDS * 1000)),
        ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_BACKOFF_SECONDS * 1000),
    ]
    first, comma, _ = settings.address.partition(",")
    if comma:
        # gRPC would send the whole list as the `:authority` header. The server's native host rejects such a header.
        options.append(("grpc.default_authority", first.partition(":")[2].removeprefix("///")))
    if is_local(settings.address):
        # Calls to a local address may be unencrypted. If the environment variables name an HTTP proxy, gRPC would send
        # these calls through it to another host. So ignore the proxy.
        options.append(("grpc.enable_http_proxy", 0))
    return options
