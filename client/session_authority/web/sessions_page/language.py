"""The page's texts in the languages that there are catalogues for, and how each writes times and lists."""

import io
import re
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime, timedelta
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
"""The language of the texts in the code, which needs no catalogue."""

ACCEPTED_LIMIT = 16
"""How many entries of an `Accept-Language` header are read."""

_SHIPPED = Path(__file__).with_name("catalogues")

# The languages that a region's language follows, other than by its name: "en-au" follows "en-001", the
# English with British spelling, and "es-mx" follows "es-419". From the Unicode locale data.
_FOLLOWS = {
    region.replace("_", "-").lower(): followed.replace("_", "-").lower()
    for region, followed in get_global("parent_exceptions").items()
}

# A range of RFC 4647 with at most 8 subtags, and with the underscore that some programs write.
_RANGE = re.compile(r"\*|[a-z]{1,8}(?:[-_][a-z0-9]{1,8}){0,8}")

# Each unit, and its largest count. The script in page.js has the same table.
_UNITS = (
    (timedelta(days=365), None),
    (timedelta(days=30), 11),
    (timedelta(weeks=1), None),
    (timedelta(days=1), None),
    (timedelta(hours=1), None),
    (timedelta(minutes=1), None),
)


class Language:
    """One language, as one visitor's region writes it.

    Attributes:
        tag: Its name for HTML and browsers, for example "de-AT".
        direction: "ltr" or "rtl".
        sentence_gap: What stands between two sentences: nothing after the full stop of Chinese and Japanese.
    """

    def __init__(self, locale: Locale, texts: Translations) -> None:
        self._locale = locale
        self._texts = texts
        self.tag = _tag_of(locale)
        self.direction = locale.text_direction
        self.sentence_gap = "" if locale.language in ("ja", "zh") else " "

    def gettext(self, message: str, **values: object) -> str:
        """Give a text, with its placeholders filled in."""
        return self.pattern(message) % values

    def pattern(self, message: str) -> str:
        """Give a text with its placeholders still in it."""
        return str(self._texts.gettext(message))

    def ngettext(self, singular: str, plural: str, count: int, **values: object) -> str:
        """Give the form of a text that the number asks for; `count` fills its placeholder too."""
        return str(self._texts.ngettext(singular, plural, count)) % {"count": count, **values}

    def ago(self, time: datetime, now: datetime) -> str:
        """Say how long ago a time was, in whole units of the largest unit that fits: "1 hour ago".

        Less than a minute is "just now". So is a time in the future, because clocks differ.
        """
        # In UTC: Python subtracts two times of one zone by their clock faces, also over a change of clocks.
        passed = now.astimezone(UTC) - time.astimezone(UTC)
        for unit, limit in _UNITS:
            if passed >= unit:
                count = min(passed // unit, limit or passed // unit)
                return format_timedelta(
                    -count * unit, threshold=1, add_direction=True, locale=self._locale
                )
        return self.gettext("just now")

    def moment(self, time: datetime) -> str:
        """Write a point in time to the minute, in UTC."""
        return self._in_utc(time, "short")

    def exact(self, time: datetime) -> str:
        """Write a point in time to the second, in UTC."""
        return self._in_utc(time, "medium")

    def number(self, count: int) -> str:
        """Write a number: "10,000"."""
        return format_decimal(count, locale=self._locale)

    def together(self, items: Sequence[str]) -> str:
        """Join with commas and "and"."""
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
    """All languages of the page, read at start.

    Args:
        extra: A folder with further catalogues; one of a language that is shipped replaces it.
        only: The one language to use, whatever browsers ask for.

    Raises:
        ConfigurationError: A catalogue can't be read, or there is none for `only`.
    """

    def __init__(self, extra: Path | None = None, only: str | None = None) -> None:
        self._catalogues: dict[str, Translations] = {SOURCE_LANGUAGE: Translations()}
        for folder in (_SHIPPED, extra):
            for path in sorted(folder.glob("*.po")) if folder else ():
                self._catalogues[path.stem.replace("_", "-").lower()] = _read(path)
        self._made: dict[str, Language] = {}
        self._only = None
        if only is not None:
            self._only = self._of_tag(only)
            if self._only is None:
                raise ConfigurationError("language", f"has no catalogue: {only!r}")

    @property
    def tags(self) -> Iterable[str]:
        """Give the names of the catalogues."""
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
        """Return the language for "*": English, or the first one that the header does not name."""
        for name in self._catalogues:
            if not {name, name.partition("-")[0]} & accepted.keys():
                return self._of_tag(name)
        return None

    def _of_tag(self, tag: str) -> Language | None:
        tag = tag.replace("_", "-").lower()
        found = self._made.get(tag)
        if found is None:
            locale = _locale(tag)
            # The locale first: it knows that zh-TW is zh-Hant-TW.
            name = self._catalogue_of(_tag_of(locale).lower()) if locale else None
            name = name or self._catalogue_of(tag)
            locale = locale or _locale(name or "")
            if name is not None and locale is not None:
                language = Language(locale, self._catalogues[name])
                # Keyed by the locale's own tag: visitors can invent tags without end, locales are few.
                found = self._made.setdefault(language.tag.lower(), language)
        return found

    def _catalogue_of(self, tag: str) -> str | None:
        while tag:
            if tag in self._catalogues:
                return tag
            tag = _FOLLOWS.get(tag) or tag.rpartition("-")[0]
        return None


def preferred(accept_language: str) -> list[str]:
    """Return the languages of an `Accept-Language` header (RFC 9110), most wanted first."""
    return _in_order(_weights(accept_language))


def _in_order(accepted: dict[str, float]) -> list[str]:
    return [tag for tag in sorted(accepted, key=lambda tag: -accepted[tag]) if accepted[tag]]


def _weights(accept_language: str) -> dict[str, float]:
    """Return each language of the header with its weight from 0 to 1. Malformed entries are left out."""
    accepted: dict[str, float] = {}
    entries = (entry for entry in accept_language.split(",") if entry.strip())
    for entry in islice(entries, ACCEPTED_LIMIT):
        tag, *parameters = (part.strip() for part in entry.lower().split(";"))
        weight = _weight(parameters)
        if _RANGE.fullmatch(tag) and weight is not None:
            accepted.setdefault(tag, weight)
    return accepted


def _weight(parameters: Sequence[str]) -> float | None:
    """Return the `q` among an entry's parameters: 1 if there is none, and None if it is malformed."""
    for parameter in parameters:
        name, _, value = parameter.partition("=")
        if name.strip() == "q":
            try:
                weight = float(value)
            except ValueError:
                return None
            return weight if 0 <= weight <= 1 else None
    return 1.0


def _read(path: Path) -> Translations:
    compiled = io.BytesIO()
    try:
        with path.open("rb") as file:
            # Babel wants "pt_BR"; files are also named as browsers write it, "pt-BR".
            catalogue = read_po(file, locale=path.stem.replace("-", "_"), abort_invalid=True)
        write_mo(compiled, catalogue)
    except (OSError, ValueError, PoFileError, UnknownLocaleError) as error:
        raise ConfigurationError(
            "catalogues", f"hold {path.name}, which is no catalogue"
        ) from error
    compiled.seek(0)
    return Translations(compiled)


def _tag_of(locale: Locale) -> str:
    return str(locale).replace("_", "-")


def _locale(tag: str) -> Locale | None:
    """Return the locale of a tag, without what the locale data don't know at its end."""
    while tag:
        try:
            return Locale.parse(tag, sep="-")
        except (ValueError, UnknownLocaleError):
            tag = tag.rpartition("-")[0]
    return None
