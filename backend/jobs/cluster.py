"""Blocks on a Dask cluster: probe, two tasks a worker in flight, retries, and what to say when something dies."""

from __future__ import annotations

import os
import secrets
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import CancelledError
from contextlib import ExitStack
from pathlib import Path
from urllib.parse import urlsplit

import torch
from rasterio.errors import RasterioError

from backend.errors import ExecutorError, MetaEarthError, NetworkOutputError
from backend.jobs import worker
from backend.jobs.code import code_sha256, packed_code
from backend.jobs.directory import PROBE, STOP, JobDirectory
from backend.jobs.executors import Done, raise_failures
from backend.jobs.plan import JobPlan
from backend.jobs.queues import DEATHS, BlockQueues
from backend.jobs.renderer import BlockReport, report_of
from backend.jobs.worker import VISIBLE_SECONDS, Probe
from backend.protocol import ClusterInfo
from backend.tiling.geometry import Block

try:
    import distributed
    from distributed import Client, Future, KilledWorker, Nanny, Scheduler, SpecCluster
except ImportError as error:
    raise ExecutorError("Jobs on a cluster need the package distributed: pip install distributed.") from error

CONNECT_SECONDS = 20
WORKERLESS_SECONDS = 60
PROBE_SECONDS = 120
END_SECONDS = 10
TASKS_A_WORKER = 2
RETRIES = 2
NO_GPU = (
    "Workers have a GPU, but the job was planned for the CPU, which this machine has: start it on a machine with such a"
    " GPU to use theirs."
)


