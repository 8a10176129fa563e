"""The loop behind the door: JSON-RPC requests on stdin, answers and progress on the real stdout."""

from __future__ import annotations

import dataclasses
import os
import queue
import signal
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import torch

from backend import protocol
from backend.devices import choose_device, device_name
from backend.diagnosis import diagnose
from backend.errors import Cancelled, Interrupted, MetaEarthError, PlanError
from backend.jobs.directory import JobDirectory, unfinished_jobs
from backend.jobs.inspection import inspect_raster
from backend.jobs.plan import make_plan
from backend.jobs.portions import executor_of, is_here
from backend.jobs.runner import JobRun, resume
from backend.memory import device_memory_bytes, out_of_memory, too_small, whose_memory
from backend.models.bundle import SceneModelConfig, list_bundles
from backend.models.store import add_model, remove_model
from backend.progress import Pace
from backend.protocol import FieldError, Handshake, Job, ModelInfo, Progress
from backend.verbs import plan_verb, run_verb

GRACE_SECONDS = 10.0
LOST_GPU: tuple[type[Exception], ...] = (torch.AcceleratorError,) if hasattr(torch, "AcceleratorError") else ()
"""CUDA's errors, where torch is new enough to tell them from others."""
SLOW_METHODS = ("add_model", "cluster", "diagnose", "plan")
"""They wait for a network or for the device, or read much, each in a thread of its own."""


@dataclasses.dataclass
class Cancel:
    """Whether a request is to end, and what then becomes of its finished blocks; see `Cancelled`."""

    asked: threading.Event = dataclasses.field(default_factory=threading.Event)
    keep: bool | None = None


