"""Clean the text of a user agent, and split it into products (RFC 9110, section 10.1.5)."""

import re
import unicodedata
from itertools import islice
from typing import NamedTuple
from urllib.parse import unquote

# Real user agents have 100 to 300 bytes, those of in-app browsers up to about 500.
USER_AGENT_LIMIT_BYTES = 1024
# Most web servers refuse headers above 8 KiB, so only a hostile header is longer than this.
_READ_LIMIT_CHARACTERS = 16 * 1024
# RFC 9110 sets no limit on names. Every real name fits, and a list of devices stays readable.
NAME_LIMIT_CHARACTERS = 40
VERSION_LIMIT_CHARACTERS = 20
# Real user agents name up to 30 products.
_PRODUCTS_LIMIT = 60

# Control, format (bidi marks, zero widths, tags) and surrogate characters, line and paragraph breaks. They are
# invisible or can make a name look like another name.
_DROPPED_CATEGORIES = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})

# A name may come from the user agent, so only letters, digits and plain punctuation are allowed.
_NAME = re.compile(rf"(?=.*[^\W\d_])[\w .+!&'()-]{{1,{NAME_LIMIT_CHARACTERS}}}")
_VERSION_PART = re.compile(r"[0-9A-Za-z_-]+")

COMMENT = re.compile(r"\(([^()]*)\)")
# A product and its version: "Name/1.2", "Name 1.2", "[Name]/1.2".
_PRODUCT = re.compile(r"(?<![\w.-])(\d{0,4}[^\W\d_][\w.+-]*)(?:\]?([/ :@])v?(\d[\w.]*)?)?")
# "Name-1.2", "name7.4".
_VERSION_IN_NAME = re.compile(r"(?:[-_. ](?:v\d+\.|\d)[\w.]*|\d+(?:\.\d+)+)\Z")
# "Outlook-iOS", "Pinterest for Android", "Chrome Mobile iOS": the system follows the brand.
_PLATFORM_SUFFIX = re.compile(
    r"(?:(?: for)?[- ](?:Mobile|iOS|Android|iPhone|iPad)(?: App(?:lication)?| app)?)+\Z"
)
# The name of a program that is not a browser: the text before its version or the first comment.
_OWN_NAME = re.compile(r"\s*([^/;,()\[\]:]{1,60})(?:/v?(\d[^\s;,()]*))?")
_OWN_VERSION = re.compile(r" v?(\d[\w.]*)\b.*\Z")
_HARDWARE = re.compile(r"(?:iPhone|iPad|iPod)\d*|\d+")
_COMPATIBLE = re.compile(r"compatible; +")
# Words that old browsers put after "compatible;".
_NOT_COMPATIBLE = frozenset({"msie", "linux", "windows", "win32", "konqueror", "firefox"})


class Product(NamedTuple):
    """A product of a user agent.

    Attributes:
        label: The name without the version and the system: "Outlook" for "Outlook-iOS".
        key: The label in lower case, as in the rules.
        version: The version; empty if there is none.
        slashed: Whether a slash follows the name. A name without a slash may be any word.
        dotted: Whether the name itself ends with a version: "CitrixSSO-1.3.7".
    """

    label: str
    key: str
    version: str
    slashed: bool
    dotted: bool


NO_PRODUCT = Product("", "", "", slashed=False, dotted=False)


def products_of(text: str) -> list[Product]:
    """Return the products and words of a user agent, without comments about the system."""
    found = _PRODUCT.finditer(COMMENT.sub(_without_system, text))
    return [
        _product(each[1], each[3] or "", each[2] == "/") for each in islice(found, _PRODUCTS_LIMIT)
    ]


def leading_product(agent: str) -> Product:
    """Return the product at the start of a user agent: "Microsoft Word/16.7", "The Bat! 4.0"."""
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
    if _HARDWARE.fullmatch(product.label) or not safe_name(product.label):
        return NO_PRODUCT
    return product


def compatible_product(agent: str) -> Product | None:
    """Return the product after "compatible;", where crawlers and old programs put their names."""
    sign = _COMPATIBLE.search(agent)
    match = _PRODUCT.match(agent, sign.end()) if sign else None
    if match is None or len(match[1]) < 3 or match[1].lower() in _NOT_COMPATIBLE:
        return None
    return _product(match[1], match[3] or "", match[2] == "/")


def label_of(name: str) -> str:
    """Return a name without the version and the system at its end."""
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
    """Drop unsafe characters, and cut the text to USER_AGENT_LIMIT_BYTES of UTF-8 without breaking a character."""
    if len(raw) <= USER_AGENT_LIMIT_BYTES and raw.isascii() and raw.isprintable():
        return raw
    kept = (character for character in raw[:_READ_LIMIT_CHARACTERS] if is_shown(character))
    # Each character takes at least one byte, so no more characters can fit.
    text = "".join(islice(kept, USER_AGENT_LIMIT_BYTES))
    return text.encode()[:USER_AGENT_LIMIT_BYTES].decode(errors="ignore")


def is_shown(character: str) -> bool:
    """Return whether a character is visible, or a space."""
    return unicodedata.category(character) not in _DROPPED_CATEGORIES


def safe_name(name: str) -> str:
    """Return a name if it is safe to show, or else an empty text."""
    name = name.strip()
    return name if _NAME.fullmatch(name) else ""


def version_of(major: str | None = "", minor: str | None = "", patch: str | None = "") -> str:
    """Return "major.minor", or only "major" if minor and patch are 0, as in a reduced user agent."""
    if not major or not _VERSION_PART.fullmatch(major):
        return ""
    if not minor or not _VERSION_PART.fullmatch(minor) or minor == patch == "0":
        return major[:VERSION_LIMIT_CHARACTERS]
    return f"{major}.{minor}"[:VERSION_LIMIT_CHARACTERS]