class ClusterExecutor:
    """Computes blocks on the workers of a scheduler; see `Executor`.

    ``address`` is tcp://host:port, tls://host:port, a scheduler file, or local:N for N processes of this machine.
    """

    def __init__(self, address: str, plan: JobPlan, directory: JobDirectory, check: Callable[[], None]) -> None:
        self.address, self.plan, self.directory, self.check = address, plan, directory, check
        self.warnings: list[str] = []
        self._stack = ExitStack()
        self._futures: dict[Future, tuple[Block, str]] = {}
        self._run_id = secrets.token_hex(4)
        self._nonce = directory.folder / f"{PROBE}{self._run_id}"
        self._asked: dict[str, Future] = {}
        self._problems: dict[str, str] = {}
        self._device_names = {plan.device_name}
        self._chose_cpu = plan.device == "cpu" and plan.job.device == "auto"

    def __enter__(self) -> ClusterExecutor:
        try:
            self._client = self._stack.enter_context(self._connect())
            self._stack.callback(self._end_tasks)
            (self.directory.folder / STOP).unlink(missing_ok=True)
            self.directory.keep_model(self.plan)
            self._upload_code()
            self._nonce.write_text(self._nonce.name, encoding="utf-8")
            self._stack.callback(self._remove_nonces)
            self._probe_all()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *error: object) -> None:
        self._stack.close()

    def _remove_nonces(self) -> None:
        for left in self.directory.folder.glob(f"{self._nonce.name}*"):
            left.unlink(missing_ok=True)

    def _connect(self) -> Client:
        kind, _, count = self.address.partition(":")
        if kind == "local":
            return Client(self._stack.enter_context(local_cluster(int(count), self.plan.device)))
        self._warn_of_open_door()
        return connect(self.address)

    def _warn_of_open_door(self) -> None:
        if "://" not in self.address:  # a scheduler file
            return
        found = urlsplit(self.address)
        if found.scheme != "tls" and found.hostname not in ("localhost", "127.0.0.1", "::1"):
            self.warnings.append(
                f"The connection to {self.address} is neither encrypted nor protected: whoever reaches that port can "
                "run programs on its workers. Use tls:// on a network that you do not own."
            )

    def _upload_code(self) -> None:
        """Give the workers our code, those that come later too."""
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "metaearth_backend.zip"
            path.write_bytes(packed_code())
            self._client.upload_file(str(path))

    def _probe_all(self) -> None:
        """`ExecutorError` names the workers that cannot do this job, and why; a busy one may take its time."""
        self._ask_new(self._wait_for_workers())
        end = time.monotonic() + PROBE_SECONDS
        while self._asked:
            self.check()
            if time.monotonic() > end:
                late = f"no answer within {PROBE_SECONDS} s; it may be busy with other work"
                self._problems |= {address: f"{address}: {late}" for address in self._asked}
                break
            self._take_answers()
            time.sleep(0.05)
        if told := self._told_problems():
            raise ExecutorError(f"The cluster cannot do this job. {told}.")

    def _ask_new(self, threads: dict[str, int]) -> None:
        """Let workers that nobody has asked yet tell whether they can do this job."""
        folder, nonce = str(self.directory.folder), self._nonce.name
        for address, count in threads.items():
            if address not in self._problems and address not in self._asked:
                self._asked[address] = self._client.submit(
                    worker.probe, folder, nonce, code_sha256(), count, workers=[address], pure=False
                )

    def _take_answers(self) -> None:
        for address, future in list(self._asked.items()):
            if future.done():
                del self._asked[address]
                self._problems[address] = self._problem_of(address, future)

    def _problem_of(self, address: str, future: Future) -> str:
        """What keeps a worker from doing this job; empty if nothing does."""
        try:
            found: Probe = future.result()
        except Exception as error:  # whatever a foreign machine's Python has to say
            return f"{address}: {type(error).__name__}: {error}"
        if found.problem:
            return f"{address} on {found.host}: {found.problem}"
        if found.has_gpu and self._chose_cpu and NO_GPU not in self.warnings:
            self.warnings.append(NO_GPU)
        if found.device_name not in self._device_names:
            self._device_names.add(found.device_name)
            self.warnings.append(
                f"The job was planned for {self.plan.device_name}, and a worker has {found.device_name}: "
                "their blocks equal each other within rounding, not bit for bit."
            )
        return ""

    def _told_problems(self) -> str:
        return "; ".join(sentence for sentence in self._problems.values() if sentence)

    def _fit_workers(self) -> list[str]:
        """Those that can do the job. Workers that come later are asked, and left out with a warning if they cannot."""
        end = time.monotonic() + WORKERLESS_SECONDS
        while True:
            threads, known = self._wait_for_workers(), set(self._problems)
            self._ask_new(threads)
            self._take_answers()
            new = [address for address in self._problems if address not in known]
            self.warnings += [f"Left out: {self._problems[a]}." for a in new if self._problems[a]]
            fit = [address for address in threads if self._problems.get(address) == ""]
            if fit:
                return fit
            self.check()
            if time.monotonic() > end:
                raise ExecutorError(f"No worker is left that can do this job. {self._told_problems()}.")
            time.sleep(0.2)

    def _wait_for_workers(self) -> dict[str, int]:
        """Threads of each worker, by address."""
        end = time.monotonic() + WORKERLESS_SECONDS
        while not (threads := self._client.nthreads()):
            self.check()
            if time.monotonic() > end:
                raise ExecutorError(f"The scheduler at {self.address} has no workers. Start some, then resume the job.")
            time.sleep(0.2)
        return dict(threads)

    def run(self, sample: int, stage: int, blocks: list[Block], done: Done) -> None:
        """See `Executor`."""
        queues, failures = BlockQueues(blocks), list[NetworkOutputError]()
        while queues or self._futures:
            self.check()
            try:
                alive = self._fit_workers()
                self._take_back_from_the_dead(alive, queues, failures)
                self._submit(sample, stage, alive, queues)
                finished = self._finished()
            except (OSError, TimeoutError, CancelledError) as error:
                raise self._lost(error) from error
            for future in finished:
                block, _ = self._futures.pop(future)
                try:
                    self._raise_for(future, block, stage)
                    done(block, self._report(sample, stage, block))
                except NetworkOutputError as error:
                    failures.append(error)
        raise_failures(failures)

    def _report(self, sample: int, stage: int, block: Block) -> BlockReport:
        """What a finished block cost. A disk of several machines may show it here later than its worker."""
        path, end = self.directory.block_path(sample, stage, block), time.monotonic() + VISIBLE_SECONDS
        while True:
            try:
                return report_of(path, self.plan)
            except (RasterioError, OSError) as error:
                if time.monotonic() > end or not self.directory.has_plan:
                    raise ExecutorError(
                        f"Block {block.name} was finished by a worker, but {path} cannot be read here. Resume the job."
                    ) from error
            self.check()
            time.sleep(0.2)

    def _take_back_from_the_dead(
        self, alive: list[str], queues: BlockQueues, failures: list[NetworkOutputError]
    ) -> None:
        """Blocks of workers that are gone go to others, one at a time: one of them may be what killed it."""
        for future, (block, address) in list(self._futures.items()):
            if address not in alive and not future.done():
                future.cancel()
                del self._futures[future]
                if queues.suspect(block) == DEATHS:
                    failures.append(NetworkOutputError(f"Block {block.name} killed {DEATHS} workers."))

    def _submit(self, sample: int, stage: int, alive: list[str], queues: BlockQueues) -> None:
        """Keep a few tasks a worker in flight, no more."""
        for address in alive:
            held = [block for block, of in self._futures.values() if of == address]
            if any(map(queues.is_suspect, held)):
                continue
            busy = len(held)
            if not busy and (block := queues.next_suspect()):
                self._futures[self._task(sample, stage, block, address)] = block, address
                continue
            for _ in range(TASKS_A_WORKER - busy):
                if queues.waiting:
                    block = queues.next(address, alive)
                    self._futures[self._task(sample, stage, block, address)] = block, address

    def _task(self, sample: int, stage: int, block: Block, address: str) -> Future:
        """A block's task for one worker."""
        return self._client.submit(
            worker.render,
            str(self.directory.folder),
            sample,
            stage,
            block.row,
            block.col,
            key=f"metaearth-{self._run_id}-{sample}-{stage}-{block.name}-{secrets.token_hex(2)}",
            pure=False,
            retries=RETRIES,
            workers=[address],
        )

    def _finished(self) -> list[Future]:
        """Tasks that ended within half a second."""
        try:
            return list(distributed.wait(list(self._futures), timeout=0.5, return_when="FIRST_COMPLETED").done)
        except TimeoutError:
            if self._client.status != "running":
                raise
            return []

    def _raise_for(self, future: Future, block: Block, stage: int) -> None:
        """Raise a task's error in our words."""
        if future.status in ("cancelled", "lost"):
            raise self._lost(None)
        error = future.exception() if future.status == "error" else None
        if error is None:
            return
        if isinstance(error, KilledWorker):
            raise NetworkOutputError(f"Block {block.name} killed {error.allowed_failures + 1} workers.") from error
        if isinstance(error, MetaEarthError):
            raise error
        raise ExecutorError(
            f"Block {block.name} of stage {stage} failed on the cluster {RETRIES + 1} times "
            f"({type(error).__name__}: {error}). What is finished is kept in {self.directory.folder}."
        ) from error

    def _lost(self, error: BaseException | None) -> ExecutorError:
        why = f" ({error})" if error and str(error) else ""
        return ExecutorError(
            f"The connection to the Dask scheduler at {self.address} was lost{why}. What is finished is kept in "
            f"{self.directory.folder}: resume the job when the scheduler is back."
        )

    def _end_tasks(self) -> None:
        """Nothing of the job runs on the cluster afterwards, and no worker keeps its files open."""
        if self._client.status != "running":
            return
        try:
            if self._futures:
                (self.directory.folder / STOP).touch()
                self._client.cancel(list(self._futures), force=True)
            folder = str(self.directory.folder)
            ends = [  # each waits for the block that its worker is at
                self._client.submit(worker.forget, folder, workers=[address], pure=False)
                for address in self._client.nthreads()
            ]
            distributed.wait(ends, timeout=END_SECONDS)
        except (OSError, TimeoutError, CancelledError):
            pass  # the scheduler is gone, or a worker is busy with something else


