"""Device names, parsed from user agents."""

from pathlib import Path

import pytest

from session_authority_server.devices import rules
from session_authority_server.devices.parser import parse_device
from session_authority_server.devices.text import products_of
from session_authority_server.domain import user_agent
from session_authority_server.domain.device import (
    DISPLAY_NAME_LIMIT_CHARACTERS,
    Device,
    DeviceType,
)

UNKNOWN, DESKTOP, PHONE, TABLET, APPLIANCE, SCRIPT, BOT = DeviceType


def _rows(name: str) -> list[list[str]]:
    lines = Path(__file__).with_name(name).read_text(encoding="utf-8").splitlines()
    return [line.split("	") for line in lines[1:]]


REAL_AGENTS = _rows("real_agents.tsv")


@pytest.mark.parametrize(
    ("browser", "browser_version", "os", "os_version", "type_", "words", "agent"),
    REAL_AGENTS,
    ids=[f"{row[5]} {row[1]}" for row in REAL_AGENTS],
)
def test_a_real_user_agent_has_a_readable_name(
    browser: str,
    browser_version: str,
    os: str,
    os_version: str,
    type_: str,
    words: str,
    agent: str,
) -> None:
    device = parse_device(agent)

    assert device == Device(browser, browser_version, os, os_version, DeviceType(type_))
    assert device.display_name == words


MAC = "Mozilla/5.0 (Macintosh; Intel Mac OS X 10_15_7) AppleWebKit/605.1.15 (KHTML, like Gecko)"


ANDROID = (
    "AppleWebKit/537.36 (KHTML, like Gecko) Version/4.0 Chrome/140.0.7339.51 Mobile Safari/537.36"
)


WINDOWS = "Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko)"


@pytest.mark.parametrize(
    ("products", "browser"),
    [
        ("CriOS/140.0.7339.101 Version/17.5 Safari/605.1.15", "Chrome"),
        ("FxiOS/143.0 Safari/605.1.15", "Firefox"),
        ("EdgiOS/140.0.3485.71 Version/17.0 Safari/605.1.15", "Edge"),
        ("GSA/383.0.797833943 Safari/604.1", "Google app"),
        ("Version/17.4 Mobile/15E148 Safari/604.1", "Safari"),
        ("Version/16.6 Mobile/15E148 DuckDuckGo/7 Safari/605.1.15", "DuckDuckGo"),
        ("Mobile/15E148", "In-app browser"),
        ("Mobile/15E148 [FBAN/FBIOS;FBAV/530.0.0.29.77;FBDV/iPad13,4]", "Facebook"),
        ("Instagram 396.0.0.29.243 (iPad13,4; iOS 18_6; en_US; scale=2.00)", "Instagram"),
    ],
)
def test_an_ipad_that_requests_the_desktop_site_is_an_ipad(products: str, browser: str) -> None:
    device = parse_device(f"{MAC} {products}")

    assert (device.browser, device.os, device.type) == (browser, "iPadOS", TABLET)


def test_a_browser_on_macos_is_not_taken_for_an_ipad() -> None:
    for products in ("Version/18.6 Safari/605.1.15", "Version/18.6 Safari/605.1.15 Ddg/18.6", ""):
        device = parse_device(f"{MAC} {products}")

        assert (device.os, device.type) == ("macOS", DESKTOP)


