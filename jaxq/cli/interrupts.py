"""Ctrl-C, wherever it comes: the code is 130, and no native thread is torn down in the middle of it."""

from __future__ import annotations

import _thread
import contextlib
import signal
import sys
import threading
from collections.abc import Iterator
from typing import Any

INTERRUPTED, CODE = "interrupted; nothing was written", 130
AGAIN = 0.05  # seconds until an interrupt that was lost is raised again


@contextlib.contextmanager
def heard() -> Iterator[None]:
    """Around a command line. Outside of a command (imports, parsing) Ctrl-C exits with 130, as within one.

    An interrupt that Python raises in a callback of its garbage collector or in a `__del__` is printed as ignored and
    lost; JAX has such a callback, so it is raised again in the main thread. Once the answer is given Ctrl-C is ignored,
    for the process ends, and what interrupts the end of XLA's threads is a segmentation fault.
    """
    before, sys.unraisablehook = sys.unraisablehook, _raised_again
    try:
        yield
    except KeyboardInterrupt:
        print(INTERRUPTED, file=sys.stderr)
        sys.exit(CODE)
    finally:
        sys.unraisablehook = before
        if threading.current_thread() is threading.main_thread():
            signal.signal(signal.SIGINT, signal.SIG_IGN)


def _raised_again(lost: Any) -> None:
    if not isinstance(lost.exc_value, KeyboardInterrupt):
        sys.__unraisablehook__(lost)
        return
    timer = threading.Timer(AGAIN, _interrupt)
    timer.daemon = True
    timer.start()


def _interrupt() -> None:
    """Interrupt the main thread, also where it waits in a call of the operating system (Windows: after it)."""
    if sys.platform == "win32":
        _thread.interrupt_main()
    else:
        signal.pthread_kill(threading.main_thread().ident or 0, signal.SIGINT)
