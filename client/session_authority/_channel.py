"""What both kinds of channel are told: how to balance, retry, reconnect and how much to accept."""

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
"""A batch answers with 1,000 sessions of up to some 7 KiB each, more than gRPC's own 4 MiB."""

_KEEPALIVE_TIME_SECONDS = 30
_KEEPALIVE_TIMEOUT_SECONDS = 10
_CONNECT_TIMEOUT_SECONDS = 2
_INITIAL_RECONNECT_BACKOFF_SECONDS = 0.1
_MAX_RECONNECT_BACKOFF_SECONDS = 2

_SERVICE_CONFIG = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            # Whoever watches learns of each loss of the stream, and paces the attempts.
            {"name": [{"service": "session_authority.v1.SessionWatchService"}]},
            {
                # All other methods, as the table in the server's `rpc/methods.py` says: a test compares them.
                # This is for plain stubs. The clients retry by themselves, by the same rules.
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
"""The option of a channel whose user repeats calls by itself (`_retries` says why)."""


def channel_options(settings: Settings) -> list[tuple[str, str | int]]:
    """Give the options of a channel."""
    options: list[tuple[str, str | int]] = [
        ("grpc.service_config", _SERVICE_CONFIG),
        # Whoever answers for DNS does not get to replace it.
        ("grpc.service_config_disable_resolution", 1),
        ("grpc.max_receive_message_length", ANSWER_LIMIT_BYTES),
        # Connections are not shared with channels elsewhere in the process. Above all not with one
        # that was inherited over a fork, whose sockets belong to the parent.
        ("grpc.use_local_subchannel_pool", 1),
        # A peer that vanished without a word is noticed while calls or streams wait for it.
        ("grpc.keepalive_time_ms", _KEEPALIVE_TIME_SECONDS * 1000),
        ("grpc.keepalive_timeout_ms", _KEEPALIVE_TIMEOUT_SECONDS * 1000),
        # Calls wait while another connection is opened to a server that never answers, by default for 20 seconds.
        ("grpc.min_reconnect_backoff_ms", _CONNECT_TIMEOUT_SECONDS * 1000),
        # gRPC's own maximum of two minutes would prolong every outage by as much.
        ("grpc.initial_reconnect_backoff_ms", int(_INITIAL_RECONNECT_BACKOFF_SECONDS * 1000)),
        ("grpc.max_reconnect_backoff_ms", _MAX_RECONNECT_BACKOFF_SECONDS * 1000),
    ]
    if is_local(settings.address):
        # A proxy from the environment would take the plaintext off this host.
        options.append(("grpc.enable_http_proxy", 0))
    return options
