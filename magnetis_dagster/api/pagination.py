"""Decide which page to request next, and whether the list is complete.

Every reader of the API uses this module. It makes no request and reads neither clock nor database.
The announcement (`total`, `last_page`, `per_page`) is one witness among others. `links.next`, full
pages and the received rows may extend it, but never shorten it.
"""

from math import ceil

from magnetis_dagster.api import Page


class Pagination:
    """The pages of one list, requested with `limit` rows per page.

    Page 1 is added first, the others in any order.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.announced_pages = 1
        """Pages that page 1 announces."""
        self.pages = 1
        """Pages known to exist: the announced ones and those found after them."""
        self.totals: set[int] = set()
        """Every `meta.total` that a page announced."""
        self.rows = 0
        """Rows received, including repeated ones."""
        self._first: Page | None = None
        self._last: Page | None = None
        self._last_number = 0
        self._rows_beyond = 0
        self._sizes: dict[int, int] = {}
        self._empty_page: int | None = None
        self._repeating_page: int | None = None
        self._repeats = False

    def add(self, number: int, page: Page) -> None:
        """Add a received page."""
        if number == 1:
            self._first = page
            self.announced_pages = self.pages = _pages_announced(page)
        if page.total is not None and (page.rows or number <= self.announced_pages):
            self.totals.add(page.total)
        self.rows += len(page.rows)
        if number > self.announced_pages and self._last is not None:
            # a route that ignores `page` returns the same rows each time
            self._repeats = page.rows == self._last.rows
            self._rows_beyond += 0 if self._repeats else len(page.rows)
            self.rows -= len(page.rows) if self._repeats else 0
        if page.rows and not self._repeats:
            self._sizes[number] = len(page.rows)
        if (
            self._first
            and 1 < number <= self.announced_pages
            and page.rows
            and page.rows == self._first.rows
        ):
            self._repeating_page = number
        if not page.rows and number <= self.announced_pages and (number > 1 or page.total):
            self._empty_page = min(number, self._empty_page or number)
        if number > self._last_number:
            self._last, self._last_number = page, number
            self.pages = max(self.pages, number)

    @property
    def total(self) -> int | None:
        """Rows that page 1 announces; None if it announces none."""
        return self._first.total if self._first else None

    @property
    def has_gap(self) -> bool:
        """Whether an announced page was empty or repeated page 1.

        Later pages need not be requested then.
        """
        return self.has_empty_page or self._repeating_page is not None

    @property
    def has_empty_page(self) -> bool:
        """Whether an announced page was empty."""
        return self._empty_page is not None

    @property
    def last_page_with_rows(self) -> int:
        """Highest page that contained rows of its own."""
        return max(self._sizes, default=0)

    @property
    def rows_of_page_1(self) -> int:
        """Rows on page 1."""
        return self._sizes.get(1, 0)

    def has_unproved_end(self, distinct: int) -> bool:
        """Return whether only the absence of another page suggests that the list is complete.

        Without a credible total, a list that ends with a full page may be truncated: by a server
        that serves no deeper page, ignores `page`, or limits a search.
        """
        first = self._first
        if first is None or self.credible_total(distinct) is not None or not self._sizes:
            return False
        rows = self._sizes[self.last_page_with_rows]
        if self.last_page_with_rows > 1:
            return rows >= self.rows_of_page_1
        # an API that silently lowers the page size chooses a round one
        announced = first.per_page or first.last_page
        return (
            bool(first.has_next)
            or rows >= (first.per_page or self._limit)
            or (not announced and rows % 10 == 0)
        )

    def mark_end(self, repeated: Page | None = None) -> None:
        """Mark the list as ended.

        The API rejected an unannounced page, or returned `repeated`, which contains no new row.
        """
        self._repeats = True
        if repeated:
            self._sizes.pop(self._last_number, None)
            self.rows -= len(repeated.rows)
            self._rows_beyond -= len(repeated.rows)

    def next_page(self) -> int | None:
        """Return the next page to request; None if the list provably ended.

        Costs one extra request if the last page is full (one list in 250), and one if nothing is
        announced.
        """
        first, last = self._first, self._last
        if first is None or last is None or self._repeats:
            return None
        if not last.rows:
            return 2 if self._last_number == 1 and last.has_next else None
        full = (
            len(first.rows)
            if self._last_number > 1
            else min(self._limit, last.per_page or self._limit)
        )
        ends = last.has_next is False or last.total is not None or last.last_page is not None
        ends = (
            ends
            or self.total is not None
            or first.last_page is not None
            or (last.per_page or 0) > len(last.rows)
        )
        short_of_total = self.total is not None and self.rows < self.total
        if last.has_next or len(last.rows) >= full or not ends or short_of_total:
            return self._last_number + 1
        return None

    def contradiction(self, distinct: int, repeated: int = 0) -> str | None:
        """Return how the pages contradict each other; None if they form one complete list.

        `distinct`: distinct rows on the pages. `repeated`: rows that occur twice on one page.
        """
        if len(self.totals) > 1:
            totals = ", ".join(map(str, sorted(self.totals)))
            return (
                f"its pages announced different totals ({totals}), so rows were added or removed "
                "during the read"
            )
        announced = self.announced_rows(distinct)
        if announced == distinct and self.total is not None:
            return None
        causes = []
        if self.total is None and self.rows > distinct:
            causes.append(f"{self.rows - distinct} of {self.rows} rows have a duplicate id")
        if announced != distinct:
            causes.append(
                f"the API announced {announced} rows and returned {distinct} distinct ones"
            )
        if self._repeating_page is not None:
            causes.append(
                f"page {self._repeating_page} repeats page 1, so the route seems to ignore `page`"
            )
        elif self._empty_page is not None:
            causes.append(f"page {self._empty_page} of {self.announced_pages} was empty")
        elif self._last is not None and self._last.has_next and not self._last.rows:
            causes.append(f"page {self._last_number} was empty but announces another page")
        elif announced != distinct and repeated:
            causes.append(f"{repeated} rows occur twice on one page")
        elif announced != distinct and self.rows > distinct:
            causes.append(
                f"{self.rows - distinct} rows occur twice, so rows moved between pages during "
                "the read"
            )
        return "; ".join(causes) or None

    def announced_rows(self, distinct: int) -> int:
        """Return the announced rows of the list.

        Returns `distinct` if there is no credible total.
        """
        total = self.credible_total(distinct)
        return distinct if total is None else total

    def credible_total(self, distinct: int) -> int | None:
        """Return the total; None if page 1 announces none, or if later pages prove it too low.

        Some servers announce the rows of the page as the total.
        """
        is_disproved = self.total is not None and self._rows_beyond and distinct > self.total
        return None if is_disproved else self.total


def _pages_announced(first: Page) -> int:
    by_total = ceil((first.total or 0) / len(first.rows)) if first.rows else 1
    # `contradiction` handles an empty page 1 that announces rows
    return max(1, first.last_page or 1, by_total)
