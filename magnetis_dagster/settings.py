"""Every environment variable, typed, in one place. Read at the edges (defs, cli), never below them.

A mistake names the variable, what was expected and what to do; the values of secrets are never shown.
"""

import difflib
import hashlib
import logging
import os
import re
from collections.abc import Iterable
from datetime import date, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self
from urllib.parse import quote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from magnetis_dagster.errors import PermanentError
from magnetis_dagster.private_files import close_to_others
from magnetis_dagster.quota import BadPolicy, QuotaPolicy, QuotaWindow
from magnetis_dagster.running_dev import running_dev


class SettingsError(PermanentError):
    """An environment variable is missing or has an unusable value; the text names it and the expected value."""


_log = logging.getLogger(__name__)
_LOCAL = {"localhost", "127.0.0.1", "::1"}


def _zone(name: object) -> ZoneInfo:
    if isinstance(name, ZoneInfo):
        return name
    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected the name of a time zone such as Europe/Paris or UTC") from None


def _origin(url: str, info: ValidationInfo) -> str:
    parts = urlsplit(url)
    local = parts.hostname in _LOCAL
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.query
        or parts.fragment
        or parts.username
    ):
        raise ValueError(
            "expected an origin such as https://api.magnetis.io, with no user, query or fragment"
        )
    if parts.port == 0:  # `port` itself raises for the rest that is no port
        raise ValueError("expected a port from 1 to 65535")
    if parts.scheme == "http" and not local and not info.data.get("allow_http"):
        raise ValueError(
            "expected https: the key would travel in clear (http is accepted for localhost only)"
        )
    return url.rstrip("/")


def _webhook(url: SecretStr, info: ValidationInfo) -> SecretStr:
    bare = url.get_secret_value().strip()  # a file ends in a line break
    expected = "expected the address as the chat shows it, such as https://hooks.slack.com/services/…, with no user"
    try:
        parts = urlsplit(bare)
        port = parts.port
    except ValueError:
        raise ValueError(
            expected
        ) from None  # what urlsplit says quotes the address, which is a secret
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username or port == 0:
        raise ValueError(expected)
    if not bare.isascii() or not bare.isprintable() or " " in bare:
        raise ValueError(expected)
    if parts.scheme == "http" and parts.hostname not in _LOCAL and not info.data.get("allow_http"):
        raise ValueError(
            "expected https: the address is a secret and would travel in clear (http is accepted for localhost only)"
        )
    return SecretStr(bare)


def _broker(url: SecretStr) -> SecretStr:
    bare = url.get_secret_value().strip()
    scheme, separator, rest = bare.partition("://")
    if (
        scheme not in {"redis", "rediss"}
        or not separator
        or rest.rpartition("@")[2][:1] in {"", "/", ":"}
        or not _AUTHORITY.match(rest)
    ):
        # what a parser says of a password with a bare / or @ in it would quote a part of it
        raise ValueError(
            "expected redis://:password@host:6379/0, or rediss:// with TLS, with @ : / ? # % in the password written as %40 …"
        )
    return SecretStr(bare)


def _ui(url: str) -> str:
    parts = urlsplit(url.strip())
    if (
        parts.scheme not in {"http", "https"}
        or not parts.hostname
        or parts.query
        or parts.fragment
        or parts.username
    ):
        raise ValueError(
            "expected an address such as https://dagster.example.com, with no user, query or fragment"
        )
    return url.strip().rstrip("/")


def _hosts(text: str) -> str:
    names = [name.strip().lower() for name in text.split(",") if name.strip()]
    try:
        return ",".join(
            name if _HOST_NAME.fullmatch(name) else str(ip_address(name.strip("[]")))
            for name in names
        )
    except ValueError:
        expected = "expected host names such as dagster.example.com, separated by commas"
        raise ValueError(f"{expected}, without scheme and port") from None


def _key(key: SecretStr) -> SecretStr:
    # The HTTP client shows a header value that it refuses; a key with a line break would end in the log of the run.
    bare = key.get_secret_value().strip()
    if not bare.isascii() or not bare.isprintable() or " " in bare:
        raise ValueError(
            "expected the key as Magnetis shows it: ASCII, no space or line break inside"
        )
    return SecretStr(bare)


def _postgresql(url: SecretStr) -> SecretStr:
    scheme, separator, rest = url.get_secret_value().partition("://")
    if (
        scheme not in {"postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"}
        or not separator
        or not rest
    ):
        raise ValueError(
            "expected a postgresql:// URL such as postgresql://user:password@host:5432/database"
        )
    if not _SEVERAL_HOSTS.match(rest):
        # the part of a password behind a bare @ would be taken for the host, and shown as such
        raise ValueError(
            "expected user:password@host:5432 after postgresql://, with @ : / ? # % in user and password written as %40 …"
        )
    return url


