"""A form or a query, read without trust."""

from urllib.parse import parse_qsl

FIELDS_LIMIT = 64
FORM_TYPE = "application/x-www-form-urlencoded"


def fields(encoded: str) -> dict[str, str]:
    """Give the fields of a URL-encoded text, of each the last; none of one that has more than 64."""
    try:
        pairs = parse_qsl(encoded, keep_blank_values=True, max_num_fields=FIELDS_LIMIT)
    except ValueError:
        return {}
    return dict(pairs)


def is_form(content_type: str) -> bool:
    """Say whether a body of this type is a URL-encoded form."""
    return content_type.partition(";")[0].strip().lower() == FORM_TYPE
