-- Pages of windows that are not committed yet.

-- name: store_page
-- Store a page; replace an older one only if it belongs to other requests or has expired.
INSERT INTO magnetis_ops.pages
    (connection, work, collection, first_day, last_day, page, fetched_at, body, request)
VALUES (:connection, :work, :collection, :first, :last, :page, :fetched_at, :body, :request)
ON CONFLICT (connection, work, collection, first_day, last_day, page) DO UPDATE
    SET fetched_at = excluded.fetched_at, body = excluded.body, request = excluded.request
    WHERE pages.request <> excluded.request
       OR pages.fetched_at < excluded.fetched_at - make_interval(days => :longest)

-- name: windows
-- Select the windows with usable pages.
SELECT first_day, last_day, min(fetched_at), array_agg(page)
FROM magnetis_ops.pages
WHERE connection = :connection
  AND work = :work
  AND collection = :collection
  AND request = :request
  AND fetched_at > magnetis_ops.now() - make_interval(days => :longest)
GROUP BY 1, 2
ORDER BY 1, 2

-- name: body
-- Select the body of one page.
SELECT body FROM magnetis_ops.pages
WHERE connection = :connection
  AND work = :work
  AND collection = :collection
  AND first_day = :first
  AND last_day = :last
  AND page = :page

-- name: delete_window
-- Delete the pages of one window.
DELETE FROM magnetis_ops.pages
WHERE connection = :connection
  AND work = :work
  AND collection = :collection
  AND first_day = :first
  AND last_day = :last

-- name: delete_committed
-- Delete the run's pages that overlap a committed window, and expired pages of the collection.
-- A retry may split the days into other windows and never use the overlapping pages.
DELETE FROM magnetis_ops.pages
WHERE connection = :connection
  AND collection = :collection
  AND ((work = :work AND first_day <= :last AND last_day >= :first)
       OR fetched_at < magnetis_ops.now() - make_interval(days => :longest))
