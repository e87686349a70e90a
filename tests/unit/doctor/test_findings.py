"""A group of checks has a time limit, and its failure is a finding."""

import threading
from collections.abc import Iterator

from magnetis_dagster.doctor.findings import Finding, Status, ok, within
from magnetis_dagster.errors import PermanentError


def test_findings_are_passed_on() -> None:
    assert within(5, "x", lambda: [ok("a", "fine")]) == [Finding("a", Status.OK, "fine")]


def test_a_check_without_an_end_is_an_error_and_keeps_the_others() -> None:
    never = threading.Event()

    def checks() -> Iterator[Finding]:
        yield ok("a", "fine")
        never.wait(20)

    first, late = within(0.2, "slow", checks)
    never.set()
    assert first.name == "a"
    assert (late.name, late.status) == ("slow", Status.ERROR)
    assert "within 0 s" in late.text


def test_known_errors_keep_their_text_and_unknown_ones_do_not() -> None:
    def known() -> list[Finding]:
        raise PermanentError("the server is down")

    def unknown() -> list[Finding]:
        raise RuntimeError("postgresql://me:hush-5577@db")

    assert within(5, "database", known)[0].text == "the server is down"
    [found] = within(5, "database", unknown)
    assert found.status is Status.ERROR
    assert "RuntimeError" in found.text
    assert "hush" not in str(found)
