"""The stop signals, sent to this very process."""

import os
import signal

import pytest

from magnetis_dagster.dev.signals import Interrupted, StopSignals


def send(number: int) -> None:
    os.kill(os.getpid(), number)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_each_stop_signal_interrupts(number: signal.Signals) -> None:
    with StopSignals(), pytest.raises(Interrupted, match=number.name) as caught:
        send(number)
    assert caught.value.signum == number


def test_only_the_first_interrupts_and_all_are_counted() -> None:
    with StopSignals() as signals:
        with pytest.raises(Interrupted):
            send(signal.SIGINT)
        send(signal.SIGINT)
        assert signals.count == 2


def test_a_held_block_is_finished_first() -> None:
    finished = []

    def work() -> None:
        with signals.held():
            send(signal.SIGTERM)
            finished.append("yes")

    with StopSignals() as signals, pytest.raises(Interrupted):
        work()
    assert finished


def test_the_signal_takes_the_place_of_the_error_that_it_caused_in_a_held_block() -> None:
    def start() -> None:
        with signals.held():
            send(signal.SIGINT)
            raise OSError("initdb was interrupted by the terminal")

    with StopSignals() as signals, pytest.raises(Interrupted):
        start()


def test_errors_of_a_held_block_pass_where_no_signal_came() -> None:
    with StopSignals() as signals, pytest.raises(OSError, match="disk"), signals.held():
        raise OSError("disk")


def test_after_hold_none_interrupts() -> None:
    with StopSignals() as signals:
        signals.hold()
        send(signal.SIGINT)
        assert signals.count == 1


def test_handlers_are_put_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


@pytest.mark.filterwarnings(
    "ignore::pytest.PytestUnraisableExceptionWarning"
)  # Python's word for what this test brings about
def test_a_signal_that_a_finalizer_swallows_is_not_lost() -> None:
    class Collected:
        def __del__(self) -> None:
            send(signal.SIGINT)

    with StopSignals() as signals:
        signals.check()
        Collected()  # collected at once, and Python drops what is raised meanwhile
        with pytest.raises(Interrupted, match="SIGINT"):
            signals.check()
        signals.hold()
        signals.check()