def _day(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return date.fromisoformat(value.strip())
    except ValueError:
        raise ValueError("expected a day such as 2024-01-01") from None


def _close_env(path: Path) -> None:
    try:
        if close_to_others(path):
            _log.warning("Other users could read %s. Its mode is 600 now.", path.resolve())
    except OSError:
        _log.warning(
            "Other users can read %s, which may contain the key: chmod 600 .env", path.resolve()
        )


def _none_if_empty(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


_OTHERS = frozenset(f"MAGNETIS_{name}" for name in ("IMAGE", "DEV_CHILD", "ENGINE_HOME"))
"""Variables of compose, of `magnetis dev` and of the tests that are no settings."""
_NOT_OURS = re.compile(r"_(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_\w+|FILE)$")
"""What Kubernetes adds for each Service, such as MAGNETIS_CODE_PORT_4000_TCP, and what images read secrets from."""
_reported: set[str] = set()


def _report_unknown(names: Iterable[str], fields: Iterable[str]) -> None:
    """Raise SettingsError for a variable that is nearly one of ours: a misspelled quota would be spent unnoticed.

    Logs a warning, once per process, for any other MAGNETIS_ variable that does not exist.
    """
    known = {f"MAGNETIS_{name.upper()}" for name in fields} | _OTHERS
    for name in sorted(names):
        if not name.upper().startswith("MAG") or name.upper() in known or _NOT_OURS.search(name):
            continue
        if meant := _nearest(name.upper(), known):
            raise SettingsError(
                f"{name}: no such variable. Did you mean {meant}? .env.example lists every variable."
            )
        if name.startswith("MAGNETIS_") and name not in _reported:
            _reported.add(name)
            _log.warning(
                "%s: no such variable, so it has no effect. .env.example lists every variable.",
                name,
            )


def _nearest(name: str, known: set[str]) -> str | None:
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.85):
        return close[0]
    words = set(name.split("_"))
    # a part of a name, such as `QUOTA` after the prefix
    longer = sorted(
        (each for each in known if name.startswith("MAGNETIS_") and words < set(each.split("_"))),
        key=len,
    )
    return longer[0] if longer and len(words) > 1 else None


def _shares(text: str) -> dict[str, float]:
    shares = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        lane, _, share = part.partition("=")
        try:
            shares[lane.strip()] = float(share)
        except ValueError:
            raise BadPolicy(
                f"MAGNETIS_QUOTA_FLOORS: expected lane=share such as schedule=0.20, separated by commas; got {part!r}."
            ) from None
    return shares


_USER = r"([^@/?#:]*(:[^@/?#:]*)?@)?"
_HOST = r"(\[[^\]@/?#]*\]|[^@/?#:,\[\]]*)(:[0-9]{1,5})?"
_AUTHORITY = re.compile(rf"{_USER}{_HOST}([/?][^@#]*)?$")
"""User, password, host and port of a broker URL, and its path."""
_SEVERAL_HOSTS = re.compile(rf"{_USER}{_HOST}(,{_HOST})*([/?][^@#]*)?$")
"""The same of a database URL, in which libpq takes several hosts."""

_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")

Zone = Annotated[ZoneInfo, BeforeValidator(_zone)]


SECRETS = Path("/run/secrets")
"""Where Docker and Kubernetes put secrets as files; a variable that is set nowhere else is read from the file of its name there."""


class Settings(BaseSettings):
    """The MAGNETIS_... environment variables; `.env` in the working directory and files in SECRETS are read too, in this order."""

    model_config = SettingsConfigDict(
        env_prefix="MAGNETIS_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,  # docs/configuration.md is made from them
    )

    allow_http: bool = False
    """Whether the key may travel over plain http to another machine: for a sandbox in a closed network only."""
    api_key: Annotated[
        Annotated[SecretStr, AfterValidator(_key)] | None, BeforeValidator(_none_if_empty)
    ] = None
    """Key of the API, made in the Magnetis interface under API & connecteurs > API."""
    api_url: Annotated[str, AfterValidator(_origin)] = "https://api.magnetis.io"
    """Origin of the API; requests never leave it."""
    database_url: Annotated[
        Annotated[SecretStr, AfterValidator(_postgresql)] | None, BeforeValidator(_none_if_empty)
    ] = None
    """Any postgresql:// URL; if unset, an embedded server runs under MAGNETIS_HOME."""
    database_password: Annotated[SecretStr | None, BeforeValidator(_none_if_empty)] = None
    """Password of the user in MAGNETIS_DATABASE_URL, if that contains none: so the two can come from different places."""
    daily_quota: int = Field(default=5000, gt=0)
    """Calls a day for this key."""
    timezone: Zone = ZoneInfo("Europe/Paris")
    """Zone of the partition day and of the quota day."""
    query_timezone: Zone = ZoneInfo("UTC")
    """Zone in which `from` and `to` are written."""
    response_timezone: Zone = ZoneInfo("Europe/Paris")
    """Zone of the zone-less times in rows."""
    start_date: Annotated[date, BeforeValidator(_day)] = Field(
        default=date(2024, 1, 1), ge=date(1990, 1, 1)
    )
    """First partition day of events. Snapshots start on the day on which the first one was taken."""
    lookback_days: int = Field(default=7, ge=0, le=366)
    """Closed days before yesterday that the daily schedule reads again for late changes."""
    weekly_lookback_days: int = Field(default=30, ge=0, le=366)
    """On Mondays, re-read this many days before yesterday, if that is more than MAGNETIS_LOOKBACK_DAYS. 0 disables it."""
    repair_attempts: int = Field(default=3, ge=2, le=10)
    """How often the repair sensor, once switched on, requests a day of a collection before it gives the day up."""
    settings_interval_seconds: int = Field(default=900, ge=10, le=86_400)
    """Seconds between two reads of report and alert settings by the sensors: one call for each of three collections."""
    emptied_days: Literal["doubt", "keep", "delete"] = "doubt"
    """If all or many rows of a day are no longer returned: `doubt` keeps them and fails the check, `keep` (they aged out at
    Magnetis) keeps them, `delete` (they are gone) marks them as deleted."""
    doubted_share: float = Field(default=0.20, gt=0, le=1)
    """Share of a day's or snapshot's rows, at least 10, whose deletion or move to another day is doubted; 1: never doubted."""
    unreadable_share: float = Field(default=0.01, ge=0, le=1)
    """Share of a day's rows that may be unreadable, once one of them was readable before; more fail the day."""
    retention_days: int = Field(default=90, ge=32, le=3650)
    """Days for which requests, reads and Dagster's logs are kept. The job `prune` deletes older
    ones every night."""
    concurrency: int = Field(default=8, ge=1, le=64)
    """Pages of one window in flight."""
    quota_window: QuotaWindow = QuotaWindow.CALENDAR
    """`calendar`: the limit counts by calendar day in MAGNETIS_TIMEZONE; `rolling`: over any 24 hours."""
    quota_floors: str = "schedule=0.20,settings=0.05,manual=0.05"
    """Shares of the quota that backfill leaves to each other lane until that lane has used them; together below 1."""
    quota_release_hours: float = 6.0
    """The floors shrink to zero over this many hours before the day ends, so that no calls stay unused."""
    quota_spread: str = ""
    """Lanes, separated by commas, that spread their calls over the rest of the day instead of sending them as fast as they can."""
    quota_recheck_seconds: float = Field(default=900.0, gt=0, le=86_400)
    """A run that waits for calls checks the quota again after at most this many seconds."""
    calls_per_second: Annotated[float | None, BeforeValidator(_none_if_empty)] = None
    """Most calls a second for the key; if unset, there is no such limit."""
    alert_webhook_url: Annotated[
        Annotated[SecretStr, AfterValidator(_webhook)] | None, BeforeValidator(_none_if_empty)
    ] = None
    """Webhook of Slack, or of another chat that takes its JSON, to which run failures and failed checks are posted; a secret."""
    celery_broker_url: Annotated[
        Annotated[SecretStr, AfterValidator(_broker)] | None, BeforeValidator(_none_if_empty)
    ] = None
    """Redis, as redis://:password@host:6379/0, from which Celery workers on any machine take the runs; a secret. If unset, the
    code server executes the runs."""
    ui_url: Annotated[
        Annotated[str, AfterValidator(_ui)] | None, BeforeValidator(_none_if_empty)
    ] = None
    """Address under which people open Dagster's UI, such as https://dagster.example.com. Alerts and `magnetis plan --launch`
    link to it."""
    ui_hosts: Annotated[str, AfterValidator(_hosts)] = ""
    """Further host names or addresses, separated by commas, under which the webserver answers.
    Loopback, the hosts of MAGNETIS_UI_URL and MAGNETIS_DAGSTER_URL and the webserver's own address
    are always allowed."""
    dagster_url: Annotated[str, AfterValidator(_ui)] = "http://127.0.0.1:3000"
    """Address at which `magnetis plan --launch` reaches Dagster's webserver."""
    config: Annotated[Path | None, BeforeValidator(_none_if_empty)] = None
    """YAML file that overrides the catalogue: routes, field names, collections switched off, policies."""
    settings_baseline: Annotated[Path | None, BeforeValidator(_none_if_empty)] = None
    """File made by `magnetis settings export`: settings of reports and alerts that differ from it fail the check `baseline`."""
    home: Annotated[Path, BeforeValidator(_none_if_empty)] = Path(".magnetis")
    """Folder of the embedded database, logs and local state; relative to the working directory."""

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """Return the settings from the environment and `.env`; without a key, those of a running `magnetis dev`.

        Raises: SettingsError, naming the variable.
        """
        try:
            _close_env(Path(".env"))
            _report_unknown({*os.environ, *dotenv_values(".env")}, cls.model_fields)
            given = cls(_secrets_dir=SECRETS if SECRETS.is_dir() else None, **overrides)  # type: ignore[arg-type, call-arg]
            return given._joined()
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            variable = (
                f"MAGNETIS_{'_'.join(str(part) for part in first['loc']).upper()}: "
                if first["loc"]
                else ""
            )
            expected = first["msg"].removeprefix("Value error, ")
            raise SettingsError(
                f"{variable}{expected}. Set it in the environment or in .env; .env.example lists every variable."
            ) from None
        except BadPolicy as error:
            raise SettingsError(
                f"{error} Set it in the environment or in .env; .env.example lists every variable."
            ) from None
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f".env cannot be read as UTF-8 text ({type(error).__name__}). Correct or remove it."
            ) from None

    def _joined(self) -> Self:
        """Return the settings with sandbox and database of the `magnetis dev` that serves `home`, if no key is set.

        What is set here wins: a key, another address of the API, a database, a start date.
        """
        running = running_dev(self.home) if self.api_key is None else None
        if running is None or (
            "api_url" in self.model_fields_set and self.api_url != running.api_url
        ):
            return self
        found: dict[str, object] = {}
        if running.sandbox_key:
            found |= {"api_key": SecretStr(running.sandbox_key), "api_url": running.api_url}
        if running.database_url and self.database_url is None:
            found["database_url"] = SecretStr(running.database_url)
        if running.start_date and "start_date" not in self.model_fields_set:
            found["start_date"] = date.fromisoformat(running.start_date)
        return self.model_copy(update=found)

    @model_validator(mode="after")
    def _start_has_come(self) -> Self:
        today = datetime.now(self.timezone).date()
        if self.start_date > today:
            raise ValueError(
                f"MAGNETIS_START_DATE: expected a day that is not after today, {today}"
            )
        return self

    @model_validator(mode="after")
    def _quota_can_be_kept(self) -> Self:
        _ = self.quota_policy
        return self

    @property
    def quota_policy(self) -> QuotaPolicy:
        """How the calls of the key are shared out. Raises BadPolicy."""
        return QuotaPolicy(
            limit=self.daily_quota,
            zone=self.timezone,
            window=self.quota_window,
            floors=_shares(self.quota_floors),
            release_hours=self.quota_release_hours,
            spread=frozenset(name.strip() for name in self.quota_spread.split(",") if name.strip()),
            calls_per_second=self.calls_per_second,
        )

    @property
    def ui_host_names(self) -> list[str]:
        """MAGNETIS_UI_HOSTS and the host of MAGNETIS_DAGSTER_URL."""
        return [*filter(None, self.ui_hosts.split(",")), urlsplit(self.dagster_url).hostname or ""]

    @property
    def database_address(self) -> str | None:
        """MAGNETIS_DATABASE_URL with MAGNETIS_DATABASE_PASSWORD in it; None where the embedded server is to be used."""
        if self.database_url is None:
            return None
        url = self.database_url.get_secret_value()
        if self.database_password is None:
            return url
        # a file ends in a line break; no password does
        password = quote(self.database_password.get_secret_value().strip(), safe="")
        scheme, _, rest = url.partition("://")
        user, at, host = rest.partition("@")
        if at:
            return url if ":" in user else f"{scheme}://{user}:{password}@{host}"
        # the user comes from the query, a service file or the system
        given = re.search(r"[?&]password=", rest)
        return url if given else f"{url}{'&' if '?' in rest else '?'}password={password}"

    def require_key(self) -> str:
        """Return the API key. Raises SettingsError where none is set, and says where keys are made."""
        if self.api_key is None:
            raise SettingsError(
                f"MAGNETIS_API_KEY is not set, and no `magnetis dev` with a sandbox runs in {self.home.resolve()}. Put the key in "
                "the environment or in .env. Keys are made in the Magnetis interface, in the organisation, network or account: "
                "API & connecteurs > API. Without a key, `magnetis dev` starts a local sandbox, which all commands in the same "
                "folder (or with the same MAGNETIS_HOME) then use."
            )
        return self.api_key.get_secret_value()

    @property
    def key_fingerprint(self) -> str:
        """Twelve hexadecimal digits that tell keys apart in the database without holding one."""
        return hashlib.sha256(f"magnetis-key:{self.require_key()}".encode()).hexdigest()[:12]