def test_a_webkit_view_without_a_product_is_not_a_mail_client() -> None:
    assert parse_device(MAC) == Device("In-app browser", "", "macOS", "", DESKTOP)
    console = "Mozilla/5.0 (PlayStation 5/SmartTV) AppleWebKit/605.1.15 (KHTML, like Gecko)"
    assert parse_device(console) == Device("", "", "PlayStation 5", "", APPLIANCE)


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        ("MyBank/3.1 okhttp/4.12.0", "MyBank"),
        ("okhttp/4.12.0 MyBank/3.1", "MyBank"),
        ("MyBank/3.1 (Android 14; Pixel 8) okhttp/4.12.0", "MyBank"),
        ("Dalvik/2.1.0 (Linux; U; Android 13; Pixel 7 Build/TQ3A) MyBank/3.1", "MyBank"),
        ("Dart/3.9 (dart:io) MyBank/3.1", "MyBank"),
        ("MyBank/3.1 (com.example.mybank; build:42; iOS 18.6.2) Alamofire/5.10.2", "MyBank"),
        ("My%20Bank/42 CFNetwork/978.0.7 Darwin/18.7.0 (x86_64)", "My Bank"),
        ("My Bank for Android/3.1 (Pixel 8; 14)", "My Bank"),
        (
            f"{WINDOWS} my-bank/1.4.16 Chrome/138.0.7204.251 Electron/37.6.0 Safari/537.36",
            "my-bank",
        ),
        (f"{WINDOWS} Chrome/138.0.7204.251 Electron/37.6.0 Safari/537.36", "Electron app"),
        (f"Mozilla/5.0 (Linux; Android 14; Pixel 8; wv) {ANDROID} MyBank/3.1", "MyBank"),
        (f"Mozilla/5.0 (Linux; Android 14; Pixel 8; wv) {ANDROID}MyBank3.1.2", "MyBank"),
        (f"Mozilla/5.0 (Linux; Android 14; Pixel 8; wv) {ANDROID} MyBank", "MyBank"),
        (f"Mozilla/5.0 (Linux; Android 14; Pixel 8; wv) {ANDROID}", "In-app browser"),
    ],
)
def test_an_app_has_its_own_name_and_not_that_of_its_framework(agent: str, name: str) -> None:
    assert parse_device(agent).browser == name


@pytest.mark.parametrize(
    ("products", "name"),
    [
        ("MicroMessenger/8.0.60(0x18003c2f) NetType/WIFI Language/en", "WeChat"),
        ("MQQBrowser/6.2 TBS/043024 MicroMessenger/8.0.46.2540 WeChat/arm64 NetType/4G", "WeChat"),
        ("NAVER(inapp; search; 1000; 11.8.6)", "Naver"),
        ("KAKAOTALK 8.6.3", "KakaoTalk"),
        (";KAKAOTALK 1908210", "KakaoTalk"),
        ("[LinkedInApp]/9.24.1488", "LinkedIn"),
        ("Barcelona 384.0.0.33.86 (iPhone15,3; 18_6; es_ES)", "Threads"),
        ("Zalo android/12100580", "Zalo"),
        ("Zalo iOS/518", "Zalo"),
        ("GoogleApp/16.34.61.ve.arm64 DSRP", "Google app"),
        ("GSA/383.0.797833943", "Google app"),
        ("Instagram 396.0.0.29.243 (iPhone15,3; iOS 18_6; en_US)", "Instagram"),
        ("[FB_IAB/FB4A;FBAV/530.0.0.48.74;]", "Facebook"),
        ("[FB_IAB/Orca-Android;FBAV/480.0.0.50.109;]", "Facebook Messenger"),
        ("musical_ly_34.7.0 JsSdk/2.0 BytedanceWebview/d8a21c6", "TikTok"),
        ("Snapchat/12.90.0.45 (like Safari/8618.2.12.11.6, panda)", "Snapchat"),
        ("[Pinterest/iOS]", "Pinterest"),
        ("Line/14.10.0/IAB", "LINE"),
        ("Telegram/12.4.1", "Telegram"),
        ("Twitter for iPhone/10.34", "Twitter"),
        ("Viber/22.3.0", "Viber"),
        ("DuckDuckGo/7", "DuckDuckGo"),
        ("(Ecosia ios@11.2.1.2012)", "Ecosia"),
    ],
)
@pytest.mark.parametrize(
    "web_view",
    [
        "Mozilla/5.0 (iPhone; CPU iPhone OS 17_5 like Mac OS X) AppleWebKit/605.1.15 (KHTML, like Gecko) Mobile/15E148",
        f"Mozilla/5.0 (Linux; Android 14; Pixel 8 Build/UQ1A.240205.004; wv) {ANDROID}",
    ],
)
def test_an_app_with_an_embedded_browser_has_its_own_name(
    web_view: str, products: str, name: str
) -> None:
    device = parse_device(f"{web_view} {products}")

    assert (device.browser, device.type) == (name, PHONE)
    assert device.os == ("iOS" if "iPhone OS" in web_view else "Android")


