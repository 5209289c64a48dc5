"""The page's texts in the languages that there are catalogues for, and how each writes times and lists."""

import io
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path

from babel import Locale, UnknownLocaleError
from babel.dates import format_date, format_time, format_timedelta
from babel.lists import format_list
from babel.messages.mofile import write_mo
from babel.messages.pofile import PoFileError, read_po
from babel.support import Translations

from session_authority.errors import ConfigurationError

SOURCE_LANGUAGE = "en"
"""The language of the texts in the code, which needs no catalogue."""

ACCEPTED_LIMIT = 16
"""So many languages of a browser's are looked at: nobody reads more."""

_SHIPPED = Path(__file__).with_name("catalogues")


class Language:
    """One language, as one visitor's region writes it.

    Attributes:
        tag: Its name for HTML and browsers, for example "de-AT".
        direction: "ltr" or "rtl".
    """

    def __init__(self, locale: Locale, texts: Translations) -> None:
        self._locale = locale
        self._texts = texts
        self.tag = str(locale).replace("_", "-")
        self.direction = locale.text_direction

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
        """Say how long ago something was: "2 hours ago"; below a minute, "just now"."""
        passed = now - time
        if passed.total_seconds() < 60:  # or in the future: clocks differ
            return self.gettext("just now")
        return format_timedelta(-passed, threshold=1, add_direction=True, locale=self._locale)

    def moment(self, time: datetime) -> str:
        """Write a point in time to the minute, in UTC."""
        return self._in_utc(time, "short")

    def exact(self, time: datetime) -> str:
        """Write a point in time to the second, in UTC."""
        return self._in_utc(time, "medium")

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
        """Give the best language for an `Accept-Language` header, English where none fits."""
        if self._only is not None:
            return self._only
        for tag in preferred(accept_language):
            if language := self._of_tag(tag):
                return language
        language = self._of_tag(SOURCE_LANGUAGE)
        assert language is not None
        return language

    def _of_tag(self, tag: str) -> Language | None:
        tag = tag.replace("_", "-").lower()
        found = self._made.get(tag)
        if found is None and (name := self._catalogue_of(tag)) is not None:
            locale = _locale(tag) or _locale(name)
            if locale is not None:
                language = Language(locale, self._catalogues[name])
                # Under the language's own name: visitors invent tags without end, regions are few.
                found = self._made.setdefault(language.tag.lower(), language)
        return found

    def _catalogue_of(self, tag: str) -> str | None:
        while tag:
            if tag in self._catalogues:
                return tag
            tag = tag.rpartition("-")[0]
        return None


def preferred(accept_language: str) -> list[str]:
    """Give the languages of an `Accept-Language` header (RFC 9110), most wanted first."""
    weighted: list[tuple[float, str]] = []
    for entry in accept_language.split(",")[:ACCEPTED_LIMIT]:
        tag, _, parameters = entry.strip().partition(";")
        try:
            weight = float(parameters.strip().removeprefix("q=")) if parameters else 1.0
        except ValueError:
            continue
        if tag.strip() and 0 < weight <= 1:
            weighted.append((weight, tag.strip()))
    return [tag for _, tag in sorted(weighted, key=lambda entry: -entry[0])]


def _read(path: Path) -> Translations:
    compiled = io.BytesIO()
    try:
        with path.open("rb") as file:
            write_mo(compiled, read_po(file, locale=path.stem, abort_invalid=True))
    except (OSError, ValueError, PoFileError, UnknownLocaleError) as error:
        raise ConfigurationError(
            "catalogues", f"hold {path.name}, which is no catalogue"
        ) from error
    compiled.seek(0)
    return Translations(compiled)


def _locale(tag: str) -> Locale | None:
    try:
        return Locale.parse(tag, sep="-")
    except (ValueError, UnknownLocaleError):
        return None
