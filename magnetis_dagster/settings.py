"""Define every environment variable with its type.

Only the edges (defs, dagster_support, cli, dev) read them. An error names the variable, the
expected value and the remedy. The values of secrets are never shown.
"""

import difflib
import hashlib
import logging
import os
import re
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from ipaddress import ip_address
from pathlib import Path
from typing import Annotated, Literal, Self, TypeVar
from urllib.parse import SplitResult, quote, urlsplit
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from dotenv import dotenv_values
from pydantic import (
    AfterValidator,
    BeforeValidator,
    Field,
    PrivateAttr,
    SecretStr,
    ValidationError,
    ValidationInfo,
    model_validator,
)
from pydantic_settings import BaseSettings, SettingsConfigDict

from magnetis_dagster.connection_names import UNNAMED
from magnetis_dagster.errors import PermanentError
from magnetis_dagster.privacy.caller_key import InvalidPrivacyKey, PrivacyKeys
from magnetis_dagster.private_files import restrict_to_owner
from magnetis_dagster.quota import InvalidQuotaRules, QuotaPolicy, QuotaWindow
from magnetis_dagster.running_dev import running_dev

_log = logging.getLogger(__name__)
_LOCAL = {"localhost", "127.0.0.1", "::1"}
_HTTP = {"http", "https"}
_USER = r"([^@/?#:]*(:[^@/?#:]*)?@)?"
_HOST = r"(\[[^\]@/?#]*\]|[^@/?#:,\[\]]*)(:[0-9]{1,5})?"
_BROKER_AUTHORITY = re.compile(rf"{_USER}{_HOST}([/?][^@#]*)?$")
"""User, password, host and port of a broker URL, and its path."""
_DATABASE_AUTHORITY = re.compile(rf"{_USER}{_HOST}(,{_HOST})*([/?][^@#]*)?$")
"""The same for a database URL, in which libpq accepts several hosts."""
_HOST_NAME = re.compile(r"[a-z0-9_-]+(\.[a-z0-9_-]+)*")
_NOT_SETTINGS = frozenset(f"MAGNETIS_{name}" for name in ("IMAGE", "DEV_CHILD", "ENGINE_HOME"))
"""Variables of compose, `magnetis dev` and the tests that are not settings."""
_FOREIGN_NAME = re.compile(
    r"_(SERVICE_HOST|SERVICE_PORT\w*|PORT|PORT_\d+_\w+|FILE)$|^MAGNETIS_API_KEY_\w+$"
)
"""Variables that Kubernetes adds for each Service, such as MAGNETIS_CODE_PORT_4000_TCP, those from
which images read secrets, and keys of connections: MAGNETIS_API_KEY_ and a name."""
_reported: set[str] = set()

SECRETS = Path("/run/secrets")
"""Folder in which Docker and Kubernetes store secrets as files. A variable that is set nowhere else
is read from the file of its name."""


class SettingsError(PermanentError):
    """An environment variable is missing or unusable; the text names it and the expected value."""


def _parse_zone(name: object) -> ZoneInfo:
    if isinstance(name, ZoneInfo):
        return name
    try:
        return ZoneInfo(str(name))
    except (ZoneInfoNotFoundError, ValueError, OSError):
        raise ValueError("expected the name of a time zone such as Europe/Paris or UTC") from None


def _split_address(url: str, expected: str) -> SplitResult:
    parts = urlsplit(url)
    excess = parts.query or parts.fragment or parts.username
    if parts.scheme not in _HTTP or not parts.hostname or excess:
        raise ValueError(f"expected {expected}, without user, query or fragment")
    return parts


def _require_https(parts: SplitResult, info: ValidationInfo, secret: str) -> None:
    if parts.scheme == "http" and parts.hostname not in _LOCAL and not info.data.get("allow_http"):
        raise ValueError(
            f"expected https: {secret} would be sent unencrypted (only localhost may use http)"
        )


