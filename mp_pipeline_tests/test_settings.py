"""Settings: what the variables mean, and what is said of those that cannot be used."""

import logging
from datetime import date
from pathlib import Path
from zoneinfo import ZoneInfo

import pytest

from mp_pipeline.settings import (
    CREDENTIALS,
    RENAMED,
    Settings,
    SettingsError,
    load_settings,
)
from mp_pipeline.storage import S3, Lake
from mp_pipeline_tests.support.processes import run_python

SECRET = "correct-horse-battery"
USERNAME = "robot.7a3f"
RATE_LIMITS = f"postgresql://{USERNAME}:{SECRET}@db.example:5432/limits"
ACCOUNT = dict(zip(CREDENTIALS, ("1234567", USERNAME, SECRET), strict=True))

VARIABLES = [name.upper() for name in Settings.model_fields if name != "prefix"]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No variables, and no `.env` file."""
    for name in (*VARIABLES, *RENAMED):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


def settings(monkeypatch: pytest.MonkeyPatch, **variables: str) -> Settings:
    """Return the settings of an environment, uncached."""
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    return load_settings.__wrapped__()


def problem(monkeypatch: pytest.MonkeyPatch, **variables: str) -> str:
    """Return the message for an environment that cannot be used."""
    with pytest.raises(SettingsError) as caught:
        settings(monkeypatch, **variables)
    return str(caught.value)


def test_nothing_set_is_the_sample_project(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = settings(monkeypatch)
    assert found.is_sample
    assert found.database == tmp_path / "data" / "sample.duckdb"
    assert found.mixpanel_region == "us"
    assert found.mixpanel_export_url is None
    assert found.mixpanel_query_url is None
    assert found.zone == ZoneInfo("UTC")
    assert found.wall_clock_zone == "UTC"
    assert found.mixpanel_start_date == date(2024, 1, 1)
    assert found.mixpanel_events is None
    assert found.mixpanel_where is None
    assert found.mixpanel_prefetch == 1
    assert found.mixpanel_days_per_request == 1
    assert found.mixpanel_exports_per_hour is found.mixpanel_queries_per_hour is None
    assert found.mixpanel_exports_per_second is None
    assert found.mixpanel_concurrent_queries == 5
    assert found.mixpanel_reconcile is None
    assert found.reconciles
    assert found.mp_pipeline_state_directory is None
    assert found.mp_pipeline_rate_limits is None
    assert found.mp_pipeline_days_per_run is None
    assert found.mp_pipeline_trailing_days == 7
    assert found.mp_pipeline_deadline_hours == 6
    assert found.mp_pipeline_lock_timeout == 300
    assert found.mp_pipeline_max_rejected_fraction == 0.01
    assert found.mp_pipeline_max_missing_fraction == 0.01
    assert found.database_options == {}


def test_everything_set(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(
        monkeypatch,
        **ACCOUNT,
        MIXPANEL_REGION="eu",
        MIXPANEL_EXPORT_URL="http://127.0.0.1:8080/api/2.0",
        MIXPANEL_QUERY_URL="https://proxy.example.com/api/query",
        MIXPANEL_PROJECT_TIMEZONE="Europe/Berlin",
        MIXPANEL_LOCAL_TIMESTAMPS="true",
        MIXPANEL_START_DATE="2023-06-30",
        MIXPANEL_EVENTS='["Sign Up"]',
        MIXPANEL_WHERE='properties["plan"] == "family"',
        MP_PIPELINE_DATABASE="/srv/analytics.duckdb",
        MIXPANEL_PREFETCH="0",
        MIXPANEL_DAYS_PER_REQUEST="30",
        MIXPANEL_EXPORTS_PER_HOUR="100",
        MIXPANEL_EXPORTS_PER_SECOND="4",
        MIXPANEL_QUERIES_PER_HOUR="400",
        MIXPANEL_CONCURRENT_QUERIES="6",
        MIXPANEL_RECONCILE="true",
        MP_PIPELINE_STATE_DIRECTORY="/srv/state",
        MP_PIPELINE_RATE_LIMITS=RATE_LIMITS,
        MP_PIPELINE_DAYS_PER_RUN="31",
        MP_PIPELINE_TRAILING_DAYS="10",
        MP_PIPELINE_DEADLINE_HOURS="8.5",
        MP_PIPELINE_LOCK_TIMEOUT="2.5",
        MP_PIPELINE_MAX_REJECTED_FRACTION="0.2",
        MP_PIPELINE_MAX_MISSING_FRACTION="0.05",
        MP_PIPELINE_MEMORY_LIMIT="1.5 GiB",
        MP_PIPELINE_THREADS="3",
        MP_PIPELINE_TEMP_DIRECTORY="/srv/spill",
    )
    assert not found.is_sample
    assert found.mixpanel_project_id == "1234567"
    assert found.mixpanel_service_account_username is not None
    assert found.mixpanel_service_account_username.get_secret_value() == USERNAME
    assert found.mixpanel_service_account_secret is not None
    assert found.mixpanel_service_account_secret.get_secret_value() == SECRET
    assert found.mixpanel_region == "eu"
    assert str(found.mixpanel_export_url) == "http://127.0.0.1:8080/api/2.0"
    assert str(found.mixpanel_query_url) == "https://proxy.example.com/api/query"
    assert found.zone == ZoneInfo("Europe/Berlin")
    assert found.wall_clock_zone == "Europe/Berlin"
    assert found.mixpanel_start_date == date(2023, 6, 30)
    assert found.mixpanel_events == ("Sign Up",)
    assert found.mixpanel_where == 'properties["plan"] == "family"'
    assert found.database == Path("/srv/analytics.duckdb")
    assert found.mixpanel_prefetch == 0
    assert found.mixpanel_days_per_request == 30
    assert found.mixpanel_exports_per_hour == 100
    assert found.mixpanel_exports_per_second == 4
    assert found.mixpanel_queries_per_hour == 400
    assert found.mixpanel_concurrent_queries == 6
    assert found.reconciles
    assert found.mp_pipeline_state_directory == Path("/srv/state")
    assert found.mp_pipeline_rate_limits is not None
    assert found.mp_pipeline_rate_limits.get_secret_value() == RATE_LIMITS
    assert found.mp_pipeline_days_per_run == 31
    assert found.mp_pipeline_trailing_days == 10
    assert found.mp_pipeline_deadline_hours == 8.5
    assert found.mp_pipeline_lock_timeout == 2.5
    assert found.mp_pipeline_max_rejected_fraction == 0.2
    assert found.mp_pipeline_max_missing_fraction == 0.05
    assert found.database_options == {
        "memory_limit": "1.5 GiB",
        "threads": "3",
        "temp_directory": "/srv/spill",
    }


def test_credentials_select_the_database_for_real_data(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    assert settings(monkeypatch, **ACCOUNT).database == tmp_path / "data" / "mixpanel.duckdb"


def test_the_database_of_the_sample_can_be_set(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    found = settings(monkeypatch, MP_PIPELINE_DATABASE="try.duckdb")
    assert found.is_sample
    assert found.database == tmp_path / "try.duckdb"


def test_database_in_the_home_directory(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, MP_PIPELINE_DATABASE="~/mixpanel.duckdb")
    assert found.database == Path.home() / "mixpanel.duckdb"


def test_an_empty_variable_counts_as_not_set(monkeypatch: pytest.MonkeyPatch) -> None:
    unset = settings(monkeypatch)
    assert settings(monkeypatch, **dict.fromkeys(VARIABLES, "")) == unset


@pytest.mark.parametrize("name", CREDENTIALS)
def test_one_empty_credential_is_missing(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    message = problem(monkeypatch, **(ACCOUNT | {name: ""}))
    assert message.startswith(f"{name} must be set too")


@pytest.mark.parametrize("text", ["eu", "EU", "Eu"])
def test_region_in_any_case(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    assert settings(monkeypatch, MIXPANEL_REGION=text).mixpanel_region == "eu"


def test_unknown_region_names_variable_value_and_choices(monkeypatch: pytest.MonkeyPatch) -> None:
    message = problem(monkeypatch, MIXPANEL_REGION="asia")
    assert message == "MIXPANEL_REGION ('asia'): Input should be 'us', 'eu' or 'in'"


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("Sign Up", ("Sign Up",)),
        ("Sign Up,Song Played", ("Sign Up", "Song Played")),
        (" Sign Up , Song Played ,", ("Sign Up", "Song Played")),
        ('["Sign Up", "Song Played"]', ("Sign Up", "Song Played")),
        ('  ["Comma, in a name"]', ("Comma, in a name",)),
    ],
)
def test_events_as_list_or_json(
    monkeypatch: pytest.MonkeyPatch, text: str, names: tuple[str, ...]
) -> None:
    assert settings(monkeypatch, MIXPANEL_EVENTS=text).mixpanel_events == names


@pytest.mark.parametrize("text", ['["Sign Up"', "[Sign Up]"])
def test_events_that_are_not_valid_json(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    message = problem(monkeypatch, MIXPANEL_EVENTS=text)
    assert message.startswith(f"MIXPANEL_EVENTS ({text!r}): is not a JSON array")


def test_events_that_are_not_names(monkeypatch: pytest.MonkeyPatch) -> None:
    message = problem(monkeypatch, MIXPANEL_EVENTS='["Sign Up", 7]')
    assert message == "MIXPANEL_EVENTS (7): Input should be a valid string"


@pytest.mark.parametrize(
    "missing",
    [
        CREDENTIALS[:1],
        CREDENTIALS[1:2],
        CREDENTIALS[2:],
        CREDENTIALS[:2],
        CREDENTIALS[1:],
        (CREDENTIALS[0], CREDENTIALS[2]),
    ],
)
def test_incomplete_credentials_name_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, missing: tuple[str, ...]
) -> None:
    there = {name: value for name, value in ACCOUNT.items() if name not in missing}
    message = problem(monkeypatch, **there)
    assert message.startswith(f"{' and '.join(missing)} must be set too")
    assert "sample project" in message
    assert not any(name in message for name in there)
    assert SECRET not in message
    assert USERNAME not in message


@pytest.mark.parametrize("name", ["MIXPANEL_EXPORT_URL", "MIXPANEL_QUERY_URL"])
def test_url_without_credentials(monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    message = problem(monkeypatch, **{name: "http://127.0.0.1:8080/api"})
    assert name in message
    assert all(credential in message for credential in CREDENTIALS)


@pytest.mark.parametrize("text", ["localhost:8080/api", "ftp://example.com", "/api/2.0"])
def test_text_that_is_not_a_url(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    message = problem(monkeypatch, **ACCOUNT, MIXPANEL_EXPORT_URL=text)
    assert message.startswith(f"MIXPANEL_EXPORT_URL ({text!r}): ")


@pytest.mark.parametrize("text", ["Berlin", "CEST", "europe/berlin", "+01:00", "../etc/passwd"])
def test_unknown_time_zone(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    message = problem(monkeypatch, MIXPANEL_PROJECT_TIMEZONE=text)
    assert message.startswith(f"MIXPANEL_PROJECT_TIMEZONE ({text!r}): ")
    assert "Europe/Berlin" in message


@pytest.mark.parametrize("text", ["true", "True", "1", "yes", "on"])
def test_local_timestamps_are_in_the_projects_zone(
    monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    zone = {"MIXPANEL_PROJECT_TIMEZONE": "America/New_York"}
    found = settings(monkeypatch, MIXPANEL_LOCAL_TIMESTAMPS=text, **zone)
    assert found.wall_clock_zone == "America/New_York"


@pytest.mark.parametrize("text", ["false", "0", "no", ""])
def test_timestamps_are_utc_in_other_zones_too(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    zone = {"MIXPANEL_PROJECT_TIMEZONE": "America/New_York"}
    found = settings(monkeypatch, MIXPANEL_LOCAL_TIMESTAMPS=text, **zone)
    assert found.zone == ZoneInfo("America/New_York")
    assert found.wall_clock_zone == "UTC"


def test_text_that_is_not_a_boolean(monkeypatch: pytest.MonkeyPatch) -> None:
    message = problem(monkeypatch, MIXPANEL_LOCAL_TIMESTAMPS="maybe")
    assert message.startswith("MIXPANEL_LOCAL_TIMESTAMPS ('maybe'): ")
    assert "boolean" in message


@pytest.mark.parametrize("text", ["yesterday", "2024-02-30", "15.01.2024", "2024-01"])
def test_text_that_is_not_a_date(monkeypatch: pytest.MonkeyPatch, text: str) -> None:
    message = problem(monkeypatch, MIXPANEL_START_DATE=text)
    assert message.startswith(f"MIXPANEL_START_DATE ({text!r}): ")
    assert "date" in message


@pytest.mark.parametrize("text", ["-1", "soon", "nan"])
@pytest.mark.parametrize(
    "variable",
    ["MP_PIPELINE_LOCK_TIMEOUT", "MP_PIPELINE_MAX_REJECTED_FRACTION", "MIXPANEL_PREFETCH"],
)
def test_text_that_is_not_a_number(
    monkeypatch: pytest.MonkeyPatch, variable: str, text: str
) -> None:
    assert problem(monkeypatch, **{variable: text}).startswith(f"{variable} ({text!r}): ")


def test_fraction_above_one(monkeypatch: pytest.MonkeyPatch) -> None:
    message = problem(monkeypatch, MP_PIPELINE_MAX_REJECTED_FRACTION="5")
    assert message.startswith("MP_PIPELINE_MAX_REJECTED_FRACTION ('5'): ")


@pytest.mark.parametrize(
    ("variable", "text"),
    [
        ("MP_PIPELINE_MEMORY_LIMIT", "2"),
        ("MP_PIPELINE_MEMORY_LIMIT", "0GB"),
        ("MP_PIPELINE_MEMORY_LIMIT", "much"),
        ("MP_PIPELINE_THREADS", "0"),
        ("MP_PIPELINE_THREADS", "many"),
        ("MIXPANEL_DAYS_PER_REQUEST", "0"),
        ("MIXPANEL_EXPORTS_PER_HOUR", "0"),
        ("MP_PIPELINE_DAYS_PER_RUN", "0"),
        ("MP_PIPELINE_TRAILING_DAYS", "-7"),
        ("MP_PIPELINE_DEADLINE_HOURS", "0"),
        ("MP_PIPELINE_STATE_DIRECTORY", "/dev/null"),
        ("MP_PIPELINE_TEMP_DIRECTORY", "/dev/null"),
    ],
    ids=str,
)
def test_value_out_of_range(monkeypatch: pytest.MonkeyPatch, variable: str, text: str) -> None:
    assert problem(monkeypatch, **{variable: text}).startswith(variable)


def test_every_problem_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    message = problem(
        monkeypatch,
        **ACCOUNT,
        MIXPANEL_REGION="asia",
        MIXPANEL_PROJECT_TIMEZONE="Berlin",
        MIXPANEL_START_DATE="soon",
    )
    lines = message.splitlines()
    assert [line.split(" ")[0] for line in lines] == [
        "MIXPANEL_REGION",
        "MIXPANEL_PROJECT_TIMEZONE",
        "MIXPANEL_START_DATE",
    ]
    assert SECRET not in message
    assert USERNAME not in message


@pytest.mark.parametrize("url", ["mysql://user:{}@host/db", "user:{}", "postgresql://user:{}#@db"])
def test_a_url_that_is_refused_is_not_shown(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    message = problem(monkeypatch, MP_PIPELINE_RATE_LIMITS=url.format(SECRET))
    assert message.startswith("MP_PIPELINE_RATE_LIMITS: is not a URL such as postgresql://user:")
    assert SECRET not in message


def test_settings_show_no_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    found = settings(monkeypatch, **ACCOUNT, MP_PIPELINE_RATE_LIMITS=RATE_LIMITS)
    for shown in (repr(found), str(found), f"{found.model_dump()}", found.model_dump_json()):
        assert "1234567" in shown
        assert SECRET not in shown
        assert USERNAME not in shown


@pytest.mark.parametrize(
    ("old", "new", "field", "value"),
    [
        (
            "MP_PIPELINE_MAX_REJECTED_SHARE",
            "MP_PIPELINE_MAX_REJECTED_FRACTION",
            "mp_pipeline_max_rejected_fraction",
            0.25,
        ),
        (
            "MP_PIPELINE_STATE_FOLDER",
            "MP_PIPELINE_STATE_DIRECTORY",
            "mp_pipeline_state_directory",
            Path("/srv/state"),
        ),
    ],
)
@pytest.mark.parametrize("prefix", ["", "SHOP_"])
def test_the_old_name_of_a_variable_still_works_with_a_warning(
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    old: str,
    new: str,
    field: str,
    value: object,
    prefix: str,
) -> None:
    monkeypatch.setenv(prefix + old, str(value))
    load_settings.cache_clear()
    with caplog.at_level(logging.WARNING):
        assert getattr(load_settings(prefix), field) == value
        load_settings(prefix)  # read once per process, so it warns once
    load_settings.cache_clear()
    assert [(record.levelname, record.getMessage()) for record in caplog.records] == [
        ("WARNING", f"{prefix}{old} is now called {prefix}{new}; rename it")
    ]


@pytest.mark.parametrize("old", RENAMED)
def test_the_new_name_of_a_variable_wins(monkeypatch: pytest.MonkeyPatch, old: str) -> None:
    new = RENAMED[old]
    values = {"FRACTION": ("0.5", "0.25"), "DIRECTORY": ("/old", "/new")}[new.split("_")[-1]]
    monkeypatch.setenv(old, values[0])
    found = settings(monkeypatch, **{new: values[1]})
    assert str(getattr(found, new.lower())) == values[1]


def test_every_renamed_variable_is_tested() -> None:
    assert sorted(RENAMED) == ["MP_PIPELINE_MAX_REJECTED_SHARE", "MP_PIPELINE_STATE_FOLDER"]
    assert {name.lower() for name in RENAMED.values()} <= set(Settings.model_fields)


def test_no_warning_without_an_old_name(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    settings(monkeypatch, MP_PIPELINE_MAX_REJECTED_FRACTION="0.5")
    assert caplog.records == []


def test_a_prefix_selects_the_variables(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    shop = {f"SHOP_{name}": value for name, value in ACCOUNT.items()}
    monkeypatch.setenv("MIXPANEL_REGION", "eu")
    monkeypatch.setenv("SHOP_MIXPANEL_REGION", "in")
    for name, value in shop.items():
        monkeypatch.setenv(name, value)
    found = load_settings.__wrapped__("SHOP_")
    assert found.mixpanel_region == "in"
    assert found.mixpanel_project_id == ACCOUNT["MIXPANEL_PROJECT_ID"]
    assert found.database == tmp_path / "data" / "shop_mixpanel.duckdb"
    assert found.variable("MIXPANEL_WHERE") == "SHOP_MIXPANEL_WHERE"
    sample = load_settings.__wrapped__("BLOG_")
    assert (sample.is_sample, sample.mixpanel_region) == (True, "us")
    assert sample.database == tmp_path / "data" / "blog_sample.duckdb"


def test_a_message_names_the_variable_with_its_prefix(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_MIXPANEL_REGION", "asia")
    monkeypatch.setenv("SHOP_MIXPANEL_PROJECT_TIMEZONE", "Berlin")
    with pytest.raises(SettingsError) as caught:
        load_settings.__wrapped__("SHOP_")
    assert [line.split(" ")[0] for line in str(caught.value).splitlines()] == [
        "SHOP_MIXPANEL_REGION",
        "SHOP_MIXPANEL_PROJECT_TIMEZONE",
    ]


def test_incomplete_credentials_are_named_with_their_prefix(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("SHOP_MIXPANEL_PROJECT_ID", "7")
    with pytest.raises(SettingsError) as caught:
        load_settings.__wrapped__("SHOP_")
    assert str(caught.value).startswith(
        "SHOP_MIXPANEL_SERVICE_ACCOUNT_USERNAME and SHOP_MIXPANEL_SERVICE_ACCOUNT_SECRET must be "
        "set too"
    )


def test_settings_in_code_do_not_read_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MIXPANEL_REGION", "eu")
    monkeypatch.setenv("MP_PIPELINE_DATABASE", "/srv/other.duckdb")
    monkeypatch.setenv("PREFIX", "/usr")
    found = Settings(mixpanel_where="true")
    assert (found.mixpanel_region, found.mp_pipeline_database, found.prefix) == ("us", None, None)
    assert found.mixpanel_where == "true"


SHOW = """
    import os
    from mp_pipeline.settings import load_settings
    settings = load_settings()
    print(settings.mixpanel_region, settings.mixpanel_project_timezone, settings.database.name)
    print(os.environ.get("MIXPANEL_REGION"))
