"""Parse a User-Agent header into a Device, which helps people recognise their sign-ins.

ua-parser knows the brands. `rules` adds what ua-parser misses or mistakes. Nothing here raises, because a strange
user agent must never fail a sign-in.
"""

import re
import threading

from ua_parser import Domain, PartialResult, load_lazy_builtins
from ua_parser.regex import Resolver

from session_authority_server.devices import rules
from session_authority_server.devices.text import (
    COMMENT,
    NAME_LIMIT_CHARACTERS,
    NO_PRODUCT,
    Product,
    clean_user_agent,
    compatible_product,
    label_of,
    leading_product,
    products_of,
    safe_name,
    version_of,
)
from session_authority_server.domain.device import Device, DeviceType

_CONTACT = re.compile(r"https?://|@|www\.")
_CRAWLER_CONTACT = re.compile(r"\+ ?(?:http|www\.)")
_CONTACT_NAME = re.compile(
    rf"([A-Za-z][\w.-]{{2,{NAME_LIMIT_CHARACTERS - 1}}})((?:/[\w.-]{{1,40}}){{0,3}})[;,]? *\+ ?(?:http|www)"
)
# "Safari/537.36Snapchat11.83": the space before the app is missing.
_MISSING_SPACE = re.compile(r"(Safari/\d{3}\.\d+)(?=[A-Za-z])")
# Devices claim to be like others, so that sites serve them: "Librem 5, like iPhone".
_LIKENESS_CLAIM = re.compile(r" like (?:iPhone|iPad|Android|Quest)\b(?: OS)?(?: [\d._]+)?")
_BOT_WORDS = ("bot", "spider", "crawl")
# Signs of a system that people use. With such a sign, a name like "Botim" is an app and not a crawler.
_USER_SYSTEM = re.compile(
    r"CFNetwork|okhttp|Alamofire|iPhone|iPad|iOS|Android|Windows|Macintosh|macOS"
)

# Only browsers on iOS and iPadOS send these products. They reveal an iPad that requests desktop sites.
_IOS_ONLY = re.compile(
    r"\bMobile/\w+|\b(?:CriOS|FxiOS|EdgiOS|OPiOS|OPT|GSA|FBIOS)/|FBAN/FBIOS|\biPad\d"
)

# If one of these patterns matches, the version of the operating system is a meaningless constant.
_FROZEN_OS_VERSIONS = {
    # Chrome's reduced user agent. A real Android 10 names its model.
    "Android": re.compile(r"Android 10; K[;)]"),
    # The number after CrOS is not the version of ChromeOS that users know. It no longer changes, so it is never shown.
    "ChromeOS": re.compile("CrOS"),
    # Since iOS 26, WebKit sends 18_6 or 18_7 (webkit.org/blog/17333). This is the real version only beside Version/18.
    "iOS": re.compile(r"CPU (?:iPhone )?OS 18_[67](?!.*\bVersion/18\.)"),
    "iPadOS": re.compile(r"CPU (?:iPhone )?OS 18_[67](?!.*\bVersion/18\.)|Macintosh"),
    "macOS": re.compile(r"Mac OS X 10[._]15"),
    # Windows 11 also sends 10.0.
    "Windows": re.compile(r"Windows NT 10\.0"),
}
_IPADOS_SINCE_VERSION = 13
# "Outlook-iOS/709.2", "Pinterest for Android/9.0": the version belongs to the app.
_APP_VERSION = re.compile(r"(?:(?:for |[A-Za-z]-)(?:iOS|Android)|\bandroid)/(\d+)")

_PROGRAMS = {key: name for name, keys in rules.PROGRAMS.items() for key in keys.split()}
_PROGRAM_RANKS = {key: rank for rank, key in enumerate(_PROGRAMS)}
_NO_OWN_NAMES = rules.NOT_APPS | rules.HTTP_LIBRARIES
_FEATURE_PHONE = re.compile(rules.FEATURE_PHONES)
_SYSTEM_SIGNS = tuple(
    (text, re.compile(pattern) if pattern else None, name)
    for text, pattern, name in rules.SYSTEM_SIGNS
)
_SYSTEM_WORDS = tuple((re.compile(pattern), name) for pattern, name in rules.SYSTEM_WORDS)
_TYPE_SIGNS = tuple(
    (texts, re.compile(pattern) if pattern else None, DeviceType(type_))
    for texts, pattern, type_ in rules.TYPE_SIGNS
)
_DESKTOP = re.compile(rules.DESKTOP_SIGNS)
_SCRIPT = re.compile(rules.SCRIPTS, re.IGNORECASE)
_BOT_NAME = re.compile(rules.BOT_NAMES, re.IGNORECASE)