def _check_origin(url: str, info: ValidationInfo) -> str:
    parts = _split_address(url, "an origin such as https://api.magnetis.io")
    if parts.port == 0:  # `port` itself raises for any other invalid port
        raise ValueError("expected a port from 1 to 65535")
    _require_https(parts, info, "the key")
    return url.rstrip("/")


def _check_ui_url(url: str) -> str:
    url = url.strip()
    _split_address(url, "an address such as https://dagster.example.com")
    return url.rstrip("/")


def _is_one_ascii_word(text: str) -> bool:
    return text.isascii() and text.isprintable() and " " not in text


def _check_webhook_url(url: SecretStr, info: ValidationInfo) -> SecretStr:
    bare = url.get_secret_value().strip()  # a file ends in a line break
    expected = (
        "expected the webhook URL as the chat shows it, such as "
        "https://hooks.slack.com/services/…, without a user"
    )
    try:
        parts = urlsplit(bare)
        is_address = parts.port != 0 and parts.hostname and not parts.username
    except ValueError:
        raise ValueError(expected) from None  # urlsplit's message quotes the URL, which is a secret
    if parts.scheme not in _HTTP or not is_address or not _is_one_ascii_word(bare):
        raise ValueError(expected)
    _require_https(parts, info, "the URL is a secret and")
    return SecretStr(bare)


def _check_broker_url(url: SecretStr) -> SecretStr:
    bare = url.get_secret_value().strip()
    scheme, separator, rest = bare.partition("://")
    if (
        scheme not in {"redis", "rediss"}
        or not separator
        or rest.rpartition("@")[2][:1] in {"", "/", ":"}
        or not _BROKER_AUTHORITY.match(rest)
    ):
        # a parser's message about a password with a bare / or @ would quote a part of the password
        raise ValueError(
            "expected redis://:password@host:6379/0, or rediss:// with TLS, with @ : / ? # % in "
            "the password written as %40 …"
        )
    return SecretStr(bare)


def _check_hosts(text: str) -> str:
    try:
        return ",".join(
            name if _HOST_NAME.fullmatch(name) else str(ip_address(name.strip("[]")))
            for name in _items(text.lower())
        )
    except ValueError:
        raise ValueError(
            "expected host names such as dagster.example.com, separated by commas, without scheme "
            "and port"
        ) from None


def _check_key(key: SecretStr) -> SecretStr:
    # The HTTP client quotes a header value that it rejects. A key with a line break would end up in
    # the log of the run.
    bare = key.get_secret_value().strip()
    if not _is_one_ascii_word(bare):
        raise ValueError(
            "expected the key as Magnetis shows it: ASCII, without spaces or line breaks"
        )
    return SecretStr(bare)


def _check_privacy_key(key: SecretStr) -> SecretStr:
    try:
        PrivacyKeys.parse(key.get_secret_value())
    except InvalidPrivacyKey as error:
        raise ValueError(str(error)) from None
    return key


def _check_database_url(url: SecretStr) -> SecretStr:
    scheme, _, rest = url.get_secret_value().partition("://")
    schemes = {"postgresql", "postgres", "postgresql+psycopg", "postgresql+psycopg2"}
    if scheme not in schemes or not rest:
        raise ValueError(
            "expected a postgresql:// URL such as postgresql://user:password@host:5432/database"
        )
    if not _DATABASE_AUTHORITY.match(rest):
        # The part of a password after a bare @ would be parsed as the host and shown in errors.
        raise ValueError(
            "expected user:password@host:5432 after postgresql://, with @ : / ? # % in user and "
            "password written as %40 …"
        )
    return url


def _parse_day(value: object) -> object:
    if not isinstance(value, str):
        return value
    try:
        return date.fromisoformat(value.strip())
    except ValueError:
        raise ValueError("expected a day such as 2024-01-01") from None


def _none_if_blank(value: object) -> object:
    return None if isinstance(value, str) and not value.strip() else value


