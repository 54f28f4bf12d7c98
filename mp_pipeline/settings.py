"""Settings: one typed place for everything that can be configured.

Only ``definitions.py`` and the command line call ``load_settings``; all other modules take what
they need as arguments.
"""

import json
import logging
import os
import re
from datetime import date, timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, Self, get_args
from zoneinfo import ZoneInfo, available_timezones

import dotenv
import platformdirs
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    HttpUrl,
    SecretStr,
    ValidationError,
    field_validator,
    model_validator,
)

if TYPE_CHECKING:
    from mp_pipeline.storage import Lake

_log = logging.getLogger(__name__)

ExtraAsset = Literal["groups", "cohorts", "annotations", "lexicon"]
"""What MIXPANEL_EXTRA_ASSETS switches on: each costs requests, and not every plan has it."""

CREDENTIALS = (
    "MIXPANEL_PROJECT_ID",
    "MIXPANEL_SERVICE_ACCOUNT_USERNAME",
    "MIXPANEL_SERVICE_ACCOUNT_SECRET",
)

_SECRETS = (*CREDENTIALS, "MP_PIPELINE_RATE_LIMITS")
"""Variables whose values are never shown."""

RENAMED = {
    "MP_PIPELINE_MAX_REJECTED_SHARE": "MP_PIPELINE_MAX_REJECTED_FRACTION",
    "MP_PIPELINE_STATE_FOLDER": "MP_PIPELINE_STATE_DIRECTORY",
}
"""Old names of variables, which still work, and their new names."""

_OTHER_STORAGE = re.compile("(?!s3:)[A-Za-z0-9]+://")
_SIZE = re.compile(r"(?=.*[1-9])\d+(\.\d+)?\s*[KMGT]i?B", re.IGNORECASE)


class SettingsError(Exception):
    """A variable has an invalid value. The message names each such variable and the problem."""