@pytest.mark.parametrize(
    ("agent", "name"),
    [
        (f"Mozilla/5.0 (Linux; Android 14; CUBOT P80) {ANDROID}", "In-app browser"),
        (
            f"Mozilla/5.0 (Linux; Android 7.0; M bot 54 Build/NRD90M; wv) {ANDROID}",
            "In-app browser",
        ),
        (
            f"Mozilla/5.0 (Linux; Android 7.0; Spider X Build/NRD90M; wv) {ANDROID}",
            "In-app browser",
        ),
        (
            "Mozilla/5.0 (Windows NT 6.1; Trident/7.0; Banca Caboto s.p.a.; rv:11.0) like Gecko",
            "Internet Explorer",
        ),
        ("Botim/3.0 CFNetwork/1408.0.4 Darwin/22.5.0", "Botim"),
        ("Talabot/2.0 (Android 14; Pixel 8) okhttp/4.12.0", "Talabot"),
        ("SpiderOak/7.5 (Windows NT 10.0)", "SpiderOak"),
        ("Microsoft Edge Update/1.3.153.47;winhttp", "Microsoft Edge Update"),
    ],
)
def test_a_bot_word_inside_another_word_does_not_make_a_bot(agent: str, name: str) -> None:
    device = parse_device(agent)

    assert device.browser == name
    assert device.type is not BOT


@pytest.mark.parametrize(
    ("agent", "words"),
    [
        ("Xbox/2405 CFNetwork/1408.0.4 Darwin/22.5.0", "Xbox on iOS"),
        ("PlayStationApp/22.1 (iPhone; iOS 17.5; Scale/3.00)", "PlayStationApp on iOS"),
        ("Nintendo Switch Online/2.1 (Android 14; Pixel 8)", "Nintendo Switch Online on Android"),
        ("Box/4.2 (Android 14; Pixel 8)", "Box on Android"),
        ("Connect/1.2 (iPhone; iOS 17.5; Scale/3.00)", "Connect on iOS"),
    ],
)
def test_an_app_named_after_a_console_or_a_library_is_still_an_app(agent: str, words: str) -> None:
    device = parse_device(agent)

    assert device.display_name == words
    assert device.type in {PHONE, UNKNOWN}


@pytest.mark.parametrize(
    ("model", "type_"),
    [
        ("SM-S918B", PHONE),
        ("Lenovo Tab P12", TABLET),
        ("MiTV-AXSO2", APPLIANCE),
        ("2021/22 Philips UHD Android TV", APPLIANCE),
        ("SM-R960", APPLIANCE),
        ("TicWatch Pro 5", APPLIANCE),
    ],
)
def test_the_model_decides_the_type_of_a_mobile_device(model: str, type_: DeviceType) -> None:
    assert parse_device(f"Mozilla/5.0 (Linux; Android 14; {model}; wv) {ANDROID}").type is type_


@pytest.mark.parametrize(
    ("agent", "os", "os_version"),
    [
        ("Spotify/8.9.42.575 Android/34 (SM-S918B)", "Android", ""),
        ("Outlook-iOS/709.2042344.prod.iphone (3.21.0)", "iOS", ""),
        ("Pinterest for Android/9.0.4 (K83CA; 9)", "Android", ""),
        (f"Mozilla/5.0 (Linux; Android 10) {ANDROID} Zalo android/12100580", "Android", "10"),
        ("Swinsian/472 CFNetwork/978.0.7 Darwin/18.7.0 (x86_64)", "macOS", ""),
        ("Safari/20621.1.10.21.6 CFNetwork/3826.500.61.1.1 Darwin/24.4.0", "macOS", ""),
        ("SafariViewService/8614.1.25.0.31 CFNetwork/1390 Darwin/22.0.0", "iOS", "16.0"),
    ],
)
def test_the_version_of_an_app_is_not_that_of_its_system(
    agent: str, os: str, os_version: str
) -> None:
    device = parse_device(agent)

    assert (device.os, device.os_version) == (os, os_version)


