"""Load days of one collection: fetch pages, stage rows, commit windows.

    read_days      select the days to read
      fetch        RangeReader splits a range into windows, WindowReader requests their pages
      stage        each page is written to a temporary table as it arrives
      commit       one transaction per window; the next window is fetched meanwhile

A committed window stays, whatever happens to the next one.
"""

import time
from collections.abc import AsyncGenerator, Iterable, Iterator, Mapping, Sequence
from contextlib import aclosing
from dataclasses import replace
from datetime import date

from magnetis_dagster.catalog import Collection
from magnetis_dagster.ingest.errors import OpenDay, PastSnapshot
from magnetis_dagster.ingest.range_reader import RangeReader, StagedWindow
from magnetis_dagster.ingest.results import DayResult, WindowResult, day_results
from magnetis_dagster.ingest.run_parts import RunParts
from magnetis_dagster.ingest.windows import Window, contiguous
from magnetis_dagster.ingest.witnesses import SearchCapped
from magnetis_dagster.warehouse import (
    Doubt,
    DoubtReason,
    Emptied,
    MergedDay,
    MergeResult,
    Rules,
    WindowFacts,
    age_days,
)
from magnetis_dagster.warehouse.source import claim

MOST_READ_ALONE = 7
"""Days of one load that are read again, each alone.

Without a limit, a key that has lost its scope would double the price of a load.
"""


