from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import pytest

from session_authority import ConfigurationError
from session_authority.web.sessions_page.language import Languages, preferred

NOON = datetime(2026, 1, 15, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def languages() -> Languages:
    return Languages()


@pytest.mark.parametrize(
    ("header", "tags"),
    [
        ("", []),
        ("de", ["de"]),
        ("fr;q=0.4, ja;q=0.9,en;q=0.5", ["ja", "en", "fr"]),
        ("de, en", ["de", "en"]),
        ("de;q=0, en;q=0.1", ["en"]),
        ("de;q=seven, en", ["en"]),
        ("de;q=7, de;q=-1, de;q=nan, en", ["en"]),
        (" ,,; ,en", ["en"]),
        ("*", ["*"]),
    ],
)
def test_the_header_is_read_as_the_standard_says(header: str, tags: list[str]) -> None:
    assert preferred(header) == tags


def test_no_more_of_the_header_is_read_than_anybody_speaks() -> None:
    assert len(preferred(",".join(["de"] * 1_000))) == 16


@pytest.mark.parametrize(
    ("header", "tag"),
    [
        ("de", "de"),
        ("de-AT,en", "de-AT"),
        ("fr-CA", "fr-CA"),
        ("en-GB", "en-GB"),
        ("ja-JP;q=0.8,nl;q=0.9", "ja-JP"),
        ("nl", "en"),
        ("*", "en"),
        ("", "en"),
        ("de-XX-nonsense, fr", "de"),
        ("x" * 5000, "en"),
        ("../../etc/passwd", "en"),
        ("de\x00", "en"),
    ],
)
def test_the_best_language_there_is_is_chosen(languages: Languages, header: str, tag: str) -> None:
    assert languages.choose(header).tag == tag


def test_inventing_tags_fills_no_memory(languages: Languages) -> None:
    for number in range(200):
        languages.choose(f"de-x{number}")

    assert len(languages._made) < 20


def test_english_is_as_it_is_written_in_the_code(languages: Languages) -> None:
    english = languages.choose("en")

    assert (
        english.gettext("%(browser)s on %(os)s", browser="Chrome", os="macOS") == "Chrome on macOS"
    )
    assert english.ngettext("%(count)d day", "%(count)d days", 1) == "1 day"
    assert english.ngettext("%(count)d day", "%(count)d days", 0) == "0 days"


@pytest.mark.parametrize(
    ("tag", "one", "two"),
    [
        ("de", "von 1 Sekunde.", "von 2 Sekunden."),
        ("fr", "de 1 seconde.", "de 2 secondes."),
        ("es", "en 1 segundo.", "en 2 segundos."),
        ("ja", "1 秒以内に", "2 秒以内に"),
    ],
)
def test_numbers_take_the_form_that_the_language_wants(
    languages: Languages, tag: str, one: str, two: str
) -> None:
    texts = (
        "It takes effect everywhere within %(count)d second.",
        "It takes effect everywhere within %(count)d seconds.",
    )
    language = languages.choose(tag)

    assert one in language.ngettext(*texts, 1)
    assert two in language.ngettext(*texts, 2)


@pytest.mark.parametrize(
    ("span", "english", "german"),
    [
        (timedelta(seconds=-5), "just now", "gerade eben"),
        (timedelta(seconds=59), "just now", "gerade eben"),
        (timedelta(seconds=60), "1 minute ago", "vor 1 Minute"),
        (timedelta(hours=2), "2 hours ago", "vor 2 Stunden"),
        (timedelta(days=1, hours=2), "1 day ago", "vor 1 Tag"),
        (timedelta(days=20), "3 weeks ago", "vor 3 Wochen"),
        (timedelta(days=400), "1 year ago", "vor 1 Jahr"),
    ],
)
def test_how_long_ago_is_said_as_people_do(
    languages: Languages, span: timedelta, english: str, german: str
) -> None:
    assert languages.choose("en").ago(NOON - span, NOON) == english
    assert languages.choose("de").ago(NOON - span, NOON) == german


def test_times_are_in_utc_and_say_so(languages: Languages) -> None:
    time = datetime(2026, 1, 15, 23, 30, 5, tzinfo=timezone(timedelta(hours=-3)))

    assert languages.choose("en-GB").moment(time) == "16 Jan 2026, 02:30 UTC"
    assert languages.choose("en-GB").exact(time) == "16 Jan 2026, 02:30:05 UTC"
    assert languages.choose("de").exact(time) == "16.01.2026, 02:30:05 UTC"


def test_lists_end_as_the_language_ends_them(languages: Languages) -> None:
    assert languages.choose("en-GB").together(["a", "b", "c"]) == "a, b and c"
    assert languages.choose("es").together(["a", "b"]) == "a y b"
    assert languages.choose("ja").together(["a", "b"]) == "a、b"
    assert languages.choose("en").together(["a"]) == "a"


def write(folder: Path, name: str, text: str) -> None:
    header = 'msgid ""\nmsgstr "Content-Type: text/plain; charset=utf-8\\n"\n\n'
    (folder / name).write_text(header + text)


def test_an_app_adds_a_language_with_a_file(tmp_path: Path) -> None:
    write(tmp_path, "ar.po", 'msgid "Your sessions"\nmsgstr "جلساتك"\n')

    arabic = Languages(tmp_path).choose("ar")

    assert (arabic.tag, arabic.direction) == ("ar", "rtl")
    assert arabic.gettext("Your sessions") == "جلساتك"
    assert arabic.gettext("Back") == "Back", "what is not translated yet is said in English"


def test_an_apps_own_words_replace_the_shipped_ones(tmp_path: Path) -> None:
    write(tmp_path, "de.po", 'msgid "Your sessions"\nmsgstr "Deine Geräte"\n')

    assert Languages(tmp_path).choose("de").gettext("Your sessions") == "Deine Geräte"


def test_an_app_can_decide_the_language() -> None:
    assert Languages(only="fr").choose("de").tag == "fr"
    assert Languages(only="en-GB").choose("de").tag == "en-GB"


def test_a_language_without_a_catalogue_is_refused_at_start() -> None:
    with pytest.raises(ConfigurationError, match="language has no catalogue: 'nl'"):
        Languages(only="nl")


@pytest.mark.parametrize(
    ("name", "text"),
    [("nl.po", 'msgid "a\nnonsense'), ("notalanguage9.po", 'msgid "a"\nmsgstr "b"\n')],
)
def test_a_catalogue_that_is_none_is_refused_at_start(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, name, text)

    with pytest.raises(ConfigurationError, match=name):
        Languages(tmp_path)
