"""Settings from the environment and ``.env``, in one typed place.

A variable that is set but empty counts as not set.
"""

import json
import os
import re
from datetime import date
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from zoneinfo import ZoneInfo, available_timezones

import dotenv
import platformdirs
from pydantic import Field, HttpUrl, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

CREDENTIALS = (
    "MIXPANEL_PROJECT_ID",
    "MIXPANEL_SERVICE_ACCOUNT_USERNAME",
    "MIXPANEL_SERVICE_ACCOUNT_SECRET",
)

_NOT_IN_PATHS = "?" if os.name == "nt" else "?\\"
_SIZE = re.compile(r"(?=.*[1-9])\d+(\.\d+)?\s*[KMGT]i?B", re.IGNORECASE)


class SettingsError(Exception):
    """A variable has a value that cannot be used; the message names each and says what is wrong."""


class Settings(BaseSettings):
    """The settings; each field is the environment variable of the same name in capitals."""

    model_config = SettingsConfigDict(env_ignore_empty=True, hide_input_in_errors=True, frozen=True)

    mixpanel_project_id: str | None = None
    mixpanel_service_account_username: SecretStr | None = None
    mixpanel_service_account_secret: SecretStr | None = None
    mixpanel_region: Literal["us", "eu", "in"] = "us"
    """Where Mixpanel keeps the project's data."""
    mixpanel_export_url: HttpUrl | None = None
    """Base URL of the raw export instead of the region's; ``/export`` is appended."""
    mixpanel_query_url: HttpUrl | None = None
    """Base URL of the query API instead of the region's; ``/engage`` is appended."""
    mixpanel_project_timezone: str = "UTC"
    """The zone in which days begin."""
    mixpanel_local_timestamps: bool = False
    """Whether ``time`` is local wall clock: projects from before 2023."""
    mixpanel_start_date: date = date(2024, 1, 1)
    """The first partition."""
    mixpanel_events: Annotated[tuple[str, ...] | None, NoDecode] = None
    """Names of the events to export (a JSON array, or separated by commas); all if None."""
    mixpanel_where: str | None = None
    """A segmentation expression that filters the export."""
    mixpanel_prefetch: int = Field(default=1, ge=0)
    """Downloads that may be under way, or wait on disk, while a day is loaded."""
    mixpanel_days_per_request: int = Field(default=1, ge=1)
    """Days that one request of a range run exports; more suit long histories of small projects."""
    mixpanel_exports_per_hour: int = Field(default=60, ge=1)
    """Requests of the raw export that the project's plan allows in any hour."""
    mixpanel_exports_per_second: int = Field(default=3, ge=1)
    """Requests of the raw export that the project's plan allows in any second."""
    mixpanel_queries_per_hour: int = Field(default=60, ge=1)
    """Requests of profiles that the project's plan allows in any hour."""
    mixpanel_concurrent_queries: int = Field(default=5, ge=1)
    """Requests of profiles that the project's plan allows at once."""
    mp_pipeline_database: Path | None = None
    """The DuckDB file."""
    mp_pipeline_lock_timeout: float = Field(default=300.0, ge=0)
    """How long to wait while another process holds the database, in seconds."""
    mp_pipeline_max_rejected_fraction: float = Field(default=0.01, ge=0, le=1)
    """Share of a day's lines that may be rejected; with more the load fails."""
    mp_pipeline_memory_limit: str | None = None
    """How much memory DuckDB may use, such as ``2GB``; its default is 80 % of the machine's."""
    mp_pipeline_threads: int | None = Field(default=None, ge=1)
    """How many threads DuckDB may use; its default is all cores."""
    mp_pipeline_temp_directory: Path | None = None
    """Where DuckDB puts what does not fit into memory; its default is beside the database."""
    mp_pipeline_state_directory: Path | None = None
    """Where this machine's processes keep count of their requests; the user's state directory if
    None."""
    mp_pipeline_days_per_run: int | None = Field(default=None, ge=1)
    """Days that a backfill takes into one run; all of a range if None."""
    mp_pipeline_trailing_days: int = Field(default=7, ge=1)
    """Days that the daily schedule loads again, for events that come late."""
    mp_pipeline_deadline_hours: float = Field(default=6.0, gt=2, le=24)
    """Hours after the project's midnight at which yesterday must be there."""

    @field_validator(*(name.lower() for name in CREDENTIALS), mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        return (value.strip() or None) if isinstance(value, str) else value

    @field_validator("mixpanel_export_url", "mixpanel_query_url", mode="before")
    @classmethod
    def _has_no_credentials(cls, value: object) -> object:
        if isinstance(value, str) and "@" in value:
            raise ValueError("must not hold credentials; they have variables of their own")
        return value

    @field_validator("mixpanel_start_date", mode="before")
    @classmethod
    def _is_date(cls, value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value.strip()):
            raise ValueError("is not a date such as 2024-01-15")
        return value

    @field_validator("mp_pipeline_database")
    @classmethod
    def _is_file(cls, value: Path | None) -> Path | None:
        if value is not None and (str(value) == ":memory:" or value.is_dir()):
            raise ValueError("is not a file; runs share a database file")
        if value is not None and any(character in str(value) for character in _NOT_IN_PATHS):
            raise ValueError(
                f"must not hold {' or '.join(_NOT_IN_PATHS)}, which DuckDB takes for something else"
            )
        return value

    @field_validator("mp_pipeline_memory_limit")
    @classmethod
    def _is_size(cls, value: str | None) -> str | None:
        if value is not None and not _SIZE.fullmatch(value):
            raise ValueError("is not a size such as 2GB or 1.5GiB")
        return value

    @field_validator("mp_pipeline_temp_directory", "mp_pipeline_state_directory")
    @classmethod
    def _is_directory(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        directory = value.expanduser().absolute()
        if directory.exists() and not directory.is_dir():
            raise ValueError("is not a directory")
        return directory

    @field_validator("mixpanel_region", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator("mixpanel_events", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        if not value.lstrip().startswith("["):
            return tuple(name.strip() for name in value.split(",") if name.strip()) or None
        try:
            return tuple(json.loads(value)) or None
        except json.JSONDecodeError as error:
            raise ValueError(f"is not a JSON array: {error}") from error

    @field_validator("mixpanel_project_timezone")
    @classmethod
    def _is_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("is not a time zone of the IANA database, such as Europe/Berlin")
        return value

    @model_validator(mode="after")
    def _all_or_none(self) -> Self:
        missing = [name for name in CREDENTIALS if getattr(self, name.lower()) is None]
        if missing and len(missing) < len(CREDENTIALS):
            raise ValueError(
                f"{' and '.join(missing)} must be set too: credentials are all three or none "
                "(none means the sample project)"
            )
        if missing and (self.mixpanel_export_url or self.mixpanel_query_url):
            raise ValueError(
                "MIXPANEL_EXPORT_URL or MIXPANEL_QUERY_URL is set, but no credentials: set "
                + ", ".join(CREDENTIALS)
            )
        return self

    @property
    def is_sample(self) -> bool:
        """Whether the sample project is used, for want of credentials."""
        return self.mixpanel_project_id is None

    @property
    def database(self) -> Path:
        """The DuckDB file, as an absolute path; sample data has one of its own."""
        default = "data/sample.duckdb" if self.is_sample else "data/mixpanel.duckdb"
        return (self.mp_pipeline_database or Path(default)).expanduser().absolute()

    @property
    def database_options(self) -> dict[str, str]:
        """DuckDB's configuration options, by DuckDB's names; empty if its defaults hold."""
        options = {
            "memory_limit": self.mp_pipeline_memory_limit,
            "threads": self.mp_pipeline_threads,
            "temp_directory": self.mp_pipeline_temp_directory,
        }
        return {name: str(value) for name, value in options.items() if value is not None}

    @property
    def state_directory(self) -> Path:
        """Where this machine's processes keep count of their requests, as an absolute path."""
        default = platformdirs.user_state_path("mp_pipeline", appauthor=False)
        return self.mp_pipeline_state_directory or default

    @property
    def zone(self) -> ZoneInfo:
        """The zone in which days begin."""
        return ZoneInfo(self.mixpanel_project_timezone)

    @property
    def wall_clock_zone(self) -> str:
        """The zone whose wall clock the export's ``time`` shows; ``UTC`` if it is true UTC."""
        return self.mixpanel_project_timezone if self.mixpanel_local_timestamps else "UTC"


@cache
def load_settings() -> Settings:
    """Return the settings of this process; ``.env`` in the working directory is read first.

    What ``.env`` names becomes part of the environment, where Dagster's ``EnvVar`` looks, unless
    it is set there already.

    Raises:
        SettingsError: names each variable that cannot be used, and says why. Values of secrets
            are not shown.
    """
    dotenv.load_dotenv(Path.cwd() / ".env")
    try:
        return Settings()
    except ValidationError as error:
        raise SettingsError(
            "\n".join(_explain(problem) for problem in error.errors(include_url=False))
        ) from None


def _explain(problem: Any) -> str:  # noqa: ANN401 - pydantic's own dictionary
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0])
    secret = name.upper() in CREDENTIALS or "@" in str(problem["input"])
    shown = "" if secret else f" ({problem['input']!r})"
    return f"{name.upper()}{shown}: {message}"