_resolver: Resolver | None = None
_resolver_lock = threading.Lock()


def warm_up() -> None:
    """Build the parser in advance, because it takes up to 0.2 s and no sign-in should wait for it."""
    parse_device("Mozilla/5.0 (X11; Linux x86_64; rv:140.0) Gecko/20100101 Firefox/140.0")


def parse_device(user_agent: str) -> Device:
    """Return the device that a user agent describes. A part that the user agent does not name is empty."""
    whole = clean_user_agent(user_agent)
    agent = _MISSING_SPACE.sub(r"\1 ", _LIKENESS_CLAIM.sub("", _drop_bot_models(whole)))
    found = _shared_resolver()(agent, Domain.ALL)
    os, os_version = _os(agent, found)
    type_ = _type_of(whole, os)
    if agent[:8].lower() == "mozilla/":
        browser, version = _read_browser(agent, found, type_)
    else:
        browser, version = _read_app(agent, found)
    if browser == "In-app browser" and os.startswith(("PlayStation", "Nintendo")):
        browser = version = ""
    if browser == "Safari" and os not in rules.SAFARI_SYSTEMS:
        browser = version = ""
    if _SCRIPT.fullmatch(browser):
        type_ = DeviceType.SCRIPT
    elif _is_bot(agent, browser, os, found):
        type_ = DeviceType.BOT
        browser, version = _bot(agent, browser, version, found)
    return Device(
        browser=browser, browser_version=version, os=os, os_version=os_version, type=type_
    )


def _shared_resolver() -> Resolver:
    global _resolver
    if _resolver is None:
        with _resolver_lock:
            if _resolver is None:
                # Without ua-parser's own cache, which would keep users' data in memory to save 20 us.
                _resolver = Resolver(load_lazy_builtins())
    return _resolver


def _drop_bot_models(agent: str) -> str:
    """Drop models such as "M bot 54" from the first comment, because ua-parser takes them for crawlers.

    A real crawler in the first comment has a version or an address.
    """
    comment = COMMENT.search(agent)
    if comment is None or not _has_bot_word(comment[1]):
        return agent
    if "compatible" in comment[1] or _CONTACT.search(comment[1]):
        return agent
    kept = [
        part
        for part in comment[1].split(";")
        if "/" in part.partition(" Build/")[0] or not _has_bot_word(part)
    ]
    return agent[: comment.start(1)] + ";".join(kept) + agent[comment.end(1) :]


def _has_bot_word(text: str) -> bool:
    text = text.lower()
    return any(word in text for word in _BOT_WORDS)


def _read_browser(agent: str, found: PartialResult, type_: DeviceType) -> tuple[str, str]:
    """Return the name and version of a browser or of an app that shows web pages."""
    family, version = _ua_parser_program(found)
    comment = COMMENT.search(agent)
    # The first comment names the system and the model.
    system = comment[1] if comment else ""
    products = products_of(agent[comment.end() :] if comment else agent)
    if family == "Chrome" and any(each.key in rules.WEB_VIEWS for each in products):
        family = "In-app browser"
    # The comment may name a program too. Only a name with a slash counts as one.
    in_comment = [each for each in products_of(system) if each.slashed] if "/" in system else []
    known = _known_program(products + in_comment)
    if known is not None:
        return _name_and_version(known, family, version)
    special = next((name for text, name in rules.PROGRAMS_IN_COMMENTS if text in system), "")
    if special:
        return special, ""
    if family not in rules.GENERIC_FAMILIES:
        return family, version
    # Televisions and consoles list their model and their firmware as products.
    if type_ is not DeviceType.APPLIANCE:
        own = next((each for each in _after_firefox(products) if _is_program(each, family)), None)
        if own is not None:
            return _name_and_version(own, family, version)
        word = agent[max(agent.rfind(" "), agent.rfind("/")) + 1 :]
        if _is_program_word(word):
            return word, ""
    if family:
        return family, version
    return _name_and_version(_best_guess(agent, products), "", "")