"""


def test_env_file_is_read_and_the_environment_wins(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        "# Settings of a test.\nMIXPANEL_REGION=in\nMIXPANEL_PROJECT_TIMEZONE='Asia/Kolkata'\n"
        "export MP_PIPELINE_DATABASE=from-env-file.duckdb\n"
    )
    done = run_python(SHOW, tmp_path, MP_PIPELINE_DATABASE="from-environment.duckdb")
    assert done.stdout.splitlines() == ["in Asia/Kolkata from-environment.duckdb", "in"]
    assert done.stderr == ""


def test_env_file_of_a_parent_directory_is_not_read(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text("MIXPANEL_REGION=in\n")
    directory = tmp_path / "below"
    directory.mkdir()
    done = run_python(SHOW, directory)
    assert done.stdout.splitlines() == ["us UTC sample.duckdb", "None"]


def test_an_error_shows_no_secret_in_its_traceback(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(
        f"MIXPANEL_SERVICE_ACCOUNT_SECRET={SECRET}\n"
        f"MIXPANEL_SERVICE_ACCOUNT_USERNAME={USERNAME}\nMIXPANEL_REGION=asia\n"
    )
    done = run_python(SHOW, tmp_path)
    assert done.returncode == 1
    assert "SettingsError: MIXPANEL_REGION ('asia')" in done.stderr
    assert SECRET not in done.stdout + done.stderr
    assert USERNAME not in done.stdout + done.stderr


# A lake

LAKE = {"MP_PIPELINE_DATABASE": "ducklake:postgres:dbname=x", "MP_PIPELINE_DATA_PATH": "files"}


def test_a_lake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = settings(monkeypatch, **LAKE)
    assert found.is_lake
    assert found.database == Lake(
        "postgres:dbname=x", f"{tmp_path / 'files'}/", tmp_path / "data", S3()
    )
    assert found.download_directory == tmp_path / "data"
    assert found.mp_pipeline_snapshot_days == 7


def test_a_lake_in_s3(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    found = settings(
        monkeypatch,
        **LAKE | {"MP_PIPELINE_DATA_PATH": "s3://bucket/lake/"},
        MP_PIPELINE_S3_ENDPOINT="https://minio.example.com",
        MP_PIPELINE_S3_REGION="eu-west-1",
        MP_PIPELINE_S3_KEY_ID=USERNAME,
        MP_PIPELINE_S3_SECRET=SECRET,
        MP_PIPELINE_DOWNLOAD_DIRECTORY=str(tmp_path / "disk"),
        MP_PIPELINE_SNAPSHOT_DAYS="30",
    )
    s3 = S3("https://minio.example.com", "eu-west-1", USERNAME, SECRET)
    assert found.database == Lake("postgres:dbname=x", "s3://bucket/lake/", tmp_path / "disk", s3)
    assert found.mp_pipeline_snapshot_days == 30
    assert SECRET not in repr(found) + repr(found.database)
    assert USERNAME not in repr(found) + repr(found.database)


@pytest.mark.parametrize(
    ("variables", "message"),
    [
        (LAKE | {"MP_PIPELINE_DATA_PATH": ""}, "MP_PIPELINE_DATA_PATH must be set too"),
        (LAKE | {"MP_PIPELINE_S3_SECRET": SECRET}, "set both or none of MP_PIPELINE_S3_KEY_ID"),
        ({"MP_PIPELINE_DATABASE": "ducklake:"}, "does not name a lake"),
        (LAKE | {"MP_PIPELINE_SNAPSHOT_DAYS": "0"}, "MP_PIPELINE_SNAPSHOT_DAYS"),
        (
            LAKE | {"MP_PIPELINE_DATABASE": "ducklake:postgres:dbname=x password=x7y"},
            "must not contain a password",
        ),
    ],
)
def test_a_lake_that_is_half_configured(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], message: str
) -> None:
    found = problem(monkeypatch, **variables)
    assert message in found
    assert SECRET not in found
    assert "x7y" not in found