class Server:
    """Reads requests in the caller's thread; works on jobs one after the other in a second, on the rest in a third."""

    def __init__(self, requests: BinaryIO, answers: BinaryIO) -> None:
        self.requests, self.answers = requests, answers
        self.write_lock = threading.Lock()
        self.jobs: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.questions: queue.Queue[dict[str, Any] | None] = queue.Queue()
        self.cancels: dict[Any, Cancel] = {}
        self.closing = threading.Event()
        self.device_lost = False
        self.worker = threading.Thread(target=self._work, args=(self.jobs,), daemon=True)
        self.answerer = threading.Thread(target=self._work, args=(self.questions,), daemon=True)

    def run(self) -> None:
        """Serve until stdin ends or ``shutdown`` is asked; a running job stops and keeps what is finished."""
        self.worker.start()
        self.answerer.start()
        for line in self.requests:
            try:
                message = protocol.decode(line)
            except ValueError:
                self._send(
                    protocol.error_response(None, protocol.INVALID_REQUEST, "This is not a JSON-RPC 2.0 message.")
                )
                continue
            if not self._accept(message):
                break
        self.close()

    def close(self) -> None:
        """Stop everything and wait for the worker to leave things in order."""
        self.closing.set()
        self.jobs.put(None)
        self.worker.join(GRACE_SECONDS)

    def _accept(self, message: dict[str, Any]) -> bool:
        """Queue a request, or act at once on cancel and shutdown; False ends the loop."""
        method, params = message.get("method"), message.get("params") or {}
        if method == "cancel":
            id_ = params.get("id")
            cancel = self.cancels.get(id_) if isinstance(id_, (int, str)) else None
            if cancel:
                cancel.keep = params.get("keep")
                cancel.asked.set()
        elif method == "shutdown":
            self._send(protocol.response(message.get("id"), {}))
            return False
        else:
            self.cancels[message.get("id")] = Cancel()
            if method in SLOW_METHODS:
                threading.Thread(target=self._reply, args=(message,), daemon=True).start()
            else:
                (self.jobs if method in protocol.JOB_METHODS else self.questions).put(message)
        return True

    def _work(self, messages: queue.Queue[dict[str, Any] | None]) -> None:
        while (message := messages.get()) is not None:
            self._reply(message)

    def _reply(self, message: dict[str, Any]) -> None:
        id_ = message.get("id")
        answer = self._answer(id_, message.get("method"), message.get("params") or {})
        self.cancels.pop(id_, None)
        if id_ is not None:
            self._send(answer)
        if self.device_lost:
            os._exit(1)  # CUDA's errors last as long as the process; the client starts another one

    def _answer(self, id_: Any, method: str | None, params: dict[str, Any]) -> dict[str, Any]:
        methods: dict[str | None, Callable[[Any, dict[str, Any]], Any]] = {
            "initialize": self._initialize,
            "plan": self._plan,
            "generate": self._generate,
            "resume": self._resume,
            "run": self._run,
            "inspect": self._inspect,
            "unfinished": lambda id_, params: protocol.UnfinishedJobs(unfinished_jobs()),
            "discard": self._discard,
            "models": lambda id_, params: known_models(),
            "add_model": self._add_model,
            "remove_model": self._remove_model,
            "cluster": self._cluster,
            "diagnose": lambda id_, params: diagnose(),
        }
        if method not in methods:
            return protocol.error_response(id_, protocol.METHOD_NOT_FOUND, f"There is no method {method!r}.")
        try:
            found = methods[method](id_, params)
            return protocol.response(id_, as_plain(found))
        except FieldError as error:
            return protocol.error_response(id_, protocol.INVALID_PARAMS, str(error), "field")
        except Cancelled as error:
            return protocol.error_response(id_, protocol.CANCELLED, str(error), error.code)
        except MetaEarthError as error:
            return protocol.error_response(id_, protocol.JOB_FAILED, str(error), error.code)
        except Exception as error:
            traceback.print_exc()
            return protocol.error_response(id_, *self._unexpected(error))

    def _unexpected(self, error: Exception) -> tuple[int, str, str]:
        """Code, sentence and kind of an error that nothing told better."""
        if out_of_memory(error):
            return protocol.JOB_FAILED, too_small("this work", whose_memory(error)), "device"
        if isinstance(error, LOST_GPU):
            self.device_lost = True
            sentence = f"The GPU stopped answering ({str(error).splitlines()[0]}). Start again; a job can be resumed."
            return protocol.JOB_FAILED, sentence, "device"
        sentence = f"The backend met an unexpected error ({type(error).__name__}: {error}). Its log has the details."
        return protocol.INTERNAL_ERROR, sentence, "internal"

    def _initialize(self, id_: Any, params: dict[str, Any]) -> Handshake:
        if params.get("protocol") != protocol.PROTOCOL_VERSION:
            raise PlanError(
                f"Plugin and backend differ in version (protocol {params.get('protocol')} and "
                f"{protocol.PROTOCOL_VERSION}). Set the backend up again."
            )
        device = choose_device("auto")
        return Handshake(
            protocol.PROTOCOL_VERSION,
            protocol.ENGINE_VERSION,
            os.getpid(),
            device,
            device_name(device),
            device_memory_bytes(device),
            known_models().models,
        )

    def _inspect(self, id_: Any, params: dict[str, Any]) -> protocol.RasterInfo:
        return inspect_raster(str(params.get("input") or ""), params.get("source_resolution"))

    def _plan(self, id_: Any, params: dict[str, Any]) -> protocol.JobSummary:
        if "verb" in params:
            return plan_verb(str(params["verb"]), params.get("values") or {})
        return make_plan(Job.from_dict(params.get("job") or {})).summary()

    def _generate(self, id_: Any, params: dict[str, Any]) -> protocol.JobResult:
        hooks = self._hooks(id_)
        return JobRun(make_plan(Job.from_dict(params.get("job") or {})), *hooks).run()

    def _resume(self, id_: Any, params: dict[str, Any]) -> protocol.JobResult:
        return resume(Path(str(params.get("folder") or "")), *self._hooks(id_), params.get("executor"))

    def _run(self, id_: Any, params: dict[str, Any]) -> dict[str, Any]:
        progress, check = self._hooks(id_)
        pace = Pace()

        def report(done: float, total: int, message: str) -> None:
            left = pace.seconds_left(done, total, message)
            progress(Progress(None, 1, 1, int(done), total, done / max(1, total), left, message))

        return run_verb(str(params.get("verb") or ""), params.get("values") or {}, report, check)

    def _discard(self, id_: Any, params: dict[str, Any]) -> None:
        JobDirectory(Path(str(params.get("folder") or "")).absolute()).discard()

    def _add_model(self, id_: Any, params: dict[str, Any]) -> protocol.Models:
        add_model(str(params.get("source") or ""), str(params.get("sha256") or ""))
        return known_models()

    def _remove_model(self, id_: Any, params: dict[str, Any]) -> protocol.Models:
        remove_model(str(params.get("id") or ""))
        return known_models()

    def _cluster(self, id_: Any, params: dict[str, Any]) -> protocol.ClusterInfo:
        asked = executor_of(str(params.get("executor") or "auto"), str(params.get("device") or "auto"))
        if is_here(asked):
            processes = int(asked.partition(":")[2] or 1)
            return protocol.ClusterInfo("", processes, os.cpu_count() or 1)
        from backend.jobs.cluster import describe_cluster  # only those who use a cluster need dask

        return describe_cluster(asked)

    def _hooks(self, id_: Any) -> tuple[Callable[[Progress], None], Callable[[], None]]:
        """(report, check) of a job: its progress goes to the client, its cancel and the session's end come back."""
        cancel = self.cancels[id_]

        def report(progress: Progress) -> None:
            values = {**dataclasses.asdict(progress), "id": id_}
            self._send(protocol.notification("progress", values))

        def check() -> None:
            if cancel.asked.is_set():
                raise Cancelled(cancel.keep)
            if self.closing.is_set():
                raise Interrupted

        check()
        return report, check

    def _send(self, message: dict[str, Any]) -> None:
        try:
            line = protocol.encode(message)
        except (TypeError, ValueError) as error:
            sentence = f"The answer cannot be written as JSON: {error}"
            line = protocol.encode(protocol.error_response(message.get("id"), protocol.INTERNAL_ERROR, sentence))
        try:
            with self.write_lock:
                self.answers.write(line)
                self.answers.flush()
        except (OSError, ValueError):  # the client is gone
            self.closing.set()