def _after_firefox(products: list[Product]) -> list[Product]:
    """Return the products after "Firefox/". Linux distributions put their own names before it."""
    keys = [each.key for each in products]
    return products[keys.index("firefox") + 1 :] if "firefox" in keys else products


def _is_program(product: Product, family: str = "") -> bool:
    """Return whether a product must be a program: it has a version, and no rule lists it as something else."""
    if family == "In-app browser":
        # Web views add only products that NOT_PROGRAMS lists. Any other product with a slash names the app, even if no
        # version follows the slash.
        versioned = product.slashed or bool(product.version) or product.dotted
    else:
        versioned = (product.slashed and bool(product.version)) or product.dotted
    return (
        versioned
        and len(product.label) > 2
        and product.key not in rules.NOT_PROGRAMS
        and product.key not in rules.HTTP_LIBRARIES
        and bool(safe_name(product.label))
    )


def _is_program_word(word: str) -> bool:
    """Return whether the last word is an app's name without a version: "... Safari/537.36 Whatplay"."""
    return (
        4 <= len(word) <= NAME_LIMIT_CHARACTERS
        and word.isascii()
        and word.isalpha()
        and word[0].isupper()
        and word.lower() not in rules.NOT_PROGRAMS
    )


def _best_guess(agent: str, products: list[Product]) -> Product:
    """Return the best guess if neither ua-parser nor the rules know the program."""
    engine = next((each for each in products if each.key in {"firefox", "chrome"}), None)
    return engine or compatible_product(agent) or NO_PRODUCT


def _read_app(agent: str, found: PartialResult) -> tuple[str, str]:
    """Return the name and version of a program that does not imitate a browser."""
    family, family_version = _ua_parser_program(found)
    own = leading_product(agent)
    feature_phone = bool(_FEATURE_PHONE.search(agent))
    if own.key in _PROGRAMS or (own.label and own.key not in _NO_OWN_NAMES and not feature_phone):
        return _name_and_version(own, family, family_version)
    products = [each for each in products_of(agent) if each.slashed]
    known = _known_program(products)
    if known is not None:
        return _name_and_version(known, family, family_version)
    look_for_app = own.key in rules.HTTP_LIBRARIES or not family
    app = next((each for each in products if _is_program(each)), None) if look_for_app else None
    if app is not None and not feature_phone and not _SCRIPT.fullmatch(app.label):
        return _name_and_version(app, family, family_version)
    if not family and own.key in rules.HTTP_LIBRARIES - rules.NOT_APPS:
        return _name_and_version(own, "", "")
    return family, family_version


def _known_program(products: list[Product]) -> Product | None:
    known = [each for each in products if each.key in _PROGRAMS]
    return min(known, key=lambda each: _PROGRAM_RANKS[each.key], default=None)


def _name_and_version(product: Product, family: str, family_version: str) -> tuple[str, str]:
    """Return the display name and the version of a product."""
    label = product.label
    name = _PROGRAMS.get(product.key) or rules.FAMILIES.get(label, label) if label else ""
    name = safe_name(name)
    if name == family and family_version:
        return name, family_version
    return name, version_of(*product.version.split(".")[:3]) if name else ""


def _ua_parser_program(found: PartialResult) -> tuple[str, str]:
    """Return the display name and the version of the program that ua-parser found."""
    if found.user_agent is None:
        return "", ""
    family = found.user_agent.family
    name = rules.FAMILIES.get(family)
    if name is None:
        name = safe_name(label_of(clean_user_agent(family)))
        name = rules.FAMILIES.get(name, _PROGRAMS.get(name.lower(), name))
    if not name or family == "Apple Mail":
        # ua-parser says "Apple Mail" if it finds only WebKit. The version is then WebKit's.
        return name, ""
    found_version = found.user_agent
    return name, version_of(found_version.major, found_version.minor, found_version.patch)


