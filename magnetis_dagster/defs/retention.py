"""The asset `retention` and its schedule: mask old values, once a day.

Its checks search for values that should be masked, and for erased persons. No API request.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import dagster as dg

from magnetis_dagster.catalog import Catalogue, load_catalogue
from magnetis_dagster.connections import Connection, load_connections
from magnetis_dagster.defs.connection_assets import OWNER
from magnetis_dagster.defs.step_failures import failure
from magnetis_dagster.errors import MagnetisError

if TYPE_CHECKING:
    from magnetis_dagster.warehouse.retention import Retained

NAME = "retention"
SCHEDULE = "daily_retention"
CRON = "0 4 * * *"
"""After the daily jobs and the nightly prune, and outside 02:00 to 03:00, which a clock change
skips or repeats."""
RETENTION_KEPT = "retention_kept"
SUPPRESSED_ABSENT = "suppressed_absent"
SHOWN = 10


@dataclass(frozen=True, slots=True)
class Retention:
    """The daily masking of old values, and the names of its definitions."""

    load: Callable[[], Sequence[Connection]]
    """Returns the declared connections whose rows are masked."""
    zone: str
    key: dg.AssetKey
    name: str = NAME
    schedule: str = SCHEDULE
    with_removed: bool = False
    """Whether rows of removed connections are masked too: only in our own code location."""

    @classmethod
    def of_location(cls, zone: str) -> "Retention":
        """Return the retention of our own code location, for all connections."""
        key = dg.AssetKey(["magnetis", NAME])
        return cls(load_connections, zone, key, with_removed=True)

    @classmethod
    def of_connection(cls, connection: Connection) -> "Retention":
        """Return the retention of one connection in a host project."""
        return cls(
            lambda: [connection.reload()],
            connection.settings.timezone.key,
            dg.AssetKey(connection.path(NAME)),
            connection.scoped(NAME),
            connection.scoped(SCHEDULE),
        )

    def definitions(self, *, scheduled: bool = True) -> dg.Definitions:
        """Return the asset with its checks, the job and, if wanted, its schedule."""
        job = dg.define_asset_job(
            self.name,
            selection=dg.AssetSelection.assets(self.key),
            description="Masks values that have reached an age of the plan for personal data. No "
            "API request.",
            executor_def=dg.in_process_executor,
        )
        schedule = dg.ScheduleDefinition(
            name=self.schedule,
            job=job,
            cron_schedule=CRON,
            execution_timezone=self.zone,
            default_status=dg.DefaultScheduleStatus.RUNNING,
            description=f"Runs `{self.name}` every day. No API request.",
        )
        return dg.Definitions(
            assets=[self._asset()], jobs=[job], schedules=[schedule] if scheduled else []
        )

    def _asset(self) -> dg.AssetsDefinition:
        checks = {
            RETENTION_KEPT: "No column contains a value that is older than the plan allows.",
            SUPPRESSED_ABSENT: "No row is about an erased person.",
        }

        @dg.asset(
            key=self.key,
            group_name="operations",
            description="Masks values that have reached an age of the plan, and completes "
            "interrupted erasures. The plan is `privacy` in MAGNETIS_CONFIG.",
            owners=[OWNER],
            kinds={"magnetis", "postgres"},
            check_specs=[
                dg.AssetCheckSpec(name, asset=self.key, description=about)
                for name, about in checks.items()
            ],
        )
        def retention(
            context: dg.AssetExecutionContext,
        ) -> Iterator[dg.MaterializeResult[None]]:
            try:
                yield _retain(context, self)
            except MagnetisError as error:
                raise failure(error) from None

        return retention


def _retain(context: dg.AssetExecutionContext, what: Retention) -> dg.MaterializeResult[None]:
    from magnetis_dagster.warehouse.erasure import (
        complete_erasures,
        delete_pages_of_suppressed,
        suppressed_rows,
    )
    from magnetis_dagster.warehouse.retention import overdue, retain
    from magnetis_dagster.wiring import by_database, open_engine, warehouse_of, warehouses_of

    rows: Counter[str] = Counter()
    examined = completed = pages = 0
    overdue_rows: Counter[str] = Counter()
    present: Counter[str] = Counter()
    connections = what.load()
    for group in by_database(connections):
        with open_engine(group[0].settings) as engine:
            for each in group:
                warehouse_of(engine, each.settings, each.catalogue).prepare(context.log.info)
            # others know the tables of their connections
            own = {each.name: warehouse_of(engine, each.settings, each.catalogue) for each in group}
            chosen = warehouses_of(engine, group) if what.with_removed else own
            completed += len(complete_erasures(engine, chosen, context.log.info))
            for warehouse in chosen.values():
                for result in retain(warehouse, context.log.info):
                    examined += result.masked.read
                    rows.update(_named(result))
                pages += delete_pages_of_suppressed(warehouse)
                for collection in warehouse.catalogue.collections.values():
                    for data_class, number in overdue(warehouse, collection).items():
                        overdue_rows[f"{collection.name}: {data_class}"] += number
                present.update(suppressed_rows(warehouse))
    masked = sum(rows.values())
    less_personal = _declassified(connections)
    context.log.info(f"Masked {masked:,} values, examined {examined:,} rows")
    return dg.MaterializeResult(
        metadata={
            "masked values": masked,
            "examined rows": examined,
            "completed erasures": completed,
            "deleted pages": pages,
            **{f"masked {name}": number for name, number in sorted(rows.items())},
            **(
                {"declared less personal": dg.MetadataValue.json(less_personal)}
                if less_personal
                else {}
            ),
        },
        check_results=[
            _check(RETENTION_KEPT, overdue_rows, "Rows with a value that should be masked"),
            _check(SUPPRESSED_ABSENT, present, "Rows about erased persons"),
        ],
    )


def _named(result: "Retained") -> Counter[str]:
    return Counter({f"{result.collection}: {name}": n for name, n in result.masked.classes.items()})


def _check(name: str, found: Counter[str], words: str) -> dg.AssetCheckResult:
    shown = ", ".join(f"{place} {number:,}" for place, number in found.most_common(SHOWN))
    return dg.AssetCheckResult(
        check_name=name,
        passed=not found,
        description=f"{words}: {shown}." if found else None,
        metadata={"rows": sum(found.values())},
    )


def _declassified(connections: Sequence[Connection]) -> list[str]:
    """Return what MAGNETIS_CONFIG declares less personal than the shipped catalogue does."""
    from magnetis_dagster.privacy.plan import declassified, load_plan

    shipped: Catalogue = load_catalogue()
    found: set[str] = set()
    for each in connections:
        plan = load_plan(each.settings.config, each.catalogue)
        found |= set(declassified(each.catalogue, shipped, plan))
    return sorted(found)