class Pipeline:
    """Loads days of one collection, once."""

    def __init__(self, parts: RunParts, collection: Collection) -> None:
        self._parts = parts
        self._collection = collection
        self._warehouse = parts.warehouse
        self._requested: frozenset[date] = frozenset()
        """Days that the caller requested."""
        self._read_alone: set[date] = set()
        """Requested days to read again, each alone."""
        self._read_shorter: set[date] = set()
        """Requested days to read again in shorter windows."""
        self._caps: set[int] = set()
        """Row counts at which the API turned out to cap searches."""

    def read_days(self, days: Sequence[date]) -> Iterator[WindowResult]:
        """Load days of an events collection; yield each window once it is committed."""
        today = self._parts.today()
        if open_days := [day for day in days if day >= today]:
            raise OpenDay(self._collection, open_days[0], today, self._zone)
        self._requested = frozenset(days)
        self._claim_source()
        committed = self._committed_by_this_work(days)
        for window in contiguous(committed):
            yield self._skipped(window, committed)
        ranges = contiguous(day for day in days if day not in committed)
        while ranges:
            yield from self._load(ranges)
            # windows may have been committed before the cap was found
            self._reopen_capped_days()
            alone = sorted(self._read_alone - self._read_shorter)
            ranges = [*contiguous(self._read_shorter), *(Window(day, day) for day in alone)]
            self._read_alone, self._read_shorter, self._caps = set(), set(), set()

    def read_snapshot(self, day: date) -> WindowResult:
        """Load the present state of a collection as the snapshot of `day`."""
        window = Window(day, day)
        if committed := self._committed_by_this_work([day]):
            return self._skipped(window, committed)
        today = self._parts.today()
        if day != today:
            if committed := self._warehouse.completed_days(self._collection, [day]):
                return self._skipped(window, committed)
            raise PastSnapshot(self._collection, day, today, self._zone)
        self._claim_source()
        [result] = self._load([window])
        return result

    @property
    def _zone(self) -> str:
        return str(self._parts.zones.partition.key)

    def _claim_source(self) -> None:
        """Raise ForeignSource if another key or address has filled the tables."""
        claim(
            self._warehouse.engine,
            self._collection,
            key_fingerprint=self._parts.ledger.key_fingerprint,
            origin=self._parts.origin,
            connection_name=self._warehouse.connection_name,
        )

    def _committed_by_this_work(self, days: Sequence[date]) -> dict[date, MergedDay]:
        run = self._parts.run
        if not run.resumes:
            return {}
        return self._warehouse.completed_days(self._collection, days, run_id=run.work_id)

    def _load(self, ranges: Iterable[Window]) -> Iterator[WindowResult]:
        return self._parts.threads.commit_each(
            self._fetch_and_stage(ranges), self._commit, StagedWindow.close
        )

    async def _fetch_and_stage(
        self, ranges: Iterable[Window]
    ) -> AsyncGenerator[StagedWindow, None]:
        for range_ in ranges:
            reader = RangeReader(self._parts, self._collection, range_, self._learn_cap)
            async with aclosing(reader.windows()) as windows:
                async for staged in windows:
                    yield staged

    def _commit(self, staged: StagedWindow) -> WindowResult:
        permit = self._parts.permit
        try:
            if permit and not permit.is_fresh():
                permit.confirm()
            facts = replace(
                staged.facts,
                milliseconds=int((time.monotonic() - staged.started) * 1000),
                run_id=self._parts.run.work_id,
                rules=self._rules(staged.window),
            )
            merged = self._warehouse.commit(staged.staging, facts)
            if merged.days:
                self._parts.threads.call(self._parts.on_advance)
            return self._result(staged, facts, merged)
        finally:
            staged.close()

    def _result(
        self, staged: StagedWindow, facts: WindowFacts, merged: MergeResult
    ) -> WindowResult:
        seconds = time.monotonic() - staged.started
        kept, doubted = self._resolve_doubts(staged.window, merged.doubted)
        others = [*merged.superseded, *kept]
        committed = self._warehouse.completed_days(self._collection, others) if others else {}
        misfits = dict(staged.staging.misfits)
        if merged.moved:
            misfits["day"] = merged.moved
        changes = None
        if merged.days:
            changes = self._warehouse.changes(self._collection, staged.window.first, facts.read_at)
        return WindowResult(
            window=staged.window,
            days=day_results([*merged.days, *committed.values()], facts, seconds),
            announced=facts.announced,
            received=facts.received,
            padding=merged.padding,
            quarantined=merged.quarantined,
            api_calls=facts.api_calls,
            bytes=facts.bytes,
            seconds=seconds,
            quota_left=self._quota_left(),
            rows_held=self._warehouse.count_rows(self._collection),
            misfits=misfits,
            unknown=sorted(staged.staging.unknown),
            replaced_characters=staged.replaced_characters,
            witness_calls=facts.witness_calls,
            doubted=doubted,
            changes=changes,
        )

    def _skipped(self, window: Window, committed: Mapping[date, MergedDay]) -> WindowResult:
        """Return the result of a window that was committed before."""
        today = self._parts.today()
        days = [DayResult.of(committed[day], age_days(day, today)) for day in window.days]
        rows = sum(day.rows for day in days)
        return WindowResult(
            window=window,
            days=days,
            announced=rows,
            received=rows,
            quarantined=self._warehouse.quarantined(self._collection, window.days),
            quota_left=self._quota_left(),
            rows_held=self._warehouse.count_rows(self._collection),
            skipped=True,
            changes=self._warehouse.changes(self._collection, window.first),
        )

    def _quota_left(self) -> int:
        return self._parts.ledger.left(self._parts.run.lane)

    def _rules(self, window: Window) -> Rules:
        """Return the rules for a window: only a day that is read alone may be emptied."""
        rules = self._warehouse.rules
        if len(window.days) == 1 or rules.emptied is Emptied.KEEP:
            return rules
        return replace(rules, emptied=Emptied.DOUBT)

    def _resolve_doubts(
        self, window: Window, doubted: Mapping[date, Doubt]
    ) -> tuple[list[date], dict[date, Doubt]]:
        """Return the doubted days whose rows are kept, and those to report.

        Some of the others are scheduled to be read again, each alone.
        """
        unreadable = {
            day: doubt for day, doubt in doubted.items() if doubt.reason is DoubtReason.UNREADABLE
        }
        fewer_rows = [day for day in doubted if day not in unreadable]
        if self._warehouse.rules.emptied is Emptied.KEEP:
            return fewer_rows, unreadable
        if len(window.days) == 1:
            return [], dict(doubted)
        again = sorted(fewer_rows)[: max(0, MOST_READ_ALONE - len(self._read_alone))]
        self._read_alone.update(again)
        if again:
            self._parts.threads.report(
                f"{window}: {len(again)} days came with far fewer rows than the table contains. "
                "Reading each of them alone."
            )
        return [], {day: doubt for day, doubt in doubted.items() if day not in again}

    def _learn_cap(self, capped: SearchCapped) -> None:
        """Store a cap, and reopen days of windows that announced exactly its rows."""
        self._warehouse.learn_row_cap(self._collection, capped.rows, str(capped))
        self._caps.add(capped.rows)
        self._reopen_capped_days()

    def _reopen_capped_days(self) -> None:
        for cap in self._caps:
            reopened = self._warehouse.discard_windows_at_cap(self._collection, cap)
            self._read_shorter.update(self._requested.intersection(reopened))
            if others := [day for day in reopened if day not in self._requested]:
                self._parts.threads.report(
                    f"{self._collection.name}: {len(others)} days between {others[0]} and "
                    f"{others[-1]} were read under the cap of {cap} rows. They are no longer "
                    "marked as complete: load them again."
                )