class Settings(BaseModel):
    """The settings of one Mixpanel project.

    Each field but ``prefix`` is the environment variable of the same name in capitals.
    ``load_settings`` reads them; code may also make them directly.

    Example:
        >>> Settings(mixpanel_project_timezone="Europe/Berlin").zone
        zoneinfo.ZoneInfo(key='Europe/Berlin')
    """

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    prefix: str | None = None
    """Prefix of the variables that these settings were read from; None if they were not."""

    mixpanel_project_id: str | None = None
    mixpanel_service_account_username: SecretStr | None = None
    mixpanel_service_account_secret: SecretStr | None = None
    mixpanel_region: Literal["us", "eu", "in"] = "us"
    """Region in which Mixpanel stores the project's data."""
    mixpanel_export_url: HttpUrl | None = None
    """Base URL of the raw export API, overriding the region's; ``/export`` is appended."""
    mixpanel_query_url: HttpUrl | None = None
    """Base URL of the query API, overriding the region's; ``/engage`` is appended. The app API is
    ``app`` beside it."""
    mixpanel_project_timezone: str = "UTC"
    """The project's time zone, which sets day boundaries."""
    mixpanel_local_timestamps: bool = False
    """Whether ``time`` is local wall-clock time, as in projects created before 2023."""
    mixpanel_start_date: date = date(2024, 1, 1)
    """The first partition."""
    mixpanel_events: tuple[str, ...] | None = None
    """Names of the events to export (a JSON array or a comma-separated list); None for all."""
    mixpanel_where: str | None = None
    """A segmentation expression that filters the export."""
    mixpanel_profiles_where: str | None = None
    """A segmentation expression that filters the user profiles."""
    mixpanel_profiles_properties: tuple[str, ...] | None = None
    """Names of the profile properties to load, written as ``mixpanel_events``; None for all."""
    mixpanel_extra_assets: tuple[ExtraAsset, ...] = ()
    """Assets besides events and profiles: ``groups``, ``cohorts`` (with their members),
    ``annotations``, ``lexicon``."""
    mixpanel_groups: dict[str, str] | None = None
    """Group keys and data group ids, such as ``company=-123,account=456``; None for those that
    Mixpanel lists."""
    mixpanel_cohorts: tuple[str, ...] | None = None
    """Names or ids of the cohorts whose members to load; None for all."""
    mixpanel_prefetch: int = Field(default=1, ge=0)
    """Downloads to prefetch while a day is loaded."""
    mixpanel_days_per_request: int = Field(default=1, ge=1)
    """Days per export request of a range run; raise it when backfilling small projects."""
    mixpanel_exports_per_hour: int | None = Field(default=None, ge=1)
    """Export requests allowed per hour; None for 60, or what Mixpanel states."""
    mixpanel_exports_per_second: int | None = Field(default=None, ge=1)
    """Export requests allowed per second; None for 3, or what Mixpanel states."""
    mixpanel_queries_per_hour: int | None = Field(default=None, ge=1)
    """Profile snapshots allowed per hour; None for 60, or what Mixpanel states."""
    mixpanel_concurrent_queries: int = Field(default=5, ge=1)
    """Concurrent profile requests allowed; a snapshot uses as many."""
    mp_pipeline_database: str | Path | None = None
    """The DuckDB file, or a lake: ``ducklake:postgres:dbname=… host=…``, ``ducklake:sqlite:FILE``
    or ``ducklake:FILE``."""
    mp_pipeline_data_path: str | None = None
    """Where the data files of a lake are: a directory, or ``s3://bucket/prefix/``."""
    mp_pipeline_s3_endpoint: str | None = None
    """URL of an S3 server other than Amazon's."""
    mp_pipeline_s3_region: str | None = None
    """Region of the object storage."""
    mp_pipeline_s3_key_id: SecretStr | None = None
    """Access key ID; without one, credentials are looked for where Amazon's tools do."""
    mp_pipeline_s3_secret: SecretStr | None = None
    """Secret access key."""
    mp_pipeline_snapshot_days: int = Field(default=7, ge=1)
    """Days for which earlier states of a lake stay readable."""
    mp_pipeline_download_directory: Path | None = None
    """Where runs download to; by default beside the database file, and for a lake in ``data``."""
    mp_pipeline_lock_timeout: float = Field(default=300.0, ge=0)
    """How long to wait while another process holds the database, in seconds."""
    mp_pipeline_max_rejected_fraction: float = Field(default=0.01, ge=0, le=1)
    """Fraction of the lines of a load that may be rejected; above this the load fails."""
    mp_pipeline_max_missing_fraction: float = Field(default=0.01, ge=0, le=1)
    """Fraction of the profiles that Mixpanel announces that a snapshot may lack; above this it
    fails, and the existing snapshot is kept."""
    mp_pipeline_min_kept_fraction: float = Field(default=0.5, ge=0, le=1)
    """Fraction of the stored rows of a day, or of profiles and groups, that a reload must contain
    too, by key; below this the existing data is kept."""
    mixpanel_retention_days: int | None = Field(default=None, ge=1)
    """Days after which Mixpanel deletes events. Older days that are loaded are not requested
    again. None if it does not delete them."""
    mixpanel_reconcile: bool | None = None
    """Whether a check compares the stored events with Mixpanel's own counts; None for the sample
    project alone."""
    mp_pipeline_typed_events: bool = True
    """Whether each loaded day is typed: one table per event, with a column for each property."""
    mp_pipeline_metrics: bool = True
    """Whether identities, sessions, daily metrics and the history of profiles are made."""
    mp_pipeline_session_minutes: float = Field(default=30.0, ge=1, le=1440)
    """Minutes of inactivity that end a session."""
    mp_pipeline_track_last_seen: bool = False
    """Whether a profile gets a new version in the history when only ``last_seen`` changed."""
    mp_pipeline_memory_limit: str | None = None
    """DuckDB's memory limit, such as ``2GB``; by default 80 % of the machine's memory."""
    mp_pipeline_threads: int | None = Field(default=None, ge=1)
    """DuckDB's number of threads; by default one per core."""
    mp_pipeline_temp_directory: Path | None = None
    """Where DuckDB spills data that does not fit in memory; by default beside the database."""
    mp_pipeline_state_directory: Path | None = None
    """Where the processes of this machine share their request counts; by default the user's
    state directory."""
    mp_pipeline_rate_limits: SecretStr | None = None
    """URL of the PostgreSQL database in which the workers of several machines share their request
    counts, such as ``postgresql://user:password@host/dbname``; None for the state directory."""
    mp_pipeline_days_per_run: int | None = Field(default=None, ge=1)
    """Days per run of a backfill; None for one run per range."""
    mp_pipeline_trailing_days: int = Field(default=7, ge=1)
    """Trailing days that the daily schedule reloads, for late-arriving events."""
    mp_pipeline_deadline_hours: float = Field(default=6.0, gt=2, le=24)
    """Hours after the project's midnight by which yesterday must be loaded."""

    @field_validator(*(name.lower() for name in CREDENTIALS), mode="before")
    @classmethod
    def _strip(cls, value: object) -> object:
        return (value.strip() or None) if isinstance(value, str) else value

    @field_validator("mixpanel_export_url", "mixpanel_query_url", mode="before")
    @classmethod
    def _require_no_credentials(cls, value: object) -> object:
        if isinstance(value, str) and "@" in value:
            raise ValueError("must not contain credentials; they have their own variables")
        return value

    @field_validator("mixpanel_start_date", mode="before")
    @classmethod
    def _require_date(cls, value: object) -> object:
        if isinstance(value, str) and not re.fullmatch(r"\d{4}-\d{2}-\d{2}", value.strip()):
            raise ValueError("is not a date such as 2024-01-15")
        return value

    @field_validator("mp_pipeline_database", mode="before")
    @classmethod
    def _require_database(cls, value: object) -> object:
        if value is None:
            return None
        text = str(value)
        from mp_pipeline.storage import Lake, path_problem  # imports DuckDB, not needed by default

        if text.startswith("ducklake:"):
            Lake.parse(text, "data", Path())
        elif problem := path_problem(Path(text)):
            raise ValueError(problem)
        elif Path(text).is_dir():
            raise ValueError("is a directory, not a file")
        return text

    @field_validator("mp_pipeline_memory_limit")
    @classmethod
    def _require_size(cls, value: str | None) -> str | None:
        if value is not None and not _SIZE.fullmatch(value):
            raise ValueError("is not a size such as 2GB or 1.5GiB")
        return value

    @field_validator(
        "mp_pipeline_download_directory",
        "mp_pipeline_temp_directory",
        "mp_pipeline_state_directory",
    )
    @classmethod
    def _require_directory(cls, value: Path | None) -> Path | None:
        if value is None:
            return None
        directory = value.expanduser().absolute()
        if directory.exists() and not directory.is_dir():
            raise ValueError("is not a directory")
        return directory

    @field_validator("mp_pipeline_rate_limits")
    @classmethod
    def _require_postgres_url(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            from mp_pipeline.mixpanel import PostgresDatabase

            PostgresDatabase(value.get_secret_value())
        return value

    @field_validator("mixpanel_region", mode="before")
    @classmethod
    def _lower(cls, value: object) -> object:
        return value.lower() if isinstance(value, str) else value

    @field_validator(
        "mixpanel_events", "mixpanel_profiles_properties", "mixpanel_cohorts", mode="before"
    )
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

    @field_validator("mixpanel_extra_assets", mode="before")
    @classmethod
    def _require_extra_assets(cls, value: object) -> object:
        names = cls._split(value) or ()
        known = get_args(ExtraAsset)
        if isinstance(names, tuple) and (unknown := [name for name in names if name not in known]):
            raise ValueError(f"does not know {unknown[0]!r}; it may name {', '.join(known)}")
        return names

    @field_validator("mixpanel_groups", mode="before")
    @classmethod
    def _split_groups(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        pairs = [pair.strip().rpartition("=") for pair in value.split(",") if pair.strip()]
        return {key.strip(): data_group_id.strip() for key, _, data_group_id in pairs} or None

    @field_validator("mixpanel_groups")
    @classmethod
    def _require_group_ids(cls, value: dict[str, str] | None) -> dict[str, str] | None:
        for key, data_group_id in (value or {}).items():
            if not key or not re.fullmatch(r"-?\d{1,19}", data_group_id):
                raise ValueError(
                    "is not a list of group keys and data group ids, such as company=-123"
                )
        return value

    @field_validator("mixpanel_project_timezone")
    @classmethod
    def _require_zone(cls, value: str) -> str:
        if value not in available_timezones():
            raise ValueError("is not an IANA time zone, such as Europe/Berlin")
        return value

    @model_validator(mode="after")
    def _require_all_credentials_or_none(self) -> Self:
        missing = [name for name in CREDENTIALS if getattr(self, name.lower()) is None]
        if missing and len(missing) < len(CREDENTIALS):
            raise ValueError(
                f"{' and '.join(map(self.variable, missing))} must be set too: set all three "
                "credentials, or none of them to use the sample project"
            )
        if missing and (self.mixpanel_export_url or self.mixpanel_query_url):
            urls = " or ".join(map(self.variable, ("MIXPANEL_EXPORT_URL", "MIXPANEL_QUERY_URL")))
            raise ValueError(
                f"{urls} is set, but the credentials are not: set "
                + ", ".join(map(self.variable, CREDENTIALS))
            )
        return self

    @model_validator(mode="after")
    def _require_settings_of_a_lake(self) -> Self:
        if not self.is_lake:  # then `mp-pipeline migrate` uses them
            return self
        if (self.mp_pipeline_s3_key_id is None) != (self.mp_pipeline_s3_secret is None):
            names = ("MP_PIPELINE_S3_KEY_ID", "MP_PIPELINE_S3_SECRET")
            raise ValueError(f"set both or none of {' and '.join(map(self.variable, names))}")
        is_local = not (self.mp_pipeline_data_path or "").strip()
        if is_local and str(self.mp_pipeline_database).startswith("ducklake:postgres:"):
            raise ValueError(
                f"{self.variable('MP_PIPELINE_DATA_PATH')} must be set too: a directory or "
                "s3://bucket/prefix/ for the data files of the lake"
            )
        if _OTHER_STORAGE.match(self.mp_pipeline_data_path or ""):
            raise ValueError(
                f"{self.variable('MP_PIPELINE_DATA_PATH')} must be a directory or "
                "s3://bucket/prefix/"
            )
        return self

    def variable(self, name: str) -> str:
        """Return the full name of an environment variable, prefix included."""
        return f"{self.prefix or ''}{name}"

    @property
    def is_sample(self) -> bool:
        """Whether the sample project is used because no credentials are set."""
        return self.mixpanel_project_id is None

    @property
    def reconciles(self) -> bool:
        """Whether a check compares the stored events with Mixpanel's own counts."""
        return self.is_sample if self.mixpanel_reconcile is None else self.mixpanel_reconcile

    @property
    def is_lake(self) -> bool:
        """Whether the database is a lake."""
        return str(self.mp_pipeline_database).startswith("ducklake:")

    @property
    def database(self) -> "Path | Lake":
        """The DuckDB file as an absolute path, or the lake. Sample data has a file of its own."""
        if self.is_lake:
            from mp_pipeline.storage import S3, Lake

            key_id, secret = self.mp_pipeline_s3_key_id, self.mp_pipeline_s3_secret
            return Lake.parse(
                str(self.mp_pipeline_database),
                self.mp_pipeline_data_path,
                self.mp_pipeline_temp_directory or self.download_directory,
                S3(
                    self.mp_pipeline_s3_endpoint,
                    self.mp_pipeline_s3_region,
                    None if key_id is None else key_id.get_secret_value(),
                    None if secret is None else secret.get_secret_value(),
                ),
            )
        kind = "sample" if self.is_sample else "mixpanel"
        default = Path("data") / f"{(self.prefix or '').lower()}{kind}.duckdb"
        return Path(self.mp_pipeline_database or default).expanduser().absolute()

    @property
    def download_directory(self) -> Path:
        """Where runs download to, as an absolute path."""
        if self.mp_pipeline_download_directory is not None:
            return self.mp_pipeline_download_directory
        database = Path("data") / "lake" if self.is_lake else self.database
        return Path(str(database)).absolute().parent

    @property
    def database_options(self) -> dict[str, str]:
        """DuckDB's configuration options by name; empty to use its defaults."""
        options = {
            "memory_limit": self.mp_pipeline_memory_limit,
            "threads": self.mp_pipeline_threads,
            "temp_directory": self.mp_pipeline_temp_directory,
        }
        return {name: str(value) for name, value in options.items() if value is not None}

    @property
    def state_directory(self) -> Path:
        """Where the processes of this machine share their request counts, as an absolute path."""
        default = platformdirs.user_state_path("mp_pipeline", appauthor=False)
        return self.mp_pipeline_state_directory or default

    @property
    def zone(self) -> ZoneInfo:
        """The project's time zone, which sets day boundaries."""
        return ZoneInfo(self.mixpanel_project_timezone)

    @property
    def session_timeout(self) -> timedelta:
        """The inactivity that ends a session."""
        return timedelta(minutes=self.mp_pipeline_session_minutes)

    @property
    def wall_clock_zone(self) -> str:
        """The zone whose wall clock the export's ``time`` shows; ``UTC`` if ``time`` is UTC."""
        return self.mixpanel_project_timezone if self.mixpanel_local_timestamps else "UTC"


@cache
def load_settings(prefix: str = "") -> Settings:
    """Read the settings from the environment, after ``.env`` in the working directory.

    Variables in ``.env`` are added to the environment, where Dagster's ``EnvVar`` finds them,
    unless they are set already. An empty variable counts as not set. Each prefix is read once per
    process.

    Args:
        prefix: What the names of the variables start with, such as ``SHOP_`` for
            ``SHOP_MIXPANEL_PROJECT_ID``. It lets one process serve several projects.

    Returns:
        The settings.

    Raises:
        SettingsError: Variables have invalid values. Names each variable and the problem; the
            values of secrets are not shown.
    """
    dotenv.load_dotenv(Path.cwd() / ".env")
    values: dict[str, str] = {}
    for old, new in RENAMED.items():
        if value := os.environ.get(prefix + old):
            _log.warning("%s is now called %s; rename it", prefix + old, prefix + new)
            values[new.lower()] = value
    for name in Settings.model_fields:
        if value := os.environ.get(prefix + name.upper()):
            values[name] = value
    try:
        return Settings.model_validate(values | {"prefix": prefix})
    except ValidationError as error:
        problems = error.errors(include_url=False)
        raise SettingsError("\n".join(_describe(problem, prefix) for problem in problems)) from None


def _describe(problem: Any, prefix: str) -> str:  # noqa: ANN401 - pydantic's own dictionary
    message = str(problem["msg"]).removeprefix("Value error, ")
    if not problem["loc"]:
        return message
    name = str(problem["loc"][0]).upper()
    secret = name in _SECRETS or re.search("@|password", str(problem["input"])) is not None
    shown = "" if secret else f" ({problem['input']!r})"
    return f"{prefix}{name}{shown}: {message}"
