"""Stop signals that the test sends to its own process."""

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


def test_only_the_first_signal_interrupts_and_all_are_counted() -> None:
    with StopSignals() as signals:
        with pytest.raises(Interrupted):
            send(signal.SIGINT)
        send(signal.SIGINT)
        assert signals.count == 2


def test_a_deferring_block_completes_before_the_interrupt() -> None:
    finished = []

    def work() -> None:
        with signals.defer():
            send(signal.SIGTERM)
            finished.append("yes")

    with StopSignals() as signals, pytest.raises(Interrupted):
        work()
    assert finished


def test_the_interrupt_replaces_an_error_of_the_deferring_block() -> None:
    def start() -> None:
        with signals.defer():
            send(signal.SIGINT)
            raise OSError("initdb was interrupted by the terminal")

    with StopSignals() as signals, pytest.raises(Interrupted):
        start()


def test_without_a_signal_an_error_of_the_deferring_block_propagates() -> None:
    with StopSignals() as signals, pytest.raises(OSError, match="disk"), signals.defer():
        raise OSError("disk")


def test_ignored_signals_do_not_interrupt() -> None:
    with StopSignals() as signals:
        signals.ignore()
        send(signal.SIGINT)
        assert signals.count == 1


def test_the_previous_handlers_are_restored() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with StopSignals():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


# Python warns about an exception in a finalizer
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_signal_during_a_finalizer_is_not_lost() -> None:
    class Collected:
        def __del__(self) -> None:
            send(signal.SIGINT)

    with StopSignals() as signals:
        signals.check()
        Collected()  # finalized immediately; Python discards its exception
        with pytest.raises(Interrupted, match="SIGINT"):
            signals.check()
        signals.ignore()
        signals.check()
