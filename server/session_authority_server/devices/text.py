"""The text of a user agent: cleaned, and cut into the products that it names (RFC 9110, 10.1.5)."""

import re
import unicodedata
from itertools import islice
from typing import NamedTuple
from urllib.parse import unquote

# The design's limit; real ones have 100 to 300 bytes, those of in-app browsers up to about 500.
USER_AGENT_LIMIT_BYTES = 1024
# Web servers refuse longer headers (most at 8 KiB), so only a hostile one is not read to its end.
_READ_LIMIT_CHARACTERS = 16 * 1024
# RFC 9110 sets no limit on a product token; 40 holds every real name and keeps a list of devices tidy.
NAME_LIMIT_CHARACTERS = 40
VERSION_LIMIT_CHARACTERS = 20
# Real user agents name up to 30 products.
_PRODUCTS_LIMIT = 60

# Control, format (bidi marks, zero widths, tags) and surrogate characters, line and paragraph breaks: all that
# is invisible or can make a name look like another one.
_DROPPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

# A name can quote the user agent, so it is held to letters, digits and plain punctuation.
_NAME = re.compile(rf"(?=.*[^\W\d_])[\w .+!&'()-]{{1,{NAME_LIMIT_CHARACTERS}}}")
_VERSION_PART = re.compile(r"[0-9A-Za-z_-]+")

COMMENT = re.compile(r"\(([^()]*)\)")
# A product and its version: "Name/1.2", "Name 1.2", "[Name]/1.2".
_PRODUCT = re.compile(r"(?<![\w.-])(\d{0,4}[^\W\d_][\w.+-]*)(?:\]?([/ :@])v?(\d[\w.]*)?)?")
# "Name-1.2", "name7.4".
_VERSION_IN_NAME = re.compile(r"(?:[-_. ](?:v\d+\.|\d)[\w.]*|\d+(?:\.\d+)+)\Z")
# "Outlook-iOS", "Pinterest for Android", "Chrome Mobile iOS": the system is told apart from the brand.
_PLATFORM_SUFFIX = re.compile(
    r"(?:(?: for)?[- ](?:Mobile|iOS|Android|iPhone|iPad)(?: App(?:lication)?| app)?)+\Z"
)
# The name of a program that is no browser: all up to its version or the first comment.
_OWN_NAME = re.compile(r"\s*([^/;,()\[\]:]{1,60})(?:/v?(\d[^\s;,()]*))?")
_OWN_VERSION = re.compile(r" v?(\d[\w.]*)\b.*\Z")
_HARDWARE = re.compile(r"(?:iPhone|iPad|iPod)\d*|\d+")
_COMPATIBLE = re.compile(r"compatible; +")
# What old browsers say after "compatible;".
_NOT_COMPATIBLE = frozenset({"msie", "linux", "windows", "win32", "konqueror", "firefox"})


class Product(NamedTuple):
    """A product of a user agent.

    Attributes:
        label: Its name without the version and without the system: "Outlook" for "Outlook-iOS".
        key: The label in lower case, as the rules have it.
        version: Its version, or nothing.
        slashed: Whether a slash follows the name, which makes it a product and not just a word.
        dotted: Whether the name itself ends with a version: "CitrixSSO-1.3.7".
    """

    label: str
    key: str
    version: str
    slashed: bool
    dotted: bool


NO_PRODUCT = Product("", "", "", slashed=False, dotted=False)


def products_of(text: str) -> list[Product]:
    """Return the products and words of a user agent, without the comments on the system."""
    found = _PRODUCT.finditer(COMMENT.sub(_without_system, text))
    return [
        _product(each[1], each[3] or "", each[2] == "/") for each in islice(found, _PRODUCTS_LIMIT)
    ]


def own_product(agent: str) -> Product:
    """Return what the user agent begins with: "Microsoft Word/16.7", "The Bat! 4.0"."""
    match = _OWN_NAME.match(agent)
    if match is None or not match[1].isascii():
        return NO_PRODUCT
    # Apple's CFNetwork percent-encodes the name of the app.
    name = clean_user_agent(unquote(match[1])).strip().removesuffix(" CFNetwork")
    version = match[2] or ""
    if not version:
        cut = _OWN_VERSION.search(name)
        if cut is not None:
            name, version = name[: cut.start()], cut[1]
    product = _product(name, version, slashed=bool(match[2]))
    if _HARDWARE.fullmatch(product.label) or not sane_name(product.label):
        return NO_PRODUCT
    return product


def compatible_product(agent: str) -> Product | None:
    """Return the product after "compatible;", by which crawlers and old programs name themselves."""
    sign = _COMPATIBLE.search(agent)
    match = _PRODUCT.match(agent, sign.end()) if sign else None
    if match is None or len(match[1]) < 3 or match[1].lower() in _NOT_COMPATIBLE:
        return None
    return _product(match[1], match[3] or "", match[2] == "/")


def label_of(name: str) -> str:
    """Drop the version and the system from the end of a name."""
    if name.isalpha() or len(name) > 2 * NAME_LIMIT_CHARACTERS:
        return name
    return _PLATFORM_SUFFIX.sub("", _VERSION_IN_NAME.sub("", name))


def _product(name: str, version: str, slashed: bool) -> Product:
    label = label_of(name)
    return Product(label, label.lower(), version, slashed, "." in name[len(label) :])


def _without_system(comment: re.Match[str]) -> str:
    """Keep a comment such as "(Ecosia ios@3.0)", and drop one that describes the device."""
    return " " if ";" in comment[1] or "KHTML" in comment[1] else comment[0]


def clean_user_agent(raw: str) -> str:
    """Drop what can't be shown safely and cut at USER_AGENT_LIMIT_BYTES of UTF-8, never within a character."""
    if len(raw) <= USER_AGENT_LIMIT_BYTES and raw.isascii() and raw.isprintable():
        return raw
    kept = (character for character in raw[:_READ_LIMIT_CHARACTERS] if _is_shown(character))
    # No character takes less than a byte, so no more of them can fit.
    text = "".join(islice(kept, USER_AGENT_LIMIT_BYTES))
    return text.encode()[:USER_AGENT_LIMIT_BYTES].decode(errors="ignore")


def _is_shown(character: str) -> bool:
    return unicodedata.category(character) not in _DROPPED_CATEGORIES


def sane_name(name: str) -> str:
    """Return a name that is safe to show, or nothing."""
    name = name.strip()
    return name if _NAME.fullmatch(name) else ""


def version_of(major: str | None = "", minor: str | None = "", patch: str | None = "") -> str:
    """Return "major.minor", or "major" where the zeros after it are those of a reduced user agent."""
    if not major or not _VERSION_PART.fullmatch(major):
        return ""
    if not minor or not _VERSION_PART.fullmatch(minor) or minor == patch == "0":
        return major[:VERSION_LIMIT_CHARACTERS]
    return f"{major}.{minor}"[:VERSION_LIMIT_CHARACTERS]