def as_plain(found: Any) -> dict[str, Any]:
    """An answer as JSON values."""
    return dataclasses.asdict(found) if dataclasses.is_dataclass(found) and not isinstance(found, type) else found or {}


def known_models() -> protocol.Models:
    """The models that there are, as a client shows them."""
    return protocol.Models(
        [
            ModelInfo(
                b.config.id,
                b.config.title,
                str(b.folder),
                b.has_weights,
                list(b.config.ground_resolution_m),
                b.config.licence,
                b.kind,
                list(b.config.trained) if isinstance(b.config, SceneModelConfig) else [],
            )
            for b in list_bundles()
        ]
    )


def leave(server: Server) -> None:
    """Clean up and end the process at once."""
    server.close()
    os._exit(0)


def leave_with_parent(server: Server) -> None:
    """End the process when its parent is gone, even if somebody else holds the pipe open."""
    parent = os.getppid()

    def watch() -> None:
        while os.getppid() == parent:
            time.sleep(0.5)
        leave(server)

    if os.name == "posix":
        threading.Thread(target=watch, daemon=True).start()


def serve_stdio() -> int:
    """Serve on standard input and output; whatever else prints goes to stderr, and nobody else reads."""
    requests, answers = os.fdopen(os.dup(0), "rb"), os.fdopen(os.dup(1), "wb")
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)  # on Windows, a child process that gets a pipe which somebody reads from hangs
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    server = Server(requests, answers)
    leave_with_parent(server)
    signal.signal(signal.SIGTERM, lambda *_: leave(server))
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a terminal sends it to its programs' children too: they cancel
    server.run()
    return 0
