"""The ledger on a real PostgreSQL: never past the limit, closed by a 429 for everybody, open again on the next local day."""

import multiprocessing
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from multiprocessing.pool import Pool
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy
from sqlalchemy import Engine, text

from magnetis_dagster.database import DatabaseUnwell, connect
from magnetis_dagster.errors import TryAgain
from magnetis_dagster.quota import Charge, Ledger, QuotaExhausted

PARIS = ZoneInfo("Europe/Paris")
CHARGE = Charge(
    collection="calls", route="/calls", page=3, lane="manual", run_id="run-1", first_day=date(2025, 3, 1), last_day=date(2025, 3, 2)
)


def ledger(engine: Engine, *, quota: int = 3, key: str = "aaaaaaaaaaaa", shift: timedelta = timedelta(0)) -> Ledger:
    return Ledger(engine, key_fingerprint=key, daily_quota=quota, zone=PARIS, shift=shift)


def at(engine: Engine, moment: datetime) -> timedelta:
    """The shift that makes the database's clock show `moment`."""
    with engine.connect() as connection:
        now: datetime = connection.execute(text("SELECT clock_timestamp()")).scalar_one()
    return moment - now


def one(engine: Engine, statement: str) -> tuple[object, ...]:
    with engine.connect() as connection:
        return tuple(connection.execute(text(statement)).one())


def test_a_charge_is_written_before_the_call_and_settled_after(engine: Engine) -> None:
    book = ledger(engine)
    number = book.charge(CHARGE)
    assert one(
        engine,
        "SELECT collection, route, page, lane, run_id, first_day::text, last_day::text, settled_at, status "
        "FROM magnetis_ops.api_calls",
    ) == ("calls", "/calls", 3, "manual", "run-1", "2025-03-01", "2025-03-02", None, None)
    book.settle(number, status=200, error=None, rows=250, size=1234, milliseconds=56)
    assert one(engine, "SELECT settled_at IS NOT NULL, status, rows, bytes, milliseconds, error FROM magnetis_ops.api_calls") == (
        True,
        200,
        250,
        1234,
        56,
        None,
    )


def test_the_limit_holds_and_the_error_names_the_next_local_midnight(engine: Engine) -> None:
    # 31 March 2025 in Paris begins at 22:00 UTC on the 30th, the day on which the clocks go forward
    book = ledger(engine, shift=at(engine, datetime(2025, 3, 30, 12, tzinfo=UTC)))
    for _ in range(3):
        book.charge(CHARGE)
    with pytest.raises(QuotaExhausted, match=r"all 3 calls of 2025-03-30 are spent.*2025-03-31 00:00:00 CEST") as raised:
        book.charge(CHARGE)
    assert isinstance(raised.value, TryAgain)
    assert raised.value.available_at == datetime(2025, 3, 30, 22, tzinfo=UTC)
    assert one(engine, "SELECT used, (SELECT count(*) FROM magnetis_ops.api_calls) FROM magnetis_ops.quota_days") == (3, 3)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (datetime(2025, 3, 29, 22, 59, tzinfo=UTC), datetime(2025, 3, 29, 23, 1, tzinfo=UTC)),
        (datetime(2025, 3, 30, 21, 59, tzinfo=UTC), datetime(2025, 3, 30, 22, 1, tzinfo=UTC)),
        (datetime(2025, 10, 26, 22, 59, tzinfo=UTC), datetime(2025, 10, 26, 23, 1, tzinfo=UTC)),
    ],
    ids=["winter", "23-hour day", "25-hour day"],
)
def test_the_day_turns_at_local_midnight(engine: Engine, before: datetime, after: datetime) -> None:
    book = ledger(engine, quota=1, shift=at(engine, before))
    book.charge(CHARGE)
    with pytest.raises(QuotaExhausted):
        book.charge(CHARGE)
    book.shift = at(engine, after)
    book.charge(CHARGE)
    assert book.state().used == 1


def test_keys_have_their_own_budget(engine: Engine) -> None:
    first, second = ledger(engine, quota=1), ledger(engine, quota=1, key="bbbbbbbbbbbb")
    first.charge(CHARGE)
    second.charge(CHARGE)
    assert (first.state().left, second.state().left) == (0, 0)


def test_a_closed_key_is_closed_for_every_process_until_the_server_says(engine: Engine) -> None:
    start = at(engine, datetime(2025, 6, 1, 10, tzinfo=UTC))
    book, other = ledger(engine, shift=start), ledger(engine, shift=start)
    book.close(90)
    with pytest.raises(QuotaExhausted, match="the API answered that this key has no calls left") as raised:
        other.charge(CHARGE)
    assert timedelta(seconds=80) < raised.value.available_at - raised.value.state.at <= timedelta(seconds=90)
    other.shift += timedelta(seconds=91)
    other.charge(CHARGE)


def test_closed_without_a_time_means_until_the_next_day(engine: Engine) -> None:
    book = ledger(engine, shift=at(engine, datetime(2025, 6, 1, 10, tzinfo=UTC)))
    assert book.close(None) == datetime(2025, 6, 1, 22, tzinfo=UTC)
    book.close(5)  # a later, shorter word does not open it
    assert book.state().available_at == datetime(2025, 6, 1, 22, tzinfo=UTC)
    book.shift += timedelta(hours=12, seconds=1)
    book.charge(CHARGE)


def test_closed_beyond_midnight_stays_closed_on_the_next_day(engine: Engine) -> None:
    book = ledger(engine, shift=at(engine, datetime(2025, 6, 1, 21, 59, tzinfo=UTC)))
    book.close(3600)
    book.shift += timedelta(minutes=30)
    assert book.state().day == date(2025, 6, 2)
    with pytest.raises(QuotaExhausted):
        book.charge(CHARGE)


def test_an_unreachable_ledger_grants_nothing() -> None:
    book = ledger(connect("postgresql://nobody:secret-password@127.0.0.1:1/none"))
    with pytest.raises(DatabaseUnwell, match="charge an API call \\(so none was sent\\)") as raised:
        book.charge(CHARGE)
    assert "secret-password" not in str(raised.value)


def _spend(url: str, tries: int) -> int:
    engine = connect(url)
    book = ledger(engine, quota=100)
    granted = 0
    for _ in range(tries):
        try:
            book.charge(CHARGE)
            granted += 1
        except QuotaExhausted:
            pass
    engine.dispose()
    return granted


@pytest.fixture
def processes() -> Iterator[Pool]:
    with multiprocessing.get_context("spawn").Pool(6) as pool:
        yield pool


def test_processes_together_never_pass_the_limit(database_url: str, engine: Engine, processes: Pool) -> None:
    granted = processes.starmap(_spend, [(database_url, 30)] * 6)
    assert sum(granted) == 100
    assert one(engine, "SELECT used, (SELECT count(*) FROM magnetis_ops.api_calls) FROM magnetis_ops.quota_days") == (100, 100)


def test_statement_parameters_are_hidden_in_driver_errors(engine: Engine) -> None:
    with pytest.raises(sqlalchemy.exc.DBAPIError) as raised, engine.connect() as connection:
        connection.execute(text("SELECT 1 / :zero, :number"), {"zero": 0, "number": "0033199000001"})
    assert "0033199000001" not in str(raised.value)
