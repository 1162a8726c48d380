"""Signals and the guardian: what each asks for; real signals, and a main thread that is stuck, in a subprocess."""

from __future__ import annotations

import signal

import pytest

from greenworker.worker.signals import End, EndSignals
from tests.support.greenproc import POOLS, run_patched

TERM, INT, QUIT = signal.SIGTERM, signal.SIGINT, signal.SIGQUIT
WARM, COLD = End.WARM, End.COLD

PARTS = """
    import os, queue, signal, sys, time
    from greenworker.green.greens import library
    from greenworker.worker.guardian import Guardian
    from greenworker.worker.signals import END_SIGNALS, SignalListener

    LIBRARY = library(POOL)
    acted = queue.Queue()
"""


@pytest.mark.parametrize(
    ("signals", "wishes"),
    [
        ([TERM], [WARM]),
        ([TERM, TERM, TERM], [WARM, WARM, WARM]),
        ([INT], [WARM]),
        ([INT, INT, INT], [WARM, COLD, COLD]),
        ([TERM, INT], [WARM, WARM]),
        ([TERM, INT, INT], [WARM, WARM, COLD]),
        ([QUIT], [COLD]),
        ([INT, TERM, QUIT], [WARM, WARM, COLD]),
        ([signal.SIGUSR1], [None]),
    ],
)
def test_what_each_signal_asks_for(signals: list[signal.Signals], wishes: list[End | None]) -> None:
    asked = EndSignals()
    assert [asked.wish(signum) for signum in signals] == wishes


@pytest.mark.parametrize("pool", POOLS)
def test_listener_acts_on_its_signals_and_leaves_nothing(pool: str) -> None:
    run_patched(
        pool,
        PARTS
        + """
    def files():
        return len(os.listdir("/proc/self/fd"))

    def wait_until_closed(limit, seconds=5.0):
        deadline = time.monotonic() + seconds
        while files() > limit:
            assert time.monotonic() < deadline, (files(), limit)
            time.sleep(0.01)

    old = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    signal.signal(signal.SIGUSR1, lambda *_: None)
    for round in range(5):
        guardian = Guardian(LIBRARY, lambda signum: None)
        with SignalListener(END_SIGNALS, acted.put, guardian):
            for signum in (signal.SIGUSR1, *END_SIGNALS, signal.SIGTERM):
                os.kill(os.getpid(), signum)
                if signum != signal.SIGUSR1:  # another part's signal: not ours to act on
                    assert acted.get(timeout=5) == signum, signum
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_IGN
        assert signal.set_wakeup_fd(-1) == -1
        if round == 0:
            limit = files()  # with what the threads of this round have not closed yet: four rounds would leave more
    wait_until_closed(limit)
    assert acted.empty()
    """,
    )


@pytest.mark.parametrize("pool", POOLS)
def test_action_that_fails_does_not_end_the_listener(pool: str) -> None:
    run_patched(
        pool,
        PARTS
        + """
    def act(signum):
        acted.put(signum)
        if signum == signal.SIGTERM:
            raise RuntimeError("broken action")

    with SignalListener(END_SIGNALS, act, Guardian(LIBRARY, lambda signum: None)):
        for signum in (signal.SIGTERM, signal.SIGQUIT):
            os.kill(os.getpid(), signum)
            assert acted.get(timeout=5) == signum
    """,
    )


STUCK = (
    PARTS
    + """
    import logging

    def end(exit_code, main_thread):
        import traceback
        stack = "".join(traceback.format_stack(sys._current_frames()[main_thread]))
        os.write(1, f"{exit_code} {'def_stuck' if 'in stuck' in stack else stack}".encode())
        os._exit(0)

    def stuck():
        while True:
            pass
    """
)


@pytest.mark.parametrize("pool", POOLS)
def test_guardian_ends_a_process_whose_main_thread_never_yields(pool: str) -> None:
    printed = run_patched(
        pool,
        STUCK
        + """
    began = time.monotonic()
    guardian = Guardian(LIBRARY, lambda signum: 0.3, end)
    with SignalListener(END_SIGNALS, acted.put, guardian):
        os.kill(os.getpid(), signal.SIGTERM)
        stuck()
    """,
        timeout=20,
    )
    assert printed == "75 def_stuck"


@pytest.mark.parametrize("pool", POOLS)
def test_deadline_that_is_brought_forward_counts_and_a_later_one_does_not(pool: str) -> None:
    printed = run_patched(
        pool,
        STUCK
        + """
    guardian = Guardian(LIBRARY, lambda signum: 1000.0, end)
    with SignalListener(END_SIGNALS, acted.put, guardian):
        os.kill(os.getpid(), signal.SIGTERM)
        assert acted.get(timeout=5) == signal.SIGTERM
        guardian.end_within(0.2)
        guardian.end_within(500.0)
        guardian.exit_code = 3
    assert guardian.counting
    assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL, "told to end: one more TERM changes nothing"
    os.kill(os.getpid(), signal.SIGTERM)
    stuck()
    """,
        timeout=20,
    )
    assert printed == "3 def_stuck"


def test_last_words_name_the_culprit_and_need_no_lock() -> None:
    """Logging's lock is held by a green thread that cannot run: the guardian must not wait for it."""
    printed = run_patched(
        "gevent",
        PARTS
        + """
    import logging, threading
    from greenworker.worker.logs import set_up
    from greenworker.settings.model import LogSettings

    os.dup2(1, 2)  # what is said on standard error is what this test looks at
    set_up(LogSettings(format="json"), LIBRARY)
    real_exit, os._exit = os._exit, lambda code: (os.write(1, f"exit {code}".encode()), real_exit(0))

    def hold_the_log():
        logging.getLogger().handlers[0].acquire()
        time.sleep(1000)

    threading.Thread(target=hold_the_log, daemon=True).start()
    time.sleep(0.01)
    with SignalListener(END_SIGNALS, acted.put, Guardian(LIBRARY, lambda signum: 0.2)):
        os.kill(os.getpid(), signal.SIGTERM)
        while True:
            sum(range(100))
    """,
        timeout=20,
    )
    assert '"level": "CRITICAL"' in printed
    assert "The main thread is at" in printed
    assert printed.endswith("exit 75")
