"""Translate the page's texts, and format times, numbers and lists, in the visitor's language."""

import io
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
from functools import cache
from itertools import islice
from pathlib import Path

from babel import Locale, UnknownLocaleError
from babel.core import get_global
from babel.dates import format_date, format_time, format_timedelta
from babel.lists import format_list
from babel.messages.mofile import write_mo
from babel.messages.pofile import PoFileError, read_po
from babel.numbers import format_decimal
from babel.support import Translations

from session_authority.errors import ConfigurationError

SOURCE_LANGUAGE = "en"
"""The language of the texts in the code. It needs no catalogue."""

ACCEPTED_LIMIT = 16
"""Number of entries of an `Accept-Language` header that are read."""

_SHIPPED = Path(__file__).with_name("catalogues")

# Parents of regional languages that differ from the tag's prefix, from the Unicode locale data. For example,
# the parent of "en-au" is "en-001", with British spelling, and the parent of "es-mx" is "es-419".
_PARENTS = {
    region.replace("_", "-").lower(): parent.replace("_", "-").lower()
    for region, parent in get_global("parent_exceptions").items()
}

# A language range of RFC 4647 with at most 8 subtags. Some programs write "_" for "-".
_RANGE = re.compile(r"\*|[a-z]{1,8}(?:[-_][a-z0-9]{1,8}){0,8}")

# Each unit, and its largest count. page.js has the same table.
_UNITS = (
    (timedelta(days=365), None),
    (timedelta(days=30), 11),
    (timedelta(weeks=1), None),
    (timedelta(days=1), None),
    (timedelta(hours=1), None),
    (timedelta(minutes=1), None),
)


