"""A job in a process of its own that is killed (SIGKILL) in the middle of a named function.

Arguments: the job as JSON, ``module:function`` or ``module:Class.method``, the number of the call,
seconds from that call to the kill.
"""

import functools
import importlib
import json
import os
import signal
import sys
import threading
import time

from backend.devices import use_threads
from backend.jobs import portions
from backend.jobs.plan import make_plan
from backend.jobs.runner import JobRun
from backend.protocol import Job


def kill_in(target: str, number: int, delay: float) -> None:
    module_name, _, path = target.partition(":")
    *owners, name = path.split(".")
    owner = functools.reduce(getattr, owners, importlib.import_module(module_name))
    original = getattr(owner, name)
    calls = []

    def die():
        time.sleep(delay)
        os.kill(os.getpid(), signal.SIGKILL)

    def counting(*args, **kwargs):
        calls.append(None)
        if len(calls) == number:
            if delay == 0:
                die()
            threading.Thread(target=die).start()
        return original(*args, **kwargs)

    setattr(owner, name, counting)


use_threads(1)
portions.BLOCK_SECONDS = 0.0  # blocks of one window
kill_in(sys.argv[2], int(sys.argv[3]), float(sys.argv[4]))
JobRun(make_plan(Job.from_dict(json.loads(sys.argv[1]))), lambda p: None, lambda: None).run()
