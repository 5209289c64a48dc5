import re
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from zoneinfo import ZoneInfo

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
        ("," * 100 + "en", ["en"]),
        ("*", ["*"]),
        ("de;Q=0.5, fr ; q=0.7 ,es; q = 0.6", ["fr", "es", "de"]),
        ("de;q=0.5;level=1, fr;level=1;q=0.9", ["fr", "de"]),
        ("de;q=, fr;q, ja;q=1e400, es;q=nan, en;q=1.001", []),
        ("de-..,../../de,de@euro,de.UTF-8,\0,-de,de-,abcdefghi,en", ["en"]),
        ("a" + "-b" * 5000 + ",en", ["en"]),
    ],
)
def test_accept_language_is_parsed_by_the_standard(header: str, tags: list[str]) -> None:
    assert preferred(header) == tags


def test_only_a_limited_number_of_languages_in_the_header_is_read() -> None:
    assert len(preferred(",".join(f"de-{number}" for number in range(1_000)))) == 16


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
        ("DE-at", "de-AT"),
        ("de_DE", "de-DE"),
        ("en-US-u-hc-h23", "en-US"),
        ("ja-JP-u-ca-japanese", "ja-JP"),
        ("de-DE-1996-x-private", "de-DE"),
        ("es-419", "es-419"),
        ("zh-Hant, pt-BR;q=0.9", "en"),
        ("nl, de;q=0.5", "de"),
        ("nl, *;q=0.8, fr;q=0.5", "en"),
        ("de;q=0.9, *", "en"),
        ("de, *;q=0.1", "de"),
        ("en;q=0, de;q=0.1", "de"),
        ("EN;q=0, *", "de"),
        ("en;q=0, de;q=0, *;q=0.5", "es"),
        ("en;q=0, de;q=0, fr;q=0, *", "es"),
        ("en;q=0", "en"),
        ("*;q=0", "en"),
        ("en;q=0, de;q=0, es;q=0, fr;q=0, ja;q=0, *", "en"),
        ("x" * 5000, "en"),
        ("../../etc/passwd", "en"),
        ("de\x00", "en"),
    ],
)
def test_the_best_available_language_is_chosen(languages: Languages, header: str, tag: str) -> None:
    assert languages.choose(header).tag == tag


@pytest.mark.parametrize(
    ("header", "word"),
    [
        ("en", "recognize"),
        ("en-US", "recognize"),
        ("en-CA", "recognize"),
        ("en-GB", "recognise"),
        ("en-AU,en;q=0.9", "recognise"),
        ("en-IE", "recognise"),
        ("en-IN", "recognise"),
        ("en-DE", "recognise"),
    ],
)
def test_english_has_the_spelling_of_the_visitors_region(
    languages: Languages, header: str, word: str
) -> None:
    english = languages.choose(header)

    assert word in english.gettext("Log out any that you don't recognize.")
    assert english.gettext("Log out") == "Log out", "the rest is the same everywhere"


def test_a_region_gets_the_texts_of_its_language(tmp_path: Path) -> None:
    write(tmp_path, "es_419.po", 'msgid "Back"\nmsgstr "Regresar"\n')
    languages = Languages(tmp_path)

    assert languages.choose("es-MX").gettext("Back") == "Regresar"
    assert languages.choose("es-ES").gettext("Back") == "Volver"


def test_sentences_are_separated_by_a_space_except_in_japanese_and_chinese(tmp_path: Path) -> None:
    write(tmp_path, "zh.po", 'msgid "Back"\nmsgstr "返回"\n')
    languages = Languages(tmp_path)

    gaps = [languages.choose(tag).sentence_gap for tag in ("en", "de", "ja", "zh-TW")]
    assert gaps == [" ", " ", "", ""]


def test_made_up_language_tags_fill_no_memory(languages: Languages) -> None:
    for number in range(200):
        languages.choose(f"de-x{number}")

    assert len(languages._made) < 20


def test_english_texts_are_those_in_the_code(languages: Languages) -> None:
    english = languages.choose("en")

    assert (
        english.gettext("%(browser)s on %(os)s", browser="Chrome", os="macOS") == "Chrome on macOS"
    )
    assert english.ngettext("%(count)d day", "%(count)d days", 1) == "1 day"
    assert english.ngettext("%(count)d day", "%(count)d days", 0) == "0 days"


@pytest.mark.parametrize(
    ("tag", "one", "two"),
    [
        ("de", "von 1 Sekunde wirksam.", "von 2 Sekunden wirksam."),
        ("fr", "de 1\N{NO-BREAK SPACE}seconde.", "de 2\N{NO-BREAK SPACE}secondes."),
        ("es", "de 1 segundo.", "de 2 segundos."),
        ("ja", "1 秒以内に", "2 秒以内に"),
    ],
)
def test_numbers_take_the_plural_form_of_the_language(
    languages: Languages, tag: str, one: str, two: str
) -> None:
    texts = (
        "This takes effect everywhere within %(count)d second.",
        "This takes effect everywhere within %(count)d seconds.",
    )
    language = languages.choose(tag)

    assert one in language.ngettext(*texts, 1)
    assert two in language.ngettext(*texts, 2)


MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
MOMENT = timedelta(microseconds=1)


@pytest.mark.parametrize(
    ("span", "english", "german"),
    [
        (-400 * DAY, "just now", "gerade eben"),
        (-MOMENT, "just now", "gerade eben"),
        (MINUTE - MOMENT, "just now", "gerade eben"),
        (MINUTE, "1 minute ago", "vor 1 Minute"),
        (2 * MINUTE - MOMENT, "1 minute ago", "vor 1 Minute"),
        (HOUR - MOMENT, "59 minutes ago", "vor 59 Minuten"),
        (HOUR, "1 hour ago", "vor 1 Stunde"),
        (2 * HOUR - MOMENT, "1 hour ago", "vor 1 Stunde"),
        (DAY - MOMENT, "23 hours ago", "vor 23 Stunden"),
        (DAY, "1 day ago", "vor 1 Tag"),
        (7 * DAY - MOMENT, "6 days ago", "vor 6 Tagen"),
        (7 * DAY, "1 week ago", "vor 1 Woche"),
        (30 * DAY - MOMENT, "4 weeks ago", "vor 4 Wochen"),
        (30 * DAY, "1 month ago", "vor 1 Monat"),
        (60 * DAY, "2 months ago", "vor 2 Monaten"),
        (365 * DAY - MOMENT, "11 months ago", "vor 11 Monaten"),
        (365 * DAY, "1 year ago", "vor 1 Jahr"),
        (730 * DAY - MOMENT, "1 year ago", "vor 1 Jahr"),
    ],
)
def test_relative_times_are_in_the_largest_whole_unit(
    languages: Languages, span: timedelta, english: str, german: str
) -> None:
    assert languages.choose("en").ago(NOON - span, NOON) == english
    assert languages.choose("de").ago(NOON - span, NOON) == german


LARGEST = {"minute": 59, "hour": 23, "day": 6, "week": 4, "month": 11}
UNIT_WORDS = {
    "en": ("minute", "hour", "day", "week", "month"),
    "de": ("Minute", "Stunde", "Tag", "Woche", "Monat"),
    "es": ("minuto", "hora", "día", "semana", "mes"),
    "fr": ("minute", "heure", "jour", "semaine", "mois"),
    "ja": ("分", "時間", "日", "週間", "か月"),
}


@pytest.mark.parametrize("tag", UNIT_WORDS)
def test_relative_times_never_exceed_a_unit_in_any_language(languages: Languages, tag: str) -> None:
    language = languages.choose(tag)
    largest = dict.fromkeys(LARGEST, 0)
    for minutes in (*range(1, 200), *range(200, 400 * 24 * 60, 61)):
        said = language.ago(NOON - minutes * MINUTE, NOON)
        for unit, word in zip(LARGEST, UNIT_WORDS[tag], strict=True):
            found = re.search(rf"(\d+)\s*{word}", said)
            largest[unit] = max(largest[unit], int(found[1]) if found else 0)

    assert largest == LARGEST


def test_a_daylight_saving_change_does_not_count_as_elapsed_time(languages: Languages) -> None:
    berlin = ZoneInfo("Europe/Berlin")
    before = datetime(2026, 3, 29, 1, 59, tzinfo=berlin)
    after = datetime(2026, 3, 29, 3, 1, tzinfo=berlin)

    assert languages.choose("en").ago(before, after) == "2 minutes ago"
    assert languages.choose("en").exact(before) == "Mar 29, 2026, 12:59:00\u202fAM UTC"


def test_times_are_in_utc_and_show_that(languages: Languages) -> None:
    time = datetime(2026, 1, 15, 23, 30, 5, tzinfo=timezone(timedelta(hours=-3)))

    assert languages.choose("en-GB").moment(time) == "16 Jan 2026, 02:30 UTC"
    assert languages.choose("en-GB").exact(time) == "16 Jan 2026, 02:30:05 UTC"
    assert languages.choose("de").exact(time) == "16.01.2026, 02:30:05 UTC"


def test_lists_are_joined_by_the_rules_of_the_language(languages: Languages) -> None:
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


@pytest.mark.parametrize("header", ["zh-Hant", "zh-TW", "zh-HK", "zh-Hant-MO", "zh_TW"])
@pytest.mark.parametrize("name", ["zh_Hant.po", "zh-Hant.po"])
def test_a_region_gets_the_script_that_it_writes(tmp_path: Path, name: str, header: str) -> None:
    write(tmp_path, name, 'msgid "Back"\nmsgstr "返回"\n')
    write(tmp_path, "zh.po", 'msgid "Back"\nmsgstr "后退"\n')
    languages = Languages(tmp_path)

    assert languages.choose(header).gettext("Back") == "返回"
    assert languages.choose("zh-CN").gettext("Back") == "后退"


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
def test_an_invalid_catalogue_is_refused_at_start(tmp_path: Path, name: str, text: str) -> None:
    write(tmp_path, name, text)

    with pytest.raises(ConfigurationError, match=name):
        Languages(tmp_path)
