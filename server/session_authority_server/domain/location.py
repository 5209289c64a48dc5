from dataclasses import dataclass

# The longest real names of places fit.
PLACE_LIMIT_CHARACTERS = 100


@dataclass(frozen=True, slots=True)
class Location:
    """The place that an IP address probably belongs to. It helps people recognise a sign-in, and proves nothing.

    Attributes:
        city: The city in English, for example "Hamburg"; empty if unknown.
        region: The largest subdivision of the country in English, for example "California"; empty if unknown.
        country: The country in English, for example "Germany"; empty if unknown.
        country_code: The country by ISO 3166-1, for example "DE"; empty if unknown.
    """

    city: str = ""
    region: str = ""
    country: str = ""
    country_code: str = ""
