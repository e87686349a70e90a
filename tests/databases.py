"""Reuse the databases of tests while a test leaves nothing but rows: a new one takes 0.3 s.

A database that a test returns is emptied and lent again if its objects, settings and
rights are those of its template. Any other database is dropped.
"""

import time
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier

OBJECTS = """
    SELECT md5(string_agg(fact, E'\\n' ORDER BY fact)) FROM (
        SELECT format('schema %s %s %s', nspname, nspowner, nspacl) AS fact FROM pg_namespace
        WHERE nspname !~ '^pg_(toast_)?temp'
        UNION ALL
        SELECT format('relation %s %s %s %s %s %s', oid::regclass, relkind, relowner, relacl,
            reloptions, relrowsecurity)
        FROM pg_class WHERE relnamespace IN (SELECT oid FROM ours)
        UNION ALL
        SELECT format('column %s %s %s %s %s %s %s', attrelid::regclass, attname, atttypid,
            atttypmod, attnotnull, attidentity, attacl)
        FROM pg_attribute JOIN pg_class ON pg_class.oid = attrelid
        WHERE attnum > 0 AND NOT attisdropped AND relnamespace IN (SELECT oid FROM ours)
        UNION ALL
        SELECT format('default %s %s %s', adrelid::regclass, adnum, pg_get_expr(adbin, adrelid))
        FROM pg_attrdef
        UNION ALL
        SELECT format('constraint %s %s %s', conrelid::regclass, conname, pg_get_constraintdef(oid))
        FROM pg_constraint WHERE connamespace IN (SELECT oid FROM ours)
        UNION ALL
        SELECT format('function %s %s %s', oid::regprocedure, proacl, md5(prosrc)) FROM pg_proc
        WHERE pronamespace IN (SELECT oid FROM ours)
        UNION ALL
        SELECT format('view %s %s', oid::regclass, md5(pg_get_viewdef(oid)))
        FROM pg_class WHERE relkind = 'v' AND relnamespace IN (SELECT oid FROM ours)
        UNION ALL
        SELECT format('trigger %s %s', tgrelid::regclass, tgname) FROM pg_trigger
        WHERE NOT tgisinternal
        UNION ALL
        SELECT format('type %s %s', oid::regtype, typtype) FROM pg_type
        WHERE typnamespace IN (SELECT oid FROM ours) AND typtype <> 'b'
        UNION ALL
        SELECT format('comment %s %s %s', objoid, objsubid, md5(description))
        FROM pg_description WHERE objoid >= 16384
        UNION ALL
        SELECT format('setting %s %s', setrole, setconfig) FROM pg_db_role_setting
        WHERE setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())
        UNION ALL
        SELECT format('database %s %s %s', datdba, datacl, datconnlimit) FROM pg_database
        WHERE datname = current_database()
        UNION ALL
        SELECT format('extension %s', extname) FROM pg_extension
        UNION ALL
        SELECT format('default rights %s', defaclacl) FROM pg_default_acl
        UNION ALL
        SELECT format('large object %s', oid) FROM pg_largeobject_metadata
    ) AS facts
"""
OURS = """
    WITH ours AS (
        SELECT oid FROM pg_namespace
        WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'
    )
"""
FILLED = """
    SELECT nspname, relname FROM pg_class JOIN pg_namespace ON pg_namespace.oid = relnamespace
    WHERE relkind = 'r' AND nspname !~ '^pg_' AND nspname <> 'information_schema'
    AND pg_relation_size(pg_class.oid) > 0
    ORDER BY 1, 2
"""


class Databases:
    """The databases of one server, by template."""

    def __init__(self, server: str) -> None:
        self._server = server
        self._free: dict[str, list[str]] = {}
        self._objects: dict[str, str] = {}
        self._rows: dict[str, dict[tuple[str, str], str]] = {}

    @contextmanager
    def lent(self, template: str) -> Iterator[str]:
        """Yield the URL of a database that equals `template`."""
        name = self._free[template].pop() if self._free.get(template) else self._created(template)
        yield self._url(name)
        # dropping the database of Dagster tests ends the steps that a killed worker leaves behind
        if "dagster" not in template and self._emptied(name, template):
            self._free.setdefault(template, []).append(name)
        else:
            with psycopg.connect(self._server, autocommit=True) as connection:
                connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")

    def _url(self, name: str) -> str:
        return self._server.replace("/postgres?", f"/{name}?")

    def _created(self, template: str) -> str:
        name = f"test_{uuid.uuid4().hex[:12]}"
        with psycopg.connect(self._server, autocommit=True) as connection:
            # without fsync, copying files takes half the time of copying blocks through the log
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template} STRATEGY FILE_COPY")
        if template not in self._objects:
            with psycopg.connect(self._url(name)) as connection:
                self._objects[template] = _objects(connection)
                self._rows[template] = {
                    table: _content(connection, table) for table in _filled(connection)
                }
        return name

    def _emptied(self, name: str, template: str) -> bool:
        """Remove rows that the template lacks; return whether the database equals it."""
        try:
            with psycopg.connect(self._url(name), options="-c lock_timeout=5000") as connection:
                if _has_sessions(connection):
                    return False  # of a process that the test left behind
                if _objects(connection) != self._objects[template]:
                    return False
                kept = self._rows[template]
                if surplus := [table for table in _filled(connection) if table not in kept]:
                    tables = SQL(", ").join(Identifier(*table) for table in surplus)
                    connection.execute(SQL("TRUNCATE {} RESTART IDENTITY CASCADE").format(tables))
                return all(
                    _content(connection, table) == content for table, content in kept.items()
                )
        except psycopg.Error:
            return False  # the test revoked a right, or broke the server


def _has_sessions(connection: psycopg.Connection[Any]) -> bool:
    """Return whether others are connected; a closed session takes a moment to end."""
    for _ in range(20):
        [[others]] = connection.execute(
            "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() "
            "AND pid <> pg_backend_pid() AND backend_type = 'client backend'"
        ).fetchall()
        if not others:
            return False
        connection.rollback()
        time.sleep(0.02)
    return True


def _objects(connection: psycopg.Connection[Any]) -> str:
    return str(connection.execute(OURS + OBJECTS).fetchall()[0][0])


def _filled(connection: psycopg.Connection[Any]) -> list[tuple[str, str]]:
    return [(schema, name) for schema, name in connection.execute(FILLED).fetchall()]


def _content(connection: psycopg.Connection[Any], table: tuple[str, str]) -> str:
    rows = SQL("SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {} AS t")
    return str(connection.execute(rows.format(Identifier(*table))).fetchall()[0][0])