def connect(address: str) -> Client:
    """A client of the scheduler at tcp://..., tls://... or in a scheduler file; `ExecutorError` if none answers."""
    try:
        if "://" in address:
            return Client(address, timeout=CONNECT_SECONDS)
        if not Path(address).is_file():
            raise OSError("there is no such file")
        return Client(scheduler_file=address, timeout=CONNECT_SECONDS)
    except (OSError, TimeoutError, ValueError, TypeError) as error:  # TypeError: tls without certificates
        raise ExecutorError(f"No Dask scheduler answers at {address} ({error}).") from error


def describe_cluster(address: str) -> ClusterInfo:
    """Who answers at an address."""
    with connect(address) as client:
        threads = client.nthreads()
        return ClusterInfo(address, len(threads), sum(threads.values()))


def local_cluster(count: int, device: str) -> SpecCluster:
    """``count`` worker processes on this machine, each with a GPU of its own where there are GPUs."""
    gpus = torch.cuda.device_count() if device == "cuda" else 0
    visible = (os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(gpus)))).split(",")
    threads = max(1, (os.cpu_count() or 1) // count)
    workers = {
        number: {
            "cls": Nanny,
            "options": {
                "nthreads": threads,
                "memory_limit": 0,
                "dashboard": False,
                "env": {"CUDA_VISIBLE_DEVICES": visible[number % gpus]} if gpus else {},
            },
        }
        for number in range(count)
    }
    options = {"host": "127.0.0.1", "dashboard": False, "dashboard_address": "127.0.0.1:0"}
    return SpecCluster(workers=workers, scheduler={"cls": Scheduler, "options": options}, silence_logs=30)