def _items(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse_floors(text: str) -> dict[str, float]:
    shares = {}
    for part in _items(text):
        lane, _, share = part.partition("=")
        try:
            shares[lane.strip()] = float(share)
        except ValueError:
            raise InvalidQuotaRules(
                "MAGNETIS_QUOTA_FLOORS: expected lane=share such as schedule=0.20, separated by "
                f"commas; got {part!r}."
            ) from None
    return shares


def _restrict_env_file(path: Path) -> None:
    try:
        if restrict_to_owner(path):
            _log.warning("Other users could read %s. Its mode was changed to 600.", path.resolve())
    except OSError:
        _log.warning(
            "Other users can read %s, which may contain the key. Run: chmod 600 .env",
            path.resolve(),
        )


def _check_names(names: Iterable[str], fields: Iterable[str]) -> None:
    """Raise SettingsError for a variable whose name resembles one of ours.

    A misspelled quota would be spent unnoticed. Any other unknown MAGNETIS_ variable is logged as a
    warning, once per process.
    """
    known = {f"MAGNETIS_{name.upper()}" for name in fields} | _NOT_SETTINGS
    for name in sorted(names):
        upper = name.upper()
        if not upper.startswith("MAG") or upper in known or _FOREIGN_NAME.search(name):
            continue
        if meant := _nearest(upper, known):
            raise SettingsError(
                f"{name}: unknown variable. Did you mean {meant}? "
                ".env.example lists every variable."
            )
        if name.startswith("MAGNETIS_") and name not in _reported:
            _reported.add(name)
            _log.warning(
                "%s: unknown variable, which has no effect. .env.example lists every variable.",
                name,
            )


def _nearest(name: str, known: set[str]) -> str | None:
    if close := difflib.get_close_matches(name, known, n=1, cutoff=0.85):
        return close[0]
    words = set(name.split("_"))
    if not name.startswith("MAGNETIS_") or len(words) < 2:
        return None
    # a part of a name, such as `QUOTA` after the prefix
    return min((each for each in known if words < set(each.split("_"))), key=len, default=None)


T = TypeVar("T")
Zone = Annotated[ZoneInfo, BeforeValidator(_parse_zone)]
BlankIsNone = Annotated[T | None, BeforeValidator(_none_if_blank)]


class Settings(BaseSettings):
    """The MAGNETIS_... variables of the environment, `.env` and SECRETS.

    The environment takes precedence over `.env` in the working directory, and that over SECRETS.
    """

    model_config = SettingsConfigDict(
        env_prefix="MAGNETIS_",
        env_file=".env",
        env_file_encoding="utf-8",
        extra="ignore",
        frozen=True,
        arbitrary_types_allowed=True,
        use_attribute_docstrings=True,  # docs/configuration.md is generated from them
    )

    allow_http: bool = False
    """Whether the key may be sent over plain http to another machine. Only for a sandbox in a
    closed network."""
    api_key: BlankIsNone[Annotated[SecretStr, AfterValidator(_check_key)]] = None
    """API key. Create it in the Magnetis interface: API & connecteurs > API."""
    api_url: Annotated[str, AfterValidator(_check_origin)] = "https://api.magnetis.io"
    """Origin of the API. Requests never leave it."""
    database_url: BlankIsNone[Annotated[SecretStr, AfterValidator(_check_database_url)]] = None
    """Any postgresql:// URL. If unset, an embedded server runs under MAGNETIS_HOME."""
    database_password: BlankIsNone[SecretStr] = None
    """Password for MAGNETIS_DATABASE_URL if the URL contains none, so that both can come from
    different sources."""
    privacy_key: BlankIsNone[Annotated[SecretStr, AfterValidator(_check_privacy_key)]] = None
    """Secret of the caller keys: id:secret, such as 1: and at least 32 random characters. Required
    for loads with MAGNETIS_DATABASE_URL. Several are separated by commas: the first one is active,
    the others belong to keys that are already stored. Do not store it with the database."""
    daily_quota: int = Field(default=5000, gt=0)
    """API calls per day for this key."""
    timezone: Zone = ZoneInfo("Europe/Paris")
    """Time zone of partition days and quota days."""
    query_timezone: Zone = ZoneInfo("UTC")
    """Time zone in which `from` and `to` are written."""
    response_timezone: Zone = ZoneInfo("Europe/Paris")
    """Time zone of times without a zone in rows."""
    start_date: Annotated[date, BeforeValidator(_parse_day)] = Field(
        default=date(2024, 1, 1), ge=date(1990, 1, 1)
    )
    """First partition day of events. Snapshot partitions start on the day of the first snapshot."""
    lookback_days: int = Field(default=7, ge=0, le=366)
    """Complete days before yesterday that the daily schedule re-reads for late changes."""
    weekly_lookback_days: int = Field(default=30, ge=0, le=366)
    """On Mondays, re-read this many days before yesterday if that is more than
    MAGNETIS_LOOKBACK_DAYS. 0 disables it."""
    repair_attempts: int = Field(default=3, ge=2, le=10)
    """Number of times that the repair sensor, if enabled, requests a day of a collection before it
    gives up."""
    settings_interval_seconds: int = Field(default=900, ge=10, le=86_400)
    """Seconds between two reads of report and alert settings by the sensors. Each read costs one
    API call for each of three collections."""
    emptied_days: Literal["doubt", "keep", "delete"] = "doubt"
    """What happens if the API no longer returns all or many rows of a day. `doubt` keeps them and
    fails the check. `keep` keeps them, because Magnetis deletes old rows. `delete` marks them as
    deleted."""
    doubted_share: float = Field(default=0.20, gt=0, le=1)
    """Share of a day's or snapshot's rows (at least 10) whose deletion or move to another day is
    doubted. 1 disables the check."""
    unreadable_share: float = Field(default=0.01, ge=0, le=1)
    """Share of a day's rows that may be unreadable, once one of them was readable before. A larger
    share fails the day."""
    retention_days: int = Field(default=90, ge=32, le=3650)
    """Days for which requests, reads and Dagster's logs are kept. The job `prune` deletes older
    ones every night."""
    concurrency: int = Field(default=8, ge=1, le=64)
    """Pages of one window in flight."""
    quota_window: QuotaWindow = QuotaWindow.CALENDAR
    """`calendar`: the quota counts per calendar day in MAGNETIS_TIMEZONE. `rolling`: it counts over
    any 24 hours."""
    quota_floors: str = "schedule=0.20,settings=0.05,manual=0.05"
    """Shares of the quota that are reserved for each lane until it has used them. Together below 1.
    """
    quota_release_hours: float = 6.0
    """The floors shrink to zero over this many hours before the day ends, so that no calls stay
    unused."""
    quota_spread: str = ""
    """Lanes, separated by commas, that spread their calls evenly over the rest of the day."""
    quota_recheck_seconds: float = Field(default=900.0, gt=0, le=86_400)
    """A run that waits for calls checks the quota again after at most this many seconds."""
    calls_per_second: BlankIsNone[float] = None
    """Maximum API calls per second for the key. If unset, there is no limit."""
    alert_webhook_url: BlankIsNone[Annotated[SecretStr, AfterValidator(_check_webhook_url)]] = None
    """Webhook of Slack, or of another chat that accepts its JSON, for failed runs and failed
    checks. The URL is a secret."""
    celery_broker_url: BlankIsNone[Annotated[SecretStr, AfterValidator(_check_broker_url)]] = None
    """Redis URL, such as redis://:password@host:6379/0, from which Celery workers on any machine
    take runs. The URL is a secret. If unset, the code server executes the runs."""
    ui_url: BlankIsNone[Annotated[str, AfterValidator(_check_ui_url)]] = None
    """Address at which people open Dagster's UI, such as https://dagster.example.com. Alerts and
    `magnetis plan --launch` link to it."""
    ui_hosts: Annotated[str, AfterValidator(_check_hosts)] = ""
    """Additional host names or addresses, separated by commas, to which the webserver responds.
    Loopback, the hosts of MAGNETIS_UI_URL and MAGNETIS_DAGSTER_URL and the webserver's own address
    are always allowed."""
    dagster_url: Annotated[str, AfterValidator(_check_ui_url)] = "http://127.0.0.1:3000"
    """Address at which `magnetis plan --launch` reaches Dagster's webserver. If unset, that of the
    `magnetis dev` that serves MAGNETIS_HOME, if one runs."""
    config: BlankIsNone[Path] = None
    """YAML file that overrides the catalogue (routes, field names, disabled collections, policies)
    and declares further API keys under `connections`."""
    settings_baseline: BlankIsNone[Path] = None
    """File written by `magnetis settings export`. If report and alert settings differ from it, the
    check `baseline` fails."""
    home: Annotated[Path, BeforeValidator(_none_if_blank)] = Path(".magnetis")
    """Folder of the embedded database, logs and local state, relative to the working directory."""

    _connection: str = PrivateAttr(default=UNNAMED)
    _missing_key: str | None = PrivateAttr(default=None)
    _view_timezone: ZoneInfo | None = PrivateAttr(default=None)

    @property
    def connection(self) -> str:
        """Name of the connection that these settings belong to."""
        return self._connection

    @property
    def view_timezone(self) -> ZoneInfo:
        """Time zone of local times in views, which all connections share."""
        return self._view_timezone or self.timezone

    @classmethod
    def load(cls, **overrides: object) -> Self:
        """Read the settings from the environment, `.env` and SECRETS.

        Without a key, add those of a running `magnetis dev`.

        Raises: SettingsError, which names the variable.
        """
        return cls._load(overrides)._with_running_dev()  # noqa: SLF001 - its own class

    @classmethod
    def of_connection(
        cls,
        name: str,
        declared: Mapping[str, object],
        *,
        place: str,
        key: SecretStr | None,
        missing_key: str,
    ) -> Self:
        """Return the settings of a named connection, which inherits undeclared variables.

        `declared`: values by field; `place` precedes the field in error texts. `missing_key`: the
        error of `require_key` if `key` is None.

        Raises: SettingsError.
        """
        overrides: dict[str, object] = {**declared, "api_key": None}
        settings = cls._load(overrides, place)._with_running_dev(sandbox=False)  # noqa: SLF001 - its own class
        try:
            checked = _check_key(key) if key else None
        except ValueError as error:
            # as for a missing key, only the runs of this connection fail
            checked, missing_key = None, f"{missing_key} Its value is unusable: {error}."
        settings = settings.model_copy(update={"api_key": checked})
        settings._connection = name  # noqa: SLF001 - its own class
        settings._missing_key = missing_key  # noqa: SLF001
        if "timezone" in declared:
            settings._view_timezone = cls._load({}).timezone  # noqa: SLF001
        return settings

    @classmethod
    def _load(cls, overrides: Mapping[str, object], place: str = "") -> Self:
        try:
            _restrict_env_file(Path(".env"))
            _check_names({*os.environ, *dotenv_values(".env")}, cls.model_fields)
            return cls(_secrets_dir=SECRETS if SECRETS.is_dir() else None, **overrides)  # type: ignore[arg-type, call-arg]
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False, include_context=False)[0]
            problem = f"{first['msg'].removeprefix('Value error, ')}."
            if first["loc"]:
                if place and first["loc"][0] in overrides:
                    raise SettingsError(
                        f"{place}.{'.'.join(map(str, first['loc']))}: {problem}"
                    ) from None
                problem = f"MAGNETIS_{'_'.join(map(str, first['loc'])).upper()}: {problem}"
            elif place:
                problem = f"{place}: {problem}"
        except InvalidQuotaRules as error:
            problem = f"{place}: {error}" if place else str(error)
        except (OSError, UnicodeDecodeError) as error:
            raise SettingsError(
                f".env cannot be read as UTF-8 text ({type(error).__name__}). Correct or remove it."
            ) from None
        raise SettingsError(
            f"{problem} Set it in the environment or in .env; .env.example lists every variable."
        ) from None

    def _with_running_dev(self, *, sandbox: bool = True) -> Self:
        """Add the addresses of the `magnetis dev` that serves `home` to variables that are unset.

        Its sandbox and its database apply only if no key and no other address of the API is set,
        and the sandbox only to the unnamed connection.
        """
        running = running_dev(self.home)
        if running is None:
            return self
        found: dict[str, object] = {}
        if running.ui and "dagster_url" not in self.model_fields_set:
            found["dagster_url"] = running.ui
        other_api = "api_url" in self.model_fields_set and self.api_url != running.api_url
        if not sandbox:
            if running.database_url and self.database_url is None and not running.sandbox_key:
                found["database_url"] = SecretStr(running.database_url)
        elif self.api_key is None and not other_api:
            if running.sandbox_key:
                found |= {"api_key": SecretStr(running.sandbox_key), "api_url": running.api_url}
            if running.database_url and self.database_url is None:
                found["database_url"] = SecretStr(running.database_url)
            if running.start_date and "start_date" not in self.model_fields_set:
                found["start_date"] = date.fromisoformat(running.start_date)
        return self.model_copy(update=found)

    @model_validator(mode="after")
    def _check_together(self) -> Self:
        today = datetime.now(self.timezone).date()
        if self.start_date > today:
            raise ValueError(
                f"MAGNETIS_START_DATE: expected a day that is not after today, {today}"
            )
        _ = self.quota_policy
        return self

    @property
    def quota_policy(self) -> QuotaPolicy:
        """The quota rules of the key. Raises InvalidQuotaRules."""
        return QuotaPolicy(
            limit=self.daily_quota,
            zone=self.timezone,
            window=self.quota_window,
            floors=_parse_floors(self.quota_floors),
            release_hours=self.quota_release_hours,
            spread=frozenset(_items(self.quota_spread)),
            calls_per_second=self.calls_per_second,
        )

    @property
    def ui_host_names(self) -> list[str]:
        """The hosts in MAGNETIS_UI_HOSTS and the host of MAGNETIS_DAGSTER_URL."""
        return [*_items(self.ui_hosts), urlsplit(self.dagster_url).hostname or ""]

    @property
    def database_address(self) -> str | None:
        """MAGNETIS_DATABASE_URL with MAGNETIS_DATABASE_PASSWORD; None for the embedded server."""
        if self.database_url is None:
            return None
        url = self.database_url.get_secret_value()
        if self.database_password is None:
            return url
        # a file ends in a line break, but a password never does
        password = quote(self.database_password.get_secret_value().strip(), safe="")
        scheme, _, rest = url.partition("://")
        user, at, host = rest.partition("@")
        if at:
            return url if ":" in user else f"{scheme}://{user}:{password}@{host}"
        # the user comes from the query, a service file or the system
        given = re.search(r"[?&]password=", rest)
        return url if given else f"{url}{'&' if '?' in rest else '?'}password={password}"

    def require_key(self) -> str:
        """Return the API key. Raises SettingsError if none is set."""
        if self.api_key is None and self._missing_key:
            raise SettingsError(f"Connection {self.connection}: {self._missing_key}")
        if self.api_key is None:
            raise SettingsError(
                "MAGNETIS_API_KEY is not set, and no `magnetis dev` with a sandbox runs in "
                f"{self.home.resolve()}. Set the key in the environment or in .env. Create keys in "
                "the Magnetis interface, in the organisation, network or account: "
                "API & connecteurs > API. Without a key, `magnetis dev` starts a local sandbox, "
                "which all commands with the same folder (or MAGNETIS_HOME) then use."
            )
        return self.api_key.get_secret_value()

    @property
    def privacy_keys(self) -> PrivacyKeys | None:
        """The keys in MAGNETIS_PRIVACY_KEY; None if it is not set."""
        return PrivacyKeys.parse(self.privacy_key.get_secret_value()) if self.privacy_key else None

    @property
    def key_fingerprint(self) -> str:
        """Twelve hexadecimal digits that identify the key without revealing it."""
        return hashlib.sha256(f"magnetis-key:{self.require_key()}".encode()).hexdigest()[:12]
