"""Requests to the backend from any thread of QGIS: one warm child a session, in a thread of its own."""

from __future__ import annotations

import atexit
import itertools
import queue
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import Callable, Iterator, List, Optional

from qgis.core import QgsApplication
from qgis.PyQt import sip
from qgis.PyQt.QtCore import (
    QCoreApplication,
    QEventLoop,
    QObject,
    Qt,
    QThread,
    QThreadPool,
    QTimer,
    pyqtSignal,
    pyqtSlot,
)

from ...backend import protocol
from .backend_process import STOPPED, BackendProcess, BackendState
from .translate import tr

POLL_MS = 100
PLUGIN_ROOT = Path(__file__).resolve().parents[2]


class BackendError(Exception):
    """The backend's sentence; ``condition`` names the case to programs."""

    def __init__(self, sentence: str, condition: str) -> None:
        super().__init__(sentence)
        self.condition = condition


class BackendCancelled(BackendError):
    """The request was cancelled; ``killed`` is the id of the process that had to be killed for it, else 0."""

    killed = 0


class Question(QObject):
    """A request whose answer comes as a signal, in the thread that asked; ask on a thread with an event loop."""

    answered = pyqtSignal(dict)
    failed = pyqtSignal(str)
    _arrived = pyqtSignal(dict)

    def __init__(self, parent: Optional[QObject] = None) -> None:
        super().__init__(parent)
        self._arrived.connect(self._sort, Qt.ConnectionType.QueuedConnection)
        _asked[:] = [other for other in _asked if not sip.isdeleted(other)] + [self]

    def receive(self, message: dict) -> None:
        """Take a message about the request; called in the backend's thread."""
        if not sip.isdeleted(self):
            self._arrived.emit(message)

    @pyqtSlot(dict)
    def _sort(self, message: dict) -> None:
        try:
            self.answered.emit(_result(message))
        except BackendError as error:
            self.failed.emit(str(error))
        _asked.remove(self)
        self.deleteLater()


_asked: List[Question] = []
"""A question without a parent lives until its answer was told."""


class BackendClient(QObject):
    """A door to one backend; `request` may be called from any thread, several at a time."""

    _post = pyqtSignal(int, str, object, object)
    _cancel = pyqtSignal(int, object)
    _close = pyqtSignal()
    _end_child = pyqtSignal()

    def __init__(self, root: Path, home: Path) -> None:
        super().__init__()
        self._ids = itertools.count(1)
        self._closed = threading.Event()
        self._thread = QThread()
        self._process = BackendProcess(root, home)
        self._process.moveToThread(self._thread)
        self._post.connect(self._process.post)
        self._cancel.connect(self._process.cancel)
        self._close.connect(self._process.close)
        self._end_child.connect(self._process.end_child, Qt.ConnectionType.BlockingQueuedConnection)
        self._thread.start()
        self.state_changed, self.logged = self._process.state_changed, self._process.logged

    @property
    def state(self) -> BackendState:
        """What the backend is doing; ``state_changed`` tells of the next."""
        return self._process.state

    def ask(self, method: str, params: dict, parent: Optional[QObject] = None) -> Question:
        """A request that nobody waits for; connect to the answer's signals at once."""
        question = Question(parent)
        self._post.emit(next(self._ids), method, params, question.receive)
        return question

    def request(self, method: str, params: dict, on_progress: Callable[[protocol.Progress], None],
                is_cancelled: Callable[[], bool], keep: Callable[[], Optional[bool]] = lambda: None) -> dict:
        """The result of ``method``; `BackendCancelled` after a cancel, else `BackendError`.

        Waits in a local event loop, so that the caller's thread keeps its events. ``on_progress``,
        ``is_cancelled`` and ``keep`` (what becomes of a cancelled job's finished blocks) are called in the caller's
        thread.
        """
        if is_cancelled():
            raise BackendCancelled(tr("The job was cancelled."), "cancelled")
        id_, messages = next(self._ids), queue.SimpleQueue()
        self._post.emit(id_, method, params, messages.put)
        with _thread_lent_to_others():
            return _result(self._wait(id_, messages, on_progress, is_cancelled, keep))

    def _wait(self, id_: int, messages: queue.SimpleQueue, on_progress: Callable[[protocol.Progress], None],
              is_cancelled: Callable[[], bool], keep: Callable[[], Optional[bool]]) -> dict:
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
            if self._closed.is_set():  # what was posted since then nobody reads
                raise BackendError(tr("QGIS is closing."), STOPPED)
            if not cancelling and is_cancelled():
                cancelling = True
                self._cancel.emit(id_, keep())

    def end_child(self) -> None:
        """End the child, for example because its Python is replaced; the next request starts another."""
        self._end_child.emit()

    def close(self) -> None:
        """End the child and its thread; returns when both are gone."""
        self._close.emit()
        self._thread.wait()
        self._closed.set()


@contextmanager
def _thread_lent_to_others() -> Iterator[None]:
    """While a task of QGIS only waits, another may have its place in the pool: maps are drawn there too."""
    tasks, in_pool = QgsApplication.taskManager(), QThread.currentThread() != QCoreApplication.instance().thread()
    # a pool of their own from QGIS 3.34 on
    pool = tasks.threadPool() if hasattr(tasks, "threadPool") else QThreadPool.globalInstance()
    if in_pool:
        pool.releaseThread()
    try:
        yield
    finally:
        if in_pool:
            pool.reserveThread()


def _result(message: dict) -> dict:
    """The result in an answer; raises the error in it."""
    error = message.get("error")
    if error is None:
        return message["result"]
    data = error.get("data", {})
    if error["code"] == protocol.CANCELLED:
        cancelled = BackendCancelled(error["message"], data["condition"])
        cancelled.killed = data.get("killed", 0)
        raise cancelled
    raise BackendError(error["message"], data.get("condition", "error"))


_session: Optional[BackendClient] = None
_session_lock = threading.Lock()


def session_client() -> BackendClient:
    """The client of this QGIS session, made at its first use."""
    global _session
    with _session_lock:
        if _session is None:
            _session = BackendClient(PLUGIN_ROOT, protocol.data_home())
            _session.moveToThread(QCoreApplication.instance().thread())  # it may be an algorithm's, which ends
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
