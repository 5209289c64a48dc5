"""Verifies JWTs with PyJWT in a loop, and prints rate, latency and CPU as JSON."""

import json
import sys
import time
from typing import Any

import jwt
from cryptography.hazmat.primitives.asymmetric import ec

_TOKENS = 1_000


def _measure(algorithm: str, signing: Any, verifying: Any, seconds: float) -> dict[str, float]:
    expires = int(time.time()) + 86_400
    tokens = [
        jwt.encode({"sub": f"user-{number}", "exp": expires}, signing, algorithm)
        for number in range(_TOKENS)
    ]
    latencies: list[float] = []
    began, own = time.perf_counter(), time.process_time()
    while time.perf_counter() < began + seconds:
        number = len(latencies) % _TOKENS
        sent = time.perf_counter()
        claims = jwt.decode(tokens[number], verifying, algorithms=[algorithm])
        latencies.append(time.perf_counter() - sent)
        assert claims["sub"] == f"user-{number}"
    took, own = time.perf_counter() - began, time.process_time() - own
    latencies.sort()
    return {
        "rate": len(latencies) / took,
        "p99_ms": latencies[int(len(latencies) * 0.99)] * 1e3,
        "cpu_us": own / len(latencies) * 1e6,
    }


def main() -> None:
    seconds = float(sys.argv[1])
    key = ec.generate_private_key(ec.SECP256R1())
    secret = b"a secret that is long enough for it"
    print(
        json.dumps(
            {
                "PyJWT HS256, in process": _measure("HS256", secret, secret, seconds),
                "PyJWT ES256, in process": _measure("ES256", key, key.public_key(), seconds),
            }
        )
    )


if __name__ == "__main__":
    main()