class Language:
    """A language with the conventions of a region.

    Attributes:
        tag: The language tag for HTML and browsers, such as "de-AT".
        direction: The direction of writing, "ltr" or "rtl".
        sentence_gap: The text between two sentences. It is empty in Chinese and Japanese.
    """

    def __init__(self, locale: Locale, texts: Translations) -> None:
        self._locale = locale
        self._texts = texts
        self.tag = _tag_of(locale)
        self.direction = locale.text_direction
        self.sentence_gap = "" if locale.language in ("ja", "zh") else " "

    def gettext(self, message: str, **values: object) -> str:
        """Translate a text, and fill in its placeholders."""
        return self.pattern(message) % values

    def pattern(self, message: str) -> str:
        """Translate a text, and leave its placeholders."""
        return str(self._texts.gettext(message))

    def ngettext(self, singular: str, plural: str, count: int, **values: object) -> str:
        """Translate a text in the plural form for `count`, and fill in its placeholders, including `count`."""
        return str(self._texts.ngettext(singular, plural, count)) % {"count": count, **values}

    def ago(self, time: datetime, now: datetime) -> str:
        """Return how long ago a time was, in the largest unit that fits, such as "1 hour ago".

        Less than a minute is "just now". So is a time in the future, because clocks differ.
        """
        # Use UTC, since Python ignores daylight saving time when it subtracts two times of one zone.
        passed = now.astimezone(UTC) - time.astimezone(UTC)
        for unit, limit in _UNITS:
            if passed >= unit:
                count = min(passed // unit, limit or passed // unit)
                return format_timedelta(
                    -count * unit, threshold=1, add_direction=True, locale=self._locale
                )
        return self.gettext("just now")

    def moment(self, time: datetime) -> str:
        """Format a time to the minute, in UTC."""
        return self._in_utc(time, "short")

    def exact(self, time: datetime) -> str:
        """Format a time to the second, in UTC."""
        return self._in_utc(time, "medium")

    def country(self, code: str) -> str:
        """Return the name of a country; empty if the code by ISO 3166-1 is unknown."""
        return str(self._locale.territories.get(code, ""))

    def number(self, count: int) -> str:
        """Format a number, such as "10,000"."""
        return format_decimal(count, locale=self._locale)

    def together(self, items: Sequence[str]) -> str:
        """Join items with commas and "and"."""
        return format_list(items, locale=self._locale)

    def _in_utc(self, time: datetime, precision: str) -> str:
        time = time.astimezone(UTC)
        date = format_date(time, "medium", locale=self._locale)
        clock = format_time(
            time, "short" if precision == "short" else "medium", locale=self._locale
        )
        pattern = str(self._locale.datetime_formats["medium"])
        return pattern.replace("{1}", date).replace("{0}", clock).replace("'", "") + " UTC"


class Languages:
    """All languages of the page. The included catalogues are read once in a process.

    Args:
        extra: A folder with further catalogues. They replace included catalogues of the same language.
        only: The only language to use, regardless of what browsers accept.

    Raises:
        ConfigurationError: If a catalogue can't be read, or `only` has no catalogue.
    """

    def __init__(self, extra: Path | None = None, only: str | None = None) -> None:
        self._catalogues = {SOURCE_LANGUAGE: Translations(), **_shipped()}
        if extra is not None:
            self._catalogues |= _in_folder(extra)
        self._made: dict[str, Language] = {}
        self._only = None
        if only is not None:
            self._only = self._of_tag(only)
            if self._only is None:
                raise ConfigurationError("language", f"has no catalogue: {only!r}")

    @property
    def tags(self) -> Iterable[str]:
        """The tags of the catalogues."""
        return self._catalogues.keys()

    def choose(self, accept_language: str) -> Language:
        """Return the best language for an `Accept-Language` header, and English if none fits."""
        if self._only is not None:
            return self._only
        accepted = _weights(accept_language)
        for tag in _in_order(accepted):
            language = self._any_but(accepted) if tag == "*" else self._of_tag(tag)
            if language is not None:
                return language
        language = self._of_tag(SOURCE_LANGUAGE)
        assert language is not None
        return language

    def _any_but(self, accepted: dict[str, float]) -> Language | None:
        """Return the language for "*": the first that the header doesn't name. English is tried first."""
        for name in self._catalogues:
            if not {name, name.partition("-")[0]} & accepted.keys():
                return self._of_tag(name)
        return None

    def _of_tag(self, tag: str) -> Language | None:
        tag = tag.replace("_", "-").lower()
        found = self._made.get(tag)
        if found is None:
            locale = _locale(tag)
            # Try the tag of Babel's locale before the visitor's tag. Babel turns zh-TW into zh-Hant-TW, which matches a
            # catalogue `zh-hant`. The tag zh-TW alone would match a catalogue `zh`, which is the wrong script.
            name = self._catalogue_of(_tag_of(locale).lower()) if locale else None
            name = name or self._catalogue_of(tag)
            locale = locale or _locale(name or "")
            if name is not None and locale is not None:
                language = Language(locale, self._catalogues[name])
                # Cache by the locale's tag. Visitors can send any number of tags, but there are few locales.
                found = self._made.setdefault(language.tag.lower(), language)
        return found

    def _catalogue_of(self, tag: str) -> str | None:
        while tag:
            if tag in self._catalogues:
                return tag
            tag = _PARENTS.get(tag) or tag.rpartition("-")[0]
        return None


def preferred(accept_language: str) -> list[str]:
    """Return the languages of an `Accept-Language` header (RFC 9110), by preference."""
    return _in_order(_weights(accept_language))


def _in_order(accepted: dict[str, float]) -> list[str]:
    return [tag for tag in sorted(accepted, key=lambda tag: -accepted[tag]) if accepted[tag]]


def _weights(accept_language: str) -> dict[str, float]:
    """Return the weight of each language in the header, from 0 to 1. Skip malformed entries."""
    accepted: dict[str, float] = {}
    entries = (entry for entry in accept_language.split(",") if entry.strip())
    for entry in islice(entries, ACCEPTED_LIMIT):
        tag, *parameters = (part.strip() for part in entry.lower().split(";"))
        weight = _weight(parameters)
        if _RANGE.fullmatch(tag) and weight is not None:
            accepted.setdefault(tag, weight)
    return accepted


def _weight(parameters: Sequence[str]) -> float | None:
    """Return the parameter `q` of an entry: 1 if it is missing, None if it is malformed."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return None
            return weight if 0 <= weight <= 1 else None
    return 1.0


@cache
def _shipped() -> dict[str, Translations]:
    """Return the included catalogues, whose reading takes longer than a request."""
    return _in_folder(_SHIPPED)


def _in_folder(folder: Path) -> dict[str, Translations]:
    """Return the catalogues of a folder, by language tag."""
    return {
        path.stem.replace("_", "-").lower(): _read(path) for path in sorted(folder.glob("*.po"))
    }


def _read(path: Path) -> Translations:
    compiled = io.BytesIO()
    try:
        with path.open("rb") as file:
            # Babel expects "pt_BR", but files may use the browsers' form "pt-BR".
            catalogue = read_po(file, locale=path.stem.replace("-", "_"), abort_invalid=True)
        write_mo(compiled, catalogue)
    except (OSError, ValueError, PoFileError, UnknownLocaleError) as error:
        raise ConfigurationError(
            "catalogues", f"contain {path.name}, which is not a valid catalogue"
        ) from error
    compiled.seek(0)
    return Translations(compiled)


def _tag_of(locale: Locale) -> str:
    return str(locale).replace("_", "-")


def _locale(tag: str) -> Locale | None:
    """Return the locale of a tag. Drop subtags from the end until the locale is known."""
    while tag:
        try:
            return Locale.parse(tag, sep="-")
        except (ValueError, UnknownLocaleError):
            tag = tag.rpartition("-")[0]
    return None