def test_every_key_of_the_rules_is_a_normalised_product_name() -> None:
    keys = {key for row in rules.PROGRAMS.values() for key in row.split()}
    for key in keys | rules.NOT_PROGRAMS | rules.HTTP_LIBRARIES:
        read = products_of(f"{key}/1.0")

        assert key in {product.key for product in read}, key


def _collected() -> list[list[str]]:
    """Return user agents from published collections, with every correct answer."""
    return _rows("user_agents.tsv")


def _answers(device: Device) -> tuple[str, str, str]:
    # The system of a crawler is not shown, since crawlers pose as anything.
    return device.browser, "*" if device.type is BOT else device.os, device.type.value


HONEST = ({"", "In-app browser", "Electron app"}, {"", "*"}, {"unknown"})


def test_no_collected_user_agent_gets_a_wrong_name_system_or_type() -> None:
    wrong = []
    for _, programs, systems, types, agent in _collected():
        answers = _answers(parse_device(agent))
        rights = (programs.split("|"), systems.split("|"), types.split("|"))
        if any(
            answer not in right and answer not in honest
            for answer, right, honest in zip(answers, rights, HONEST, strict=True)
        ):
            wrong.append((answers, rights, agent))
    assert not wrong


def test_nearly_all_collected_user_agents_are_fully_recognised() -> None:
    collected = _collected()
    recognised = 0
    for _, programs, systems, types, agent in collected:
        program, system, type_ = _answers(parse_device(agent))
        recognised += (
            program in programs.split("|")
            and (system == "*" or system in systems.split("|"))
            and type_ in types.split("|")
        )
    assert len(collected) >= 600
    assert recognised / len(collected) > 0.98


@pytest.mark.parametrize(
    "agent",
    ["", " ", "-", "()", "1.0", "alice@example.com", "日本語", "x" * 41, "Mozilla/5.0", "/"],
)
def test_a_meaningless_user_agent_is_an_unknown_device(agent: str) -> None:
    assert parse_device(agent) == Device()
    assert Device().display_name == "Unknown device"


def test_an_unknown_product_name_is_used_up_to_forty_characters() -> None:
    assert parse_device("x" * 40 + "/1").browser == "x" * 40
    assert parse_device("x" * 41 + "/1").browser == ""


def test_an_encoded_app_name_from_apple_is_decoded_to_safe_characters() -> None:
    apple = "CFNetwork/3826.600.41 Darwin/24.6.0"

    assert parse_device(f"%E5%BE%AE%E4%BF%A1/8.0 {apple}").browser == "微信"
    assert parse_device(f"%3Cscript%3E/8.0 {apple}").browser == ""
    assert parse_device(f"Safe%E2%80%AEkcattA/8.0 {apple}").browser == "SafekcattA"


@pytest.mark.parametrize("type_", DeviceType)
def test_every_device_type_has_its_own_name_if_nothing_else_is_known(type_: DeviceType) -> None:
    assert Device(type=type_).display_name.startswith("Unknown ")


@pytest.mark.parametrize(
    ("device", "words"),
    [
        (Device(browser="Chrome", os="Windows"), "Chrome on Windows"),
        (Device(browser="curl", type=SCRIPT), "curl"),
        (Device(os="Linux", type=DESKTOP), "Unknown app on Linux"),
        (Device(browser="Roku", os="Roku", type=APPLIANCE), "Roku"),
        (Device(browser="Googlebot", os="Android", type=BOT), "Googlebot (bot)"),
        (Device(os="Android", type=BOT), "Unknown app on Android"),
        (Device(browser=" ", os=" "), "Unknown device"),
    ],
)
def test_the_display_name_has_the_known_parts(device: Device, words: str) -> None:
    assert device.display_name == words


def test_the_display_name_is_cut_at_its_limit() -> None:
    words = Device(browser="b" * 300, os="o" * 300).display_name

    assert words == "b" * DISPLAY_NAME_LIMIT_CHARACTERS


def test_programs_import_the_parser_from_the_domain() -> None:
    assert user_agent.parse_device is parse_device
