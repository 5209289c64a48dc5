"""From a User-Agent header to a Device, for people to recognise their sign-ins by.

The brands come from ua-parser; the tables here put its answers into words for people and drop what browsers
nowadays freeze or fake. Nothing here raises: a strange user agent must never fail a sign-in.
"""

import re
import threading
import unicodedata
from itertools import islice
from urllib.parse import unquote

from ua_parser import Domain, PartialResult, load_lazy_builtins
from ua_parser.regex import Resolver

from session_authority_server.domain.device import Device, DeviceType

# The design's limit; real ones have 100 to 300 bytes, those of in-app browsers up to about 500.
USER_AGENT_LIMIT_BYTES = 1024
# Web servers refuse longer headers (most at 8 KiB), so only a hostile one is not read to its end.
_READ_LIMIT_CHARACTERS = 16 * 1024
# RFC 9110 sets no limit on a product token; 40 holds every real name and keeps a list of devices tidy.
NAME_LIMIT_CHARACTERS = 40
VERSION_LIMIT_CHARACTERS = 20

# Control, format (bidi marks, zero widths, tags) and surrogate characters, line and paragraph breaks: all that
# is invisible or can make a name look like another one.
_DROPPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

# ua-parser's families whose name people would not know. Empty: it names no app at all.
_BROWSER_NAMES = {
    "Amazon Silk": "Silk",
    "Android": "",
    "CFNetwork": "",
    "Chrome Mobile WebView": "In-app browser",
    "Chromium Browser": "Chromium",
    "DuckDuckGo Mobile": "DuckDuckGo",
    "Electron": "Electron app",
    "Google": "Google app",
    "HeadlessChrome": "Headless Chrome",
    "IE": "Internet Explorer",
    "IE Mobile": "Internet Explorer",
    "Mobile Safari": "Safari",
    "Mobile Safari UI/WKWebView": "In-app browser",
    "Oculus Browser": "Meta Quest Browser",
    "Python Requests": "python-requests",
    "Python aiohttp": "aiohttp",
    "Slack Desktop Client": "Slack",
    "WeChat Browser": "WeChat",
}
# Known by their platform only, so that a name of the app's own beats them.
_GENERIC_BROWSERS = frozenset({"", "In-app browser"})
# "Chrome Mobile iOS", "Firefox iOS", "Edge Mobile", "Ecosia Android": the system is told apart from the brand.
_PLATFORM_SUFFIX = re.compile(r"(?: (?:Mobile|iOS|Android))+$")

_OS_NAMES = {
    "ATV OS X": "tvOS",
    "Chrome OS": "ChromeOS",
    "Chromecast Android": "Chromecast",
    "Chromecast Fuchsia": "Chromecast",
    "Chromecast Linux": "Chromecast",
    "Mac OS": "macOS",
    "Mac OS X": "macOS",
    "Other": "",
    "WatchOS": "watchOS",
    "Web0S": "webOS",
}
# Consoles that ua-parser knows as a device only, or as what their browser is made from.
_CONSOLE = re.compile(
    r"\b(?:PlayStation (?:Vita|[3-9])|Xbox|Nintendo (?:Switch(?: 2)?|WiiU|Wii|3DS))\b"
)

# Where one of these matches, the version of the operating system is a constant and says nothing.
_FROZEN_OS_VERSIONS = {
    # Chrome's reduced user agent; a real Android 10 names its model.
    "Android": re.compile(r"Android 10; K[;)]"),
    # The version of the platform, frozen too; no user knows it.
    "ChromeOS": re.compile("CrOS"),
    # Since iOS 26 WebKit says 18_6 or 18_7 (webkit.org/blog/17333); Version/18 shows a true one.
    "iOS": re.compile(r"CPU (?:iPhone )?OS 18_[67](?!.*\bVersion/18\.)"),
    "iPadOS": re.compile(r"CPU (?:iPhone )?OS 18_[67](?!.*\bVersion/18\.)"),
    "macOS": re.compile(r"Mac OS X 10[._]15"),
    # Windows 11 says 10.
    "Windows": re.compile(r"Windows NT 10\.0"),
}
_IPADOS_SINCE_VERSION = 13

# Libraries and tools. ua-parser takes a few of them for crawlers and one for a phone.
_SCRIPT = re.compile(
    r"(?:grpc|python|connect|headless)[ -].*|apache-httpclient.*|java|java-http-client"
    r"|curl|libcurl|wget|winhttp|httpie|powershell|postmanruntime|insomnia|k6"
    r"|aiohttp|urllib3|axios|node|node-fetch|undici|got|deno|bun|okhttp|dart|go-http-client|reqwest"
    r"|guzzlehttp|php|faraday|rest-client|ruby|libwww-perl|perl",
    re.IGNORECASE,
)

# The first that matches tells the type; `_type_of` tells bots and scripts. Televisions and tablets claim to be
# other things as well, so the special stand before the general.
_TYPES = (
    (
        re.compile(
            r"SMART-TV|Smart-?TV|\b(?:Web0S|BRAVIA|AFT[A-Z]\w*|CrKey|Roku|VIDAA|HbbTV|Apple ?TV|AppleTV\S*"
            r"|Android ?TV|Google ?TV|PlayStation|Xbox|Nintendo|Apple Watch|watchOS|OculusBrowser)\b"
        ),
        DeviceType.APPLIANCE,
    ),
    (re.compile(r"\biPad"), DeviceType.TABLET),
    (re.compile(r"\b(?:iPhone|iPod|Windows Phone|KAIOS)"), DeviceType.PHONE),
    # Android browsers say "Mobile" on phones only; other Android apps say nothing of the kind.
    (re.compile(r"\AMozilla/.*\bMobile\b"), DeviceType.PHONE),
    (re.compile(r"\AMozilla/.*\b(?:Android|Tablet;)"), DeviceType.TABLET),
    (re.compile(r"Windows NT|Macintosh|\bCrOS\b|\bX11\b"), DeviceType.DESKTOP),
)