def _is_bot(agent: str, browser: str, os: str, found: PartialResult) -> bool:
    browses = agent.startswith("Mozilla/")
    if _CRAWLER_CONTACT.search(agent) and (browses or not os):
        return True
    compatible = compatible_product(agent)
    if compatible and (_CONTACT.search(agent) or (compatible.slashed and not os)):
        return True
    if not browses and _BOT_NAME.search(browser):
        return not _USER_SYSTEM.search(agent)
    if not browses and _USER_SYSTEM.search(agent):
        return False
    if browser in rules.PROGRAMS and not _BOT_NAME.search(browser):
        return False
    if found.device is None or found.device.family != "Spider":
        return False
    family = found.user_agent.family if found.user_agent else ""
    # ua-parser may mistake a part of a name for a crawler, such as "Microsoft" in "Microsoft Edge Update". Such a name
    # is a crawler only if it contains a word of crawlers.
    return family == browser or family not in browser or bool(_BOT_NAME.search(browser))


def _bot(agent: str, browser: str, version: str, found: PartialResult) -> tuple[str, str]:
    """Return the name and version of a crawler, which may imitate a browser."""
    if browser and not agent.startswith("Mozilla/"):
        return browser, version
    compatible = compatible_product(agent)
    if compatible is not None:
        return safe_name(compatible.label), version_of(*compatible.version.split(".")[:3])
    contact = _CONTACT_NAME.search(agent)
    if contact is not None:
        return contact[1], version_of(*contact[2].rpartition("/")[2].split(".")[:3])
    name = safe_name(found.user_agent.family) if found.user_agent else ""
    if not found.user_agent or not name:
        return browser, version
    return name, version_of(found.user_agent.major, found.user_agent.minor, found.user_agent.patch)


def _os(agent: str, found: PartialResult) -> tuple[str, str]:
    for text, pattern, name in _SYSTEM_SIGNS:
        if text in agent:
            match = pattern.search(agent) if pattern else None
            if pattern is None or (match and name):
                return name, ""
            if match:
                return match[1], version_of(*re.split("[._]", match[2] or "")[:2])
    name = rules.SYSTEMS.get(found.os.family, "") if found.os else ""
    version = (
        version_of(found.os.major, found.os.minor, found.os.patch) if found.os and name else ""
    )
    if not name:
        name = next((word for pattern, word in _SYSTEM_WORDS if pattern.search(agent)), "")
    app_version = _APP_VERSION.search(agent)
    major = version.partition(".")[0]
    if (app_version and major == app_version[1]) or (name == "Android" and _is_api_level(major)):
        version = ""
    if name in {"iOS", "macOS"} and "Macintosh" in agent and _IOS_ONLY.search(agent):
        # An iPad that requests desktop sites. Only the products of its browser reveal it.
        return "iPadOS", ""
    if name == "iOS" and "iPad" in agent and _is_ipados(version):
        name = "iPadOS"
    frozen = _FROZEN_OS_VERSIONS.get(name)
    return name, "" if frozen and frozen.search(agent) else version


def _is_api_level(major: str) -> bool:
    """Return whether a number is a level of Android's API, such as 34, and not a version, such as 14."""
    return major.isdecimal() and int(major) >= 30


def _is_ipados(version: str) -> bool:
    major = version.partition(".")[0]
    return major.isdecimal() and int(major) >= _IPADOS_SINCE_VERSION


def _type_of(agent: str, os: str) -> DeviceType:
    if os == "iPadOS":
        return DeviceType.TABLET
    for texts, pattern, type_ in _TYPE_SIGNS:
        # `map` runs this loop in C, in 0.03 us per text.
        if any(map(agent.__contains__, texts)) and (pattern is None or pattern.search(agent)):
            return type_
    for of_system, systems in rules.TYPES_OF_SYSTEMS.items():
        if os in systems:
            return DeviceType(of_system)
    return DeviceType.DESKTOP if _DESKTOP.search(agent) else DeviceType.UNKNOWN
