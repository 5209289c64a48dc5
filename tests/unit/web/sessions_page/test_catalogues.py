import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from babel import Locale
from babel.messages.catalog import Catalog
from babel.messages.extract import extract_from_dir
from babel.messages.pofile import read_po

from session_authority.web import sessions_page

PAGE = Path(sessions_page.__file__).parent
ENGLISH = PAGE / "catalogues" / "en_001.po"
CATALOGUES = sorted(set((PAGE / "catalogues").glob("*.po")) - {ENGLISH})
SOURCES = [("templates/*.html", "jinja2.ext.babel_extract"), ("*.py", "python")]

Texts = tuple[str, ...]


def gathered() -> set[Texts]:
    """Return every text in the page's code and templates, with its plural form if it has one."""
    found = extract_from_dir(str(PAGE), SOURCES)
    return {(text,) if isinstance(text, str) else tuple(text) for _, _, text, _, _ in found}


def read(path: Path) -> Catalog:
    with path.open("rb") as file:
        return read_po(file, locale=path.stem, abort_invalid=True)


def entries(catalogue: Catalog) -> Iterator[tuple[Texts, Texts]]:
    for message in catalogue:
        if message.id:
            yield as_texts(message.id), as_texts(message.string)


def as_texts(value: object) -> Texts:
    return tuple(map(str, value)) if isinstance(value, list | tuple) else (str(value or ""),)


def placeholders(text: str) -> list[str]:
    return sorted(re.findall(r"%(?:\(\w+\))?.", text))


def test_german_french_spanish_and_japanese_are_shipped() -> None:
    assert {path.stem for path in CATALOGUES} >= {"de", "fr", "es", "ja"}


def test_every_text_of_the_page_is_gathered_from_code_and_templates() -> None:
    texts = {text for texts in gathered() for text in texts}

    assert {
        "Last active %(time)s",
        "Active now",
        "Your sessions",
        "just now",
    } <= texts
    assert len(texts) > 80


def test_no_text_of_the_templates_escapes_translation() -> None:
    for path in (PAGE / "templates").glob("*.html"):
        bare = re.sub(r"\{[{%#].*?[#%}]\}|<[^>]*>", " ", path.read_text(), flags=re.DOTALL)
        words = re.findall(r"[A-Za-z]{2,}", bare.replace('">', " "))
        assert words == [], f"{path.name} says these in English to everybody"


def test_english_has_one_verb_for_logging_out() -> None:
    others = r"\b(sign|signed|signing|end|ended|revoke|revoked|terminate|authenticated?)\b"
    texts = sorted(text for texts in gathered() for text in texts)

    assert [text for text in texts if re.search(others, text, re.IGNORECASE)] == []
    assert [text for text in texts if "Log Out" in text or "log-out" in text] == []


def test_british_english_has_only_texts_with_a_different_spelling() -> None:
    spelled = dict(entries(read(ENGLISH)))
    texts = {text for texts in gathered() for text in texts}

    assert set(spelled) <= gathered()
    for source, target in spelled.items():
        assert [placeholders(form) for form in target] == [placeholders(form) for form in source]
    british = {re.sub(r"iz(e|ed|ing)\b", r"is\1", text) for text in texts}
    assert british - texts == {form for target in spelled.values() for form in target}


# Punctuation that a language never uses. French puts a no-break space inside quotes and before ":", "?" and "!".
# Japanese has its own question mark and brackets.
NEVER = {
    "de": r"['\"]|\.\.\.",
    "es": r"['\"]|\.\.\.|^[^¿]*\?",
    "fr": r"['\"]|\.\.\.|(?<![\u00a0\u202f])[:?!;»]|«(?!\u00a0)",
    "ja": r"['\"?!(),]|\.\.\.|。 ",
}


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
def test_each_catalogue_uses_the_punctuation_of_its_language(path: Path) -> None:
    for source, target in entries(read(path)):
        for form in target:
            bare = re.sub(r"%\(\w+\)[sd]", "x", form)
            assert not re.search(NEVER[path.stem], bare), (source, form)


@pytest.mark.parametrize("path", CATALOGUES, ids=lambda path: path.stem)
class TestACatalogue:
    def test_translates_every_text_and_no_other(self, path: Path) -> None:
        translated = {source for source, _ in entries(read(path))}

        assert sorted(gathered() - translated) == [], "not translated yet"
        assert sorted(translated - gathered()) == [], "said no more"

    def test_has_no_empty_or_fuzzy_entry(self, path: Path) -> None:
        assert [source for source, target in entries(read(path)) if not all(target)] == []
        assert [message.id for message in read(path) if message.id and message.fuzzy] == []

    def test_has_the_same_placeholders_as_the_english_text(self, path: Path) -> None:
        for source, target in entries(read(path)):
            for form in target:
                assert placeholders(form) == placeholders(source[-1]), (source, form)

    def test_has_every_plural_form_that_its_language_needs(self, path: Path) -> None:
        catalogue = read(path)
        rule = Locale.parse(path.stem).plural_form
        used = {rule(count) for count in range(3601)}

        assert catalogue.num_plurals == len(used)
        for source, target in entries(catalogue):
            assert len(target) == (catalogue.num_plurals if len(source) > 1 else 1), source
