"""A training that is asked to stop, by Ctrl-C (SIGINT) or by SIGTERM, as clusters and torchrun send it.

Free of torch, so that programs which need none start quickly.
"""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator
from types import FrameType

logger = logging.getLogger(__name__)

SIGNALS = (signal.SIGINT, signal.SIGTERM)
# Launchers and clusters send the same request to a process more than once; what comes later is meant as a second one.
SECONDS_OF_ONE_REQUEST = 1.0
_END = b"\0"


class Interrupted(KeyboardInterrupt):
    """A run has stopped because a signal asked it to, and has said so. No `Exception`, since it is no failure.

    Attributes:
        signum: the signal.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(signal.Signals(signum).name)
        self.signum = signum


def exit_status(interrupt: KeyboardInterrupt) -> int:
    """Of a program that a signal has ended, by the shell's convention: 130 for SIGINT, 143 for SIGTERM."""
    return 128 + (interrupt.signum if isinstance(interrupt, Interrupted) else signal.SIGINT)


class StopRequest:
    """Notes the first signal that asks the run to stop; the second ends the process at once.

    Attributes:
        signum: the signal that this process has received, or None.
    """

    def __init__(self) -> None:
        self.signum: int | None = None
        self._raises = False

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        """Take the signals here, and give them back to whoever had them.

        Only the main thread can; in another one, nothing happens. A signal that is ignored, as SIGINT is in a shell
        script's background processes, stays so.
        """
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        taken = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
        handlers = {number: signal.signal(number, self._receive) for number in taken}
        # Python calls a handler when the main thread is next in Python, which a long computation may put off. The bytes
        # that the interpreter writes here arrive at once.
        reader, writer = socket.socketpair()
        writer.setblocking(False)
        wakeup = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        watch = threading.Thread(target=_watch, args=(reader,), name="signals", daemon=True)
        watch.start()
        try:
            yield
        finally:
            signal.set_wakeup_fd(wakeup)
            for number, handler in handlers.items():
                signal.signal(number, handler)
            writer.send(_END)  # closing would not do: loader processes hold copies of the socket
            watch.join()
            reader.close()
            writer.close()

    @contextlib.contextmanager
    def raising(self) -> Iterator[None]:
        """Around work that costs nothing to break off: a signal raises `Interrupted` in the middle of it."""
        if self.signum is not None:
            raise Interrupted(self.signum)
        self._raises = True
        try:
            yield
        finally:
            self._raises = False

    def _receive(self, number: int, _frame: FrameType | None) -> None:
        if self.signum is None:
            self.signum = number
        if self._raises:
            self._raises = False  # once; what is being left is not to be disturbed
            raise Interrupted(self.signum)


def _watch(reader: socket.socket) -> None:
    """Acknowledge the first signal, and end the process at the second."""
    first: float | None = None
    while True:
        for number in reader.recv(64):
            if number == _END[0]:
                return
            if number not in SIGNALS:
                continue
            name, now = signal.Signals(number).name, time.monotonic()
            if first is None:
                first = now
                logger.info("%s: the run stops after this step; once more ends it at once", name)
            elif now - first >= SECONDS_OF_ONE_REQUEST:
                os.write(sys.__stderr__.fileno(), f"{name} again: ended at once\n".encode())
                os._exit(128 + number)


def leave_signals_to_main_process() -> None:
    """In a helper process: heed SIGTERM only from the process that started it, and SIGINT never.

    A terminal, a launcher or a cluster sends both to all processes of a group; what becomes of a helper is for the
    process that started it to say.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if hasattr(signal, "sigwaitinfo"):  # not on macOS; a handler in Python cannot tell who sent a signal
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
        threading.Thread(target=_end_with_parent, name="signals", daemon=True).start()


def _end_with_parent() -> None:
    while signal.sigwaitinfo({signal.SIGTERM}).si_pid != os.getppid():
        pass
    os._exit(0)
