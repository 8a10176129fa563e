"""Requests to the backend from any thread of QGIS: one warm child a session, in a thread of its own."""

from __future__ import annotations

import atexit
import itertools
import queue
import threading
from pathlib import Path
from typing import Callable, Optional

from qgis.PyQt.QtCore import QEventLoop, QObject, QThread, QTimer, pyqtSignal

from ...backend import protocol
from .backend_process import BackendProcess

POLL_MS = 100
PLUGIN_ROOT = Path(__file__).resolve().parents[2]


class BackendError(Exception):
    """The backend's sentence; ``condition`` names the case to programs."""

    def __init__(self, sentence: str, condition: str) -> None:
        super().__init__(sentence)
        self.condition = condition


class BackendCancelled(BackendError):
    """The request was cancelled."""


class BackendClient(QObject):
    """A door to one backend; `request` may be called from any thread, several at a time."""

    _post = pyqtSignal(int, str, object, object)
    _cancel = pyqtSignal(int)
    _close = pyqtSignal()

    def __init__(self, root: Path, home: Path) -> None:
        super().__init__()
        self._ids = itertools.count(1)
        self._thread = QThread()
        self._process = BackendProcess(root, home)
        self._process.moveToThread(self._thread)
        self._post.connect(self._process.post)
        self._cancel.connect(self._process.cancel)
        self._close.connect(self._process.close)
        self._thread.start()

    def request(self, method: str, params: dict, on_progress: Callable[[protocol.Progress], None],
                is_cancelled: Callable[[], bool]) -> dict:
        """The result of ``method``; `BackendCancelled` after a cancel, else `BackendError`.

        Waits in a local event loop, so that the caller's thread keeps its events. ``on_progress`` and
        ``is_cancelled`` are called in the caller's thread.
        """
        id_, messages = next(self._ids), queue.SimpleQueue()
        self._post.emit(id_, method, params, messages.put)
        return _result(self._wait(id_, messages, on_progress, is_cancelled))

    def _wait(self, id_: int, messages: queue.SimpleQueue, on_progress: Callable[[protocol.Progress], None],
              is_cancelled: Callable[[], bool]) -> dict:
        """The message that ends a request."""
        loop, timer = QEventLoop(), QTimer()
        timer.timeout.connect(loop.quit)
        timer.start(POLL_MS)
        cancelling = False
        while True:
            loop.exec()
            while not messages.empty():
                message = messages.get()
                if message.get("method") != "progress":
                    return message
                on_progress(protocol.Progress(**message["params"]))
            if not cancelling and is_cancelled():
                cancelling = True
                self._cancel.emit(id_)

    def close(self) -> None:
        """End the child and its thread; returns when both are gone."""
        self._close.emit()
        self._thread.wait()


def _result(message: dict) -> dict:
    """The result in an answer; raises the error in it."""
    error = message.get("error")
    if error is None:
        return message["result"]
    condition = error.get("data", {}).get("condition", "error")
    kind = BackendCancelled if error["code"] == protocol.CANCELLED else BackendError
    raise kind(error["message"], condition)


_session: Optional[BackendClient] = None
_session_lock = threading.Lock()


def session_client() -> BackendClient:
    """The client of this QGIS session, made at its first use."""
    global _session
    with _session_lock:
        if _session is None:
            _session = BackendClient(PLUGIN_ROOT, protocol.data_home())
            # A script that uses PyQGIS unloads no plugins, and Qt aborts if a thread outlives Python.
            atexit.register(close_session_client)
        return _session


def close_session_client() -> None:
    """End the session's client, if there is one."""
    global _session
    with _session_lock:
        client, _session = _session, None
    if client:
        client.close()
