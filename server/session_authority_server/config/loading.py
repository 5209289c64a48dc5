"""Load the settings from the environment and the configuration file, and explain what is wrong with them."""

import os
import re
import stat
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError
from pydantic_settings import (
    BaseSettings,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    TomlConfigSettingsSource,
)

from session_authority_server.config.settings import ENV_PREFIX, Settings

CONFIG_FILE = Path("session-authority.toml")
# Variables with the same prefix that the command line or the client reads.
_OTHER_VARIABLES = frozenset(
    f"{ENV_PREFIX}{name}"
    for name in (
        "CONFIG",
        "ADDRESS",
        "API_KEY",
        "BATCHING",
        "DEADLINE_SECONDS",
        "NEAR_CACHE",
        "TLS",
        "TLS_ROOT_CERTIFICATES",
        "TLS_CLIENT_CERTIFICATE",
        "TLS_CLIENT_KEY",
        "TRACING",
    )
)
# The tables of the file that other programs read.
_OTHER_TABLES = frozenset(("gateway",))
# The variables that other programs read, by their prefixes.
_OTHER_PREFIXES = (f"{ENV_PREFIX}GATEWAY_",)
# Kubernetes sets these in every pod, for each Service named `session-authority` or `session-authority-...`:
# https://kubernetes.io/docs/concepts/services-networking/service/#environment-variables
_OF_KUBERNETES = re.compile(
    rf"{ENV_PREFIX}(\w+_)?(SERVICE_(HOST|PORT(_\w+)?)|PORT(_\d+_(TCP|UDP|SCTP)(_(PROTO|PORT|ADDR))?)?)",
    re.ASCII,
)


_Settings = TypeVar("_Settings", bound=BaseSettings)


class ConfigurationError(Exception):
    """A setting is invalid. The message names it and says how to correct it."""


def load_settings(config_file: Path | None = None, **given: Any) -> Settings:
    """Return the settings of the server. Arguments take precedence over the environment, and the environment over the file.

    Raises:
        ConfigurationError: If a setting is invalid, or the file can't be read.
    """
    return load(Settings, config_file, **given)


def load(
    kind: type[_Settings], config_file: Path | None = None, *, table: str = "", **given: Any
) -> _Settings:
    """Return the settings of a program, from the same sources as those of the server.

    Args:
        kind: The class of the settings.
        config_file: The configuration file. If None, `session-authority.toml` is read if it exists.
        table: The table of the file with these settings. The server's settings are outside of tables.
        given: Values that outrank the environment and the file, unless they are None.

    Raises:
        ConfigurationError: If a setting is invalid, or the file can't be read.
    """
    file = config_file or CONFIG_FILE
    _check_file(file, must_exist=config_file is not None)
    _refuse_misspelt_variables(kind, os.environ)

    class FromFile(kind):  # type: ignore[misc,valid-type] # mypy knows no variable base classes
        model_config = SettingsConfigDict(toml_file=file)

        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, _FileSource(settings_cls, table)

    try:
        found: _Settings = FromFile(
            **{name: value for name, value in given.items() if value is not None}
        )
    except ValidationError as error:
        raise ConfigurationError(_describe_problems(kind, error, file)) from None
    except ValueError as error:
        raise ConfigurationError(f"{file} can't be read: {error}") from None
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read: {error.strerror}") from None
    return found


def _check_file(file: Path, *, must_exist: bool) -> None:
    """Raise ConfigurationError for a folder and other entries that pydantic would silently skip."""
    try:
        is_file = stat.S_ISREG(file.stat().st_mode)
    except FileNotFoundError:
        if must_exist:
            raise ConfigurationError(f"the configuration file {file} does not exist") from None
    except OSError as error:
        raise ConfigurationError(f"{file} can't be read: {error.strerror}") from None
    else:
        if not is_file:
            raise ConfigurationError(f"{file} can't be read: it is not a regular file")


class _FileSource(TomlConfigSettingsSource):
    """One table of the configuration file, or the settings outside of tables. An empty value counts as unset."""

    def __init__(self, kind: type[BaseSettings], table: str) -> None:
        self._table = table
        super().__init__(kind)

    def __call__(self) -> dict[str, Any]:
        given = super().__call__()
        if self._table:
            given = given.get(self._table, {})
            if not isinstance(given, dict):
                raise ValueError(f"{self._table} must be a table")
        else:
            given = {name: value for name, value in given.items() if name not in _OTHER_TABLES}
        fields = self.settings_cls.model_fields
        return {name: value for name, value in given.items() if value != "" or name not in fields}


def _refuse_misspelt_variables(kind: type[BaseSettings], environment: Mapping[str, str]) -> None:
    """Raise ConfigurationError for a variable that looks like a misspelt setting.

    Other unknown variables are ignored: the client, another program or an orchestrator may read them.
    """
    prefix = _prefix(kind)
    others = tuple(each for each in _OTHER_PREFIXES if each != prefix)
    known = [prefix + name.upper() for name in kind.model_fields]
    for name in environment:
        if (
            name.startswith(prefix)
            and name not in known
            and name not in _OTHER_VARIABLES
            and not name.startswith(others)
            and not _OF_KUBERNETES.fullmatch(name)
            and (meant := _closest(name, known, cutoff=0.85))
        ):
            raise ConfigurationError(f"{name} is not a setting; did you mean {meant}?")


def _prefix(kind: type[BaseSettings]) -> str:
    return kind.model_config.get("env_prefix", "")


def _closest(name: str, known: Iterable[str], cutoff: float) -> str | None:
    """Return the known name that a misspelt name probably stands for."""
    close = get_close_matches(name, known, 1, cutoff) or [
        each for each in known if each.startswith(name + "_")
    ]
    return close[0] if close else None


def _describe_problems(kind: type[BaseSettings], error: ValidationError, file: Path) -> str:
    lines = []
    for problem in error.errors():
        name = str(problem["loc"][0]) if problem["loc"] else "?"
        if problem["type"] == "extra_forbidden":
            lines.append(_describe_unknown(kind, name, file))
            continue
        wrong = problem["msg"].removeprefix("Value error, ")
        variable = _prefix(kind) + name.upper()
        lines.append(f"{variable} (or {name} in the configuration file): {wrong}")
    return "\n".join(lines)


def _describe_unknown(kind: type[BaseSettings], name: str, file: Path) -> str:
    """Say that a name in the configuration file is not a setting, and which one it probably stands for."""
    bare = name.replace("-", "_").lower().removeprefix(_prefix(kind).lower())
    known = kind.model_fields
    meant = bare if bare in known else _closest(bare, known, 0.6)
    advice = f"; did you mean {meant}?" if meant else "; see docs/reference/settings.md"
    return f"{name} in {file} is not a setting{advice}"
