"""The SDK's own runtime, one per process: quiet, and gone from Python before the interpreter is.

The SDK hands answers over from threads of its own. One that is still at it when the interpreter is
being finalized aborts the process ("PyGILState_Release: thread state … must be current",
temporalio/sdk-python#300): measured here with temporalio 1.35 and Python 3.11, 3 of 40 processes
that ended right after a call died with SIGABRT, after all their work was done. Waiting a moment
where threads may still run Python ends that.
"""

from __future__ import annotations

import atexit
import functools
import threading

from temporalio.runtime import LoggingConfig, Runtime, TelemetryConfig, TelemetryFilter

__all__ = ("sdk_runtime",)

SETTLE_S = 0.1


@functools.cache
def sdk_runtime() -> Runtime:
    """Give this to every client.

    It logs errors only: every retry is a warning to the SDK, and what comes of it our callers are
    told. Making it also makes this process wait a moment when it exits.
    """
    atexit.register(threading.Event().wait, SETTLE_S)
    filter_ = TelemetryFilter(core_level="ERROR", other_level="ERROR")
    return Runtime(telemetry=TelemetryConfig(logging=LoggingConfig(filter=filter_)))
