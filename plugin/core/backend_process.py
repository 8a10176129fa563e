"""The backend's process: started, spoken to and ended; everything here happens in one thread."""

from __future__ import annotations

import os
import sys
from collections import deque
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Callable, Deque, Dict, List, NamedTuple, Optional, Set

from qgis.PyQt.QtCore import QObject, QProcess, QProcessEnvironment, QTimer, pyqtSignal, pyqtSlot

from ...backend import protocol
from .environment import backend_python, child_environment
from .translate import tr

MAX_RESTARTS = 3
START_MS = 10000
CANCEL_GRACE_MS = 1000
SAVE_GRACE_MS = 60000
CLOSE_GRACE_MS = 2000
TAIL_LINES = 200
SHOWN_LINES = 15
KEPT_LOGS = 20
STOPPED = "backend-stopped"
INITIALIZE_ID = 0

Answer = Callable[[dict], None]


class Waiting(NamedTuple):
    """A request that has no answer yet."""

    method: str
    params: dict
    answer: Answer


class BackendState(NamedTuple):
    """What the backend is doing: ``stage`` is stopped, starting or ready; ``jobs`` are running or waiting."""

    stage: str = "stopped"
    handshake: Optional[protocol.Handshake] = None
    jobs: int = 0


class BackendProcess(QObject):
    """One backend child at a time and the requests that wait for it.

    Answers are JSON-RPC messages; when the child stops, everything that still waits is answered with an error.
    ``state_changed`` gives a `BackendState`, ``logged`` what the child wrote to its log.
    """

    state_changed = pyqtSignal(object)
    logged = pyqtSignal(str)

    def __init__(self, root: Path, home: Path) -> None:
        super().__init__()
        self._root = root
        self._home = home
        self._process: Optional[QProcess] = None
        self._buffer = b""
        self._waiting: Dict[int, Waiting] = {}
        self._cancelled: Set[int] = set()
        self._crashes = 0
        self._killed_by_us = False
        self._refusal = ""
        self._tail: Deque[str] = deque(maxlen=TAIL_LINES)
        self._log: Optional[Path] = None
        self._closing = False
        self.state = BackendState()

    @pyqtSlot(int, str, object, object)
    def post(self, id_: int, method: str, params: dict, answer: Answer) -> None:
        """Send a request, starting the child if none runs; ``answer`` gets every message about it."""
        problem = tr("QGIS is closing.") if self._closing else "" if self._process else self._start()
        if problem:
            answer(protocol.error_response(id_, protocol.INTERNAL_ERROR, problem, STOPPED))
            return
        self._waiting[id_] = Waiting(method, params, answer)
        self._send(protocol.request(id_, method, params))
        self._tell()

    @pyqtSlot(int, object)
    def cancel(self, id_: int, keep: Optional[bool]) -> None:
        """Ask the child to drop a request; kill it if it does not answer in a second, or in the time to save."""
        if id_ in self._waiting:
            self._cancelled.add(id_)
            self._send(protocol.notification("cancel", {"id": id_, "keep": keep}))
            verb = protocol.VERBS.get(self._waiting[id_].params.get("verb", ""))
            saves = verb and verb.saves and self._jobs()[:1] == [id_]
            held_up = any(request.method == "plan" for request in self._waiting.values())  # it may measure the device
            grace = SAVE_GRACE_MS if saves or held_up else CANCEL_GRACE_MS
            QTimer.singleShot(grace, partial(self._give_up, id_))

    @pyqtSlot()
    def close(self) -> None:
        """End the child, then the thread that this lives in."""
        self._closing = True
        self.end_child()
        self.thread().quit()

    @pyqtSlot()
    def end_child(self) -> None:
        """End the child: end of input, then terminate, then kill. The next request starts another."""
        self._crashes = 0  # whoever calls has changed something, the environment perhaps
        process = self._process
        if process:
            self._killed_by_us = True
            process.closeWriteChannel()
            if not process.waitForFinished(CLOSE_GRACE_MS):
                process.terminate()
                if not process.waitForFinished(CANCEL_GRACE_MS):
                    process.kill()
                    process.waitForFinished(CLOSE_GRACE_MS)

    def _tell(self, **changes: object) -> None:
        """Tell the state if it is another than before."""
        state = self.state._replace(jobs=len(self._jobs()), **changes)
        if state != self.state:
            self.state = state
            self.state_changed.emit(state)

    def _jobs(self) -> List[int]:
        """The jobs that run or wait; the child works on the first."""
        return sorted(id_ for id_, request in self._waiting.items() if request.method in protocol.JOB_METHODS)

    def _start(self) -> str:
        """Start the child and greet it; a sentence if that is not possible."""
        if self._crashes > MAX_RESTARTS:
            return self._with_log(tr("The backend stopped {} times, so it is not started again. Set it up again, or "
                                     "restart QGIS, to try once more.").format(self._crashes))
        python = backend_python(self._root, self._home)
        if not python.path:
            return python.sentence
        try:
            process = self._prepare()
        except OSError as error:
            return tr("MetaEarth's folder {} cannot be written: {}").format(self._home, error.strerror)
        process.start(str(python.path), ["-m", "backend", "serve"])
        if not process.waitForStarted(START_MS):
            return tr("{} cannot be started: {}").format(python.path, process.errorString())
        self._process = process
        self._tell(stage="starting", handshake=None)
        self._greet()
        return ""

    def _prepare(self) -> QProcess:
        """A process with its environment, folder and log, not started yet."""
        jobs, logs = self._home / "jobs", self._home / "logs"
        for folder in (jobs, logs):
            folder.mkdir(parents=True, exist_ok=True)
        _drop_old_logs(logs)
        self._log = logs / f"backend-{os.getpid()}.log"
        self._buffer, self._killed_by_us, self._refusal = b"", False, ""
        self._tail.clear()
        variables = QProcessEnvironment()
        for name, value in child_environment(os.environ, self._root).items():
            variables.insert(name, value)
        process = QProcess()
        process.setProcessEnvironment(variables)
        process.setWorkingDirectory(str(jobs))
        process.readyReadStandardOutput.connect(self._read_messages)
        process.readyReadStandardError.connect(self._read_log)
        process.finished.connect(self._finished)
        return process

    def _greet(self) -> None:
        greeting = {"protocol": protocol.PROTOCOL_VERSION, "parent_pid": os.getpid()}
        self._waiting[INITIALIZE_ID] = Waiting("initialize", greeting, self._greeted)
        self._send(protocol.request(INITIALIZE_ID, "initialize", greeting))

    def _greeted(self, message: dict) -> None:
        """Stop a child that speaks another protocol."""
        if "error" in message:
            self._refuse(message["error"]["message"])
        elif message["result"].get("protocol") != protocol.PROTOCOL_VERSION:
            self._refuse(tr("The backend is of another version than the plugin. Restart QGIS."))
        else:
            self._tell(stage="ready", handshake=protocol.Handshake.from_dict(message["result"]))

    def _refuse(self, sentence: str) -> None:
        """Kill the child and answer all requests with ``sentence``."""
        self._refusal = sentence
        self._kill()

    def _send(self, message: dict) -> None:
        if self._process:
            self._process.write(protocol.encode(message))

    @pyqtSlot()
    def _read_messages(self) -> None:
        *lines, self._buffer = (self._buffer + bytes(self._process.readAllStandardOutput())).split(b"\n")
        for line in lines:
            try:
                self._dispatch(protocol.decode(line))
            except ValueError:
                self._note(line.decode("utf-8", "replace"))

    def _dispatch(self, message: dict) -> None:
        """Hand a message to the request that it is about; an answer ends the wait."""
        if message.get("method") == "progress":
            waiting = self._waiting.get(message["params"]["id"])
        else:
            waiting = self._waiting.pop(message.get("id"), None)
            self._cancelled.discard(message.get("id"))
        if waiting:
            if waiting.method in protocol.JOB_METHODS and "result" in message:
                self._crashes = 0
            waiting.answer(message)
            self._tell(**self._models_in(waiting.method, message))

    def _models_in(self, method: str, message: dict) -> dict:
        """The change of state that an answer about models is."""
        if not method.endswith(("models", "_model")) or "result" not in message or not self.state.handshake:
            return {}
        models = protocol.Models.from_dict(message["result"]).models
        return {"handshake": replace(self.state.handshake, models=models)}

    @pyqtSlot()
    def _read_log(self) -> None:
        self._note(bytes(self._process.readAllStandardError()).decode("utf-8", "replace"))

    def _note(self, text: str) -> None:
        """Keep the child's words for the log file and the tail."""
        self._tail.extend(text.splitlines())
        with suppress(OSError):  # a full disk must not keep answers from those who wait
            self._log.parent.mkdir(parents=True, exist_ok=True)
            with open(self._log, "a", encoding="utf-8") as log:
                log.write(text if text.endswith("\n") else text + "\n")
        self.logged.emit(text.rstrip("\n"))

    def _give_up(self, id_: int) -> None:
        """End the wait for a cancelled request: kill the child if it works on it, forget it if it only queues."""
        if id_ not in self._waiting:
            return
        if self._jobs()[:1] == [id_]:
            self._kill()
        else:
            self._cancelled.discard(id_)
            self._waiting.pop(id_).answer(_cancelled(id_))
            self._tell()

    def _kill(self) -> None:
        if self._process:
            self._killed_by_us = True
            self._process.kill()

    @pyqtSlot(int, QProcess.ExitStatus)
    def _finished(self, code: int, status: QProcess.ExitStatus) -> None:
        """Answer everything that waits; the next request starts another child."""
        self._read_messages()
        self._read_log()
        self._crashes += 0 if self._killed_by_us else 1
        pid = self.state.handshake.pid if self.state.handshake else 0
        self._process.deleteLater()
        self._process = None
        self._waiting.pop(INITIALIZE_ID, None)
        waiting, self._waiting = self._waiting, {}
        cancelled, self._cancelled = self._cancelled, set()
        sentence = self._refusal or (
            tr("The backend was ended. Try again.") if self._killed_by_us else
            self._with_log(_how_it_ended(code, status)))
        for id_, request in waiting.items():
            if id_ in cancelled:
                request.answer(_cancelled(id_, pid))
            elif cancelled and not self._refusal:
                self.post(id_, *request)
            else:
                request.answer(protocol.error_response(id_, protocol.INTERNAL_ERROR, sentence, STOPPED))
        if not self._process:
            self._tell(stage="stopped", handshake=None)

    def _with_log(self, sentence: str) -> str:
        """``sentence``, the log's path and its last lines."""
        lines: List[str] = [sentence]
        if self._log:
            lines.append(tr("Log: {}").format(self._log))
        return "\n".join(lines + list(self._tail)[-SHOWN_LINES:])


def _drop_old_logs(folder: Path) -> None:
    """Keep a few logs; one that is open elsewhere, or that another QGIS deletes at the same time, may stay."""
    with suppress(OSError):
        for old in sorted(folder.glob("backend-*.log"), key=os.path.getmtime)[:-KEPT_LOGS]:
            with suppress(OSError):
                old.unlink()


def _cancelled(id_: int, killed: int = 0) -> dict:
    """The answer to a request that was given up; ``killed``: the child that could not tidy up after it."""
    answer = protocol.error_response(id_, protocol.CANCELLED, tr("The job was cancelled."), "cancelled")
    answer["error"]["data"]["killed"] = killed
    return answer


def _how_it_ended(code: int, status: QProcess.ExitStatus) -> str:
    """A sentence about an exit that nobody asked for."""
    if status == QProcess.ExitStatus.CrashExit and sys.platform != "win32":
        return tr("The backend stopped unexpectedly (signal {}).").format(code)
    return tr("The backend stopped unexpectedly (exit code {}).").format(code)