# What ua-parser gives can quote the user agent, so it is held to letters, digits and plain punctuation.
_NAME = re.compile(rf"(?=.*[^\W\d_])[\w .+!&'()-]{{1,{NAME_LIMIT_CHARACTERS}}}")
_VERSION_PART = re.compile(r"[0-9A-Za-z_-]+")
_PRODUCT = re.compile(
    rf"(?P<name>(?=[0-9._-]*[A-Za-z])[A-Za-z0-9._-]{{1,{NAME_LIMIT_CHARACTERS}}})"
    r"(?:/(?P<version>[^\s;,()]+))?(?=[\s;,)]|$)"
)
# Products that say what an app is built with, or what it is compatible with, instead of its name.
_PLATFORM_PRODUCTS = frozenset({"Mozilla", "Opera", "Dalvik", "CFNetwork", "Darwin"})
_COMPATIBLE = re.compile(r"\bcompatible; ")

_resolver: Resolver | None = None
_resolver_lock = threading.Lock()


def warm_up() -> None:
    """Build the parser, which takes up to 0.2 s, so that no sign-in waits for it."""
    parse_device("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")


def clean_user_agent(raw: str) -> str:
    """Drop what can't be shown safely and cut at USER_AGENT_LIMIT_BYTES of UTF-8, never within a character."""
    if len(raw) <= USER_AGENT_LIMIT_BYTES and raw.isascii() and raw.isprintable():
        return raw
    kept = (character for character in raw[:_READ_LIMIT_CHARACTERS] if _is_shown(character))
    # No character takes less than a byte, so no more of them can fit.
    text = "".join(islice(kept, USER_AGENT_LIMIT_BYTES))
    return text.encode()[:USER_AGENT_LIMIT_BYTES].decode(errors="ignore")


def parse_device(user_agent: str) -> Device:
    """Tell what a user agent says that it is; what it doesn't say stays empty."""
    agent = clean_user_agent(user_agent)
    found = _the_resolver()(agent, Domain.ALL)
    browser, browser_version = _browser(agent, found)
    os, os_version = _os(agent, found)
    return Device(
        browser=browser,
        browser_version=browser_version,
        os=os,
        os_version=os_version,
        type=_type_of(agent, browser, found),
    )


def _the_resolver() -> Resolver:
    global _resolver
    if _resolver is None:
        with _resolver_lock:
            if _resolver is None:
                # ua-parser's own cache is left out: it would keep users' data in memory to save 20 us.
                _resolver = Resolver(load_lazy_builtins())
    return _resolver


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in _DROPPED_CATEGORIES


def _browser(agent: str, found: PartialResult) -> tuple[str, str]:
    family = found.user_agent
    name = version = ""
    if family is not None:
        name = _browser_name(family.family)
        version = _version(family.major, family.minor, family.patch) if name else ""
    if name not in _GENERIC_BROWSERS:
        return name, version
    own_name, own_version = _product(agent)
    return (own_name, own_version) if own_name else (name, version)


def _browser_name(family: str) -> str:
    known = _BROWSER_NAMES.get(family)
    if known is not None:
        return known
    # Apple's CFNetwork percent-encodes the name of the app.
    return _sane_name(_PLATFORM_SUFFIX.sub("", clean_user_agent(unquote(family))))


def _product(agent: str) -> tuple[str, str]:
    """Return the name and version of the first product (RFC 9110, 10.1.5), or of what it is compatible with."""
    product = _PRODUCT.match(agent)
    if product is None or product["name"] in _PLATFORM_PRODUCTS:
        compatible = _COMPATIBLE.search(agent)
        product = _PRODUCT.match(agent, compatible.end()) if compatible else None
    if product is None:
        return "", ""
    return product["name"], _version(*(product["version"] or "").split(".")[:3])


def _os(agent: str, found: PartialResult) -> tuple[str, str]:
    console = _CONSOLE.search(agent)
    if console:
        return console[0], ""
    if found.os is None:
        return "", ""
    name = _sane_name(_OS_NAMES.get(found.os.family, found.os.family))
    version = _version(found.os.major, found.os.minor, found.os.patch) if name else ""
    if name == "iOS" and "iPad" in agent and _is_ipados(version):
        name = "iPadOS"
    frozen = _FROZEN_OS_VERSIONS.get(name)
    return name, "" if frozen and frozen.search(agent) else version


def _is_ipados(version: str) -> bool:
    major = version.partition(".")[0]
    return major.isdecimal() and int(major) >= _IPADOS_SINCE_VERSION


def _type_of(agent: str, browser: str, found: PartialResult) -> DeviceType:
    if _SCRIPT.fullmatch(browser):
        return DeviceType.SCRIPT
    if found.device is not None and found.device.family == "Spider":
        return DeviceType.BOT
    return next((type_ for sign, type_ in _TYPES if sign.search(agent)), DeviceType.UNKNOWN)


def _sane_name(name: str) -> str:
    name = name.strip()
    return name if _NAME.fullmatch(name) else ""


def _version(major: str | None = "", minor: str | None = "", patch: str | None = "") -> str:
    """Return "major.minor", or "major" where the zeros after it are those of a reduced user agent."""
    if not major or not _VERSION_PART.fullmatch(major):
        return ""
    if not minor or not _VERSION_PART.fullmatch(minor) or minor == patch == "0":
        return major[:VERSION_LIMIT_CHARACTERS]
    return f"{major}.{minor}"[:VERSION_LIMIT_CHARACTERS]
