"""Installs the handlers of Ctrl-C and SIGTERM; what they do is in `regionspot.core.stopping`."""

import signal

from regionspot.core.stopping import answer_signal


def answer_signals() -> None:
    """Answer Ctrl-C and SIGTERM from now on, as long as this process lives.

    A signal that the process was started to ignore, as shells do for background jobs, stays
    ignored.
    """
    for number, default in (
        (signal.SIGINT, signal.default_int_handler),
        (signal.SIGTERM, signal.SIG_DFL),
    ):
        if signal.getsignal(number) is default:
            signal.signal(number, answer_signal)
