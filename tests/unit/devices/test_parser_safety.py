import random
import string
import subprocess
import sys
import time
import unicodedata
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from ua_parser.regex import Resolver

from session_authority_server.devices import parser as user_agent_module
from session_authority_server.devices.parser import parse_device
from session_authority_server.devices.text import (
    NAME_LIMIT_CHARACTERS,
    USER_AGENT_LIMIT_BYTES,
    VERSION_LIMIT_CHARACTERS,
    clean_user_agent,
)
from session_authority_server.domain.device import (
    DISPLAY_NAME_LIMIT_CHARACTERS,
    Device,
    DeviceType,
)

# The first example also builds the parser, so no example has a deadline.
unhurried = settings(deadline=None)
ANY_TEXT = st.text(st.characters(exclude_categories=[]))
# Arbitrary text between pieces of real user agents, which the first regular expression accepts.
PIECES = st.sampled_from(
    [
        "Mozilla/5.0 ", "(iPhone; CPU iPhone OS 18_6 ", "(iPad; ", "Windows NT 10.0; ", "Android 10; K) ",
        "Chrome/", "Version/", "Safari/", "Mobile ", "CFNetwork/1 ", "Darwin/24.6.0", "compatible; ",
        "Googlebot/", "PlayStation 5", "X11; ", "M bot 54", "[FB_IAB/", "NAVER(", "okhttp/",
        " like iPhone", "OpenHarmony 5.0", "Electron/", "+http://", "PlayStation 5/", "X11; ", "%E2%80%AE", "%00", "/", ";", ") ", "1.0", "9" * 50,
    ]
)  # fmt: skip
AGENT_LIKE = st.lists(PIECES | ANY_TEXT, max_size=20).map("".join)


@unhurried
@given(ANY_TEXT | AGENT_LIKE)
@example("\ud800")
@example("Chrome/" + "9" * 10_000)
@example("Mozilla/" * 1_250)
@example("\N{GRINNING FACE}" * 2_500)
@example("\udcff" * 10_000)
def test_no_user_agent_fails_a_sign_in(agent: str) -> None:
    device = parse_device(agent)

    assert 1 <= len(device.display_name.strip()) <= DISPLAY_NAME_LIMIT_CHARACTERS
    assert max(len(device.browser), len(device.os)) <= NAME_LIMIT_CHARACTERS
    assert max(len(device.browser_version), len(device.os_version)) <= VERSION_LIMIT_CHARACTERS
    assert not set(device.display_name) & set('<>"/\\@%\N{RIGHT-TO-LEFT OVERRIDE}')


@pytest.mark.parametrize("seed", range(20))
def test_ten_kilobytes_of_any_text_fail_no_sign_in(seed: int) -> None:
    rng = random.Random(seed)
    agent = "".join(chr(rng.randrange(sys.maxunicode + 1)) for _ in range(10_000))

    assert parse_device(agent).display_name


@unhurried
@given(ANY_TEXT | AGENT_LIKE)
def test_cleaning_a_user_agent_bounds_it_makes_it_printable_and_is_idempotent(raw: str) -> None:
    clean = clean_user_agent(raw)

    assert len(clean.encode()) <= USER_AGENT_LIMIT_BYTES
    assert not any(unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"} for c in clean)
    assert clean_user_agent(clean) == clean
    assert parse_device(raw) == parse_device(clean)


@pytest.mark.parametrize(
    ("raw", "clean"),
    [
        ("", ""),
        ("curl/8.9.1", "curl/8.9.1"),
        ("a  b   c", "a  b   c"),
        ("a\tb\r\nc\0d\x7fe", "abcde"),
        ("a\x85b\x9bc", "abc"),
        ("a\ud800b\udfffc", "abc"),
        ("a\u202eb\u2066c\u200bd\ufeffe\u2028f\u00adg\U000e0041h", "abcdefgh"),
        ("a\u00a0b\u3000c é 日本 😀", "a\u00a0b\u3000c é 日本 😀"),
    ],
)
def test_only_unsafe_characters_are_dropped(raw: str, clean: str) -> None:
    assert clean_user_agent(raw) == clean


@pytest.mark.parametrize(
    ("character", "fitting"), [("a", 1024), ("é", 512), ("日", 341), ("😀", 256)]
)
def test_a_long_user_agent_is_cut_between_characters(character: str, fitting: int) -> None:
    assert clean_user_agent(character * 10_000) == character * fitting


def test_dropped_characters_do_not_count_toward_the_limit() -> None:
    assert clean_user_agent("\0" * 5_000 + "a" * 1_024 + "b") == "a" * 1_024


@unhurried
@given(st.builds(Device, ANY_TEXT, ANY_TEXT, ANY_TEXT, ANY_TEXT, st.sampled_from(DeviceType)))
def test_any_device_has_a_display_name(device: Device) -> None:
    assert 1 <= len(device.display_name.strip()) <= DISPLAY_NAME_LIMIT_CHARACTERS


@unhurried
@given(st.text(string.ascii_letters, min_size=1, max_size=NAME_LIMIT_CHARACTERS))
def test_a_display_name_of_the_longest_parts_is_never_cut(name: str) -> None:
    longest = name * NAME_LIMIT_CHARACTERS
    device = Device(browser=longest[:NAME_LIMIT_CHARACTERS], os=longest[1:][:NAME_LIMIT_CHARACTERS])

    assert device.display_name.endswith(device.os)


def test_threads_that_parse_first_share_one_parser(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[object] = []
    resolver = user_agent_module._shared_resolver()
    together = Barrier(8)

    def build(matchers: object) -> Resolver:
        built.append(matchers)
        time.sleep(0.02)  # so that every thread finds no parser yet
        return resolver

    monkeypatch.setattr(user_agent_module, "_resolver", None)
    monkeypatch.setattr(user_agent_module, "Resolver", build)

    def parse(_: int) -> str:
        together.wait()
        return parse_device("curl/8.9.1").display_name

    with ThreadPoolExecutor(8) as threads:
        assert set(threads.map(parse, range(8))) == {"curl"}
    assert len(built) == 1


def test_the_parser_is_built_by_the_warm_up_not_by_the_import() -> None:
    script = (
        "from session_authority_server.devices import parser as module\n"
        "assert module._resolver is None\n"
        "module.warm_up()\n"
        "assert module._resolver is not None\n"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
