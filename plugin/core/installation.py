"""Sets the backend's environment up and takes it away. Standard library only; nothing of QGIS.

All lies under one root, `protocol.data_home()`: ``env`` (the environment), ``bin`` (uv), ``python`` (a Python of uv's
where the system has none that fits), ``cache`` (downloads, so that a broken set-up goes on), ``logs/setup.log``.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import shutil
import signal
import subprocess  # nosec B404 - runs uv and the backend's Python
import sys
import threading
import time
import zipfile
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Callable, Dict, Iterator, List, Optional, Tuple

from .accelerator import NO_WINDOW, TorchBuild, find_gpu, hardware, torch_build
from .environment import READY, SETTING, interpreter_in, without_qgis
from .package_index import PROBLEMS, Stopped, download, index_url, with_proxy, without_credentials
from .translate import tr

UV = "0.13.9"
UV_WHEELS = {
    ("win32", "AMD64"): ("win_amd64", "sha256:6a44b2ed8111d2f60d2b92627c5dccda3f7ed7570b18ce115e569cd68c28246b"),
    ("win32", "ARM64"): ("win_arm64", "sha256:eeb92051c2123b9730c46b04cc843cfa4bc7d7b0aec56df431a2215ef4cb0273"),
    ("darwin", "arm64"): ("macosx_11_0_arm64",
                          "sha256:66c512266d633bef48384a1f53003f41f2a8e7b36fe6e7fbfd3e0fd52d96fa63"),
    ("linux", "x86_64"): ("manylinux_2_17_x86_64.manylinux2014_x86_64",
                          "sha256:d7f459fe4fd247d830351c75686d3996ace3c6f3f728eb0e85a30b7ada0cef19"),
    ("linux", "aarch64"): ("manylinux_2_17_aarch64.manylinux2014_aarch64.musllinux_1_1_aarch64",
                           "sha256:5435c5ce14a56431208ca0996416d310f1598e8c2c8ba707688985a16bb82dbe"),
}
TORCH = "torch==2.13.0"
PYTHON = ">=3.11,<3.14"
LOCK = "backend.lock"
LOCK_FILE = "setup.lock"
PARTS = ("env", "python", "bin", "cache")
WATCH_SECONDS = 0.3
CPU_BYTES, CUDA_BYTES = 3_000_000_000, 9_000_000_000
SPARE_BYTES = 500_000_000
QUERY, STILL_ACTIVE = 0x1000, 259
"""Of Windows: the right to ask for a process's state, and the exit code of one that runs."""
SMOKE = """
import json, sys, torch, rasterio, numpy, safetensors, cattrs, distributed
device = "cuda" if torch.cuda.is_available() else "cpu"
sum_ = float(torch.ones(1024, 1024, device=device).matmul(torch.ones(1024, 1, device=device)).sum())
assert sum_ == 1024 * 1024
print(json.dumps({"device": torch.cuda.get_device_name() if device == "cuda" else "cpu", "torch": torch.__version__,
                  "python": sys.version.split()[0]}))
"""


class SetupError(Exception):
    """The environment cannot be made; the message is a sentence for the user."""


class SetupCancelled(SetupError):
    """The user stopped it; what was downloaded stays for the next try."""


@dataclass
class Setup:
    """One set-up: where, from where, and whom to tell.

    ``root`` holds the package ``backend``; ``wheels`` is a folder of wheels to use instead of the network; ``say`` gets
    every line; ``cancelled`` is asked often. ``proxy``: an address for downloads, unless the environment names one.
    """

    root: Path
    home: Path
    wheels: Optional[Path] = None
    say: Callable[[str], None] = print
    cancelled: Callable[[], bool] = lambda: False
    proxy: str = ""

    def run(self, build: Optional[str] = None) -> Dict[str, str]:
        """Make the environment, or go on where an earlier try broke; what its smoke test told.

        ``build`` overrules the probe of the GPU.
        """
        chosen = TorchBuild(build, "as asked") if build else torch_build(find_gpu())
        if chosen.name is None:
            raise SetupError(chosen.reason)
        with self._alone():
            self.tell(tr("torch build {}: {}").format(chosen.name, chosen.reason))
            self._check_space(chosen.name)
            with self._earlier_one_kept():
                return self._set_up(chosen)

    def _set_up(self, chosen: TorchBuild) -> Dict[str, str]:
        uv = self._uv()
        self._make(uv)
        self._install(uv, chosen.name)
        found = self._smoke_test()
        if chosen.name.startswith("cu") and found["device"] == "cpu":
            self.tell(tr("The GPU build does not reach the GPU, so the processor's build is installed. A newer "
                         "driver usually helps: update it, then set MetaEarth up again."))
            self._install(uv, "cpu")
            found = self._smoke_test()
            chosen = TorchBuild("cpu", tr("the GPU build did not reach the GPU"))
        stamp = {**found, "build": chosen.name, "reason": chosen.reason, "lock": lock_digest(self.root)}
        (self.env / READY).write_text(json.dumps(stamp, indent=1), encoding="utf-8")
        (self.home / SETTING).unlink(missing_ok=True)  # an earlier choice would still come first
        self.tell(tr("Ready: Python {}, torch {}, on {}.").format(found["python"], found["torch"], found["device"]))
        return stamp

    @contextmanager
    def _earlier_one_kept(self) -> Iterator[None]:
        """No backend starts meanwhile; a try that breaks leaves an environment that still works as it was."""
        ready = self.env / READY
        stamp = ready.read_text(encoding="utf-8") if ready.is_file() else ""
        ready.unlink(missing_ok=True)
        try:
            yield
        except BaseException:
            with suppress(OSError, SetupError, StopIteration):
                if stamp:
                    replace(self, cancelled=lambda: False)._can_serve()
                    ready.write_text(stamp, encoding="utf-8")
                    self.tell(tr("What was set up before still works, and stays."))
            raise

    @property
    def env(self) -> Path:
        """The environment."""
        return self.home / "env"

    def tell(self, line: str) -> None:
        """Pass a line on, and keep it in the log, both without credentials."""
        line = without_credentials(line.rstrip())
        log = self.home / "logs" / "setup.log"
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("a", encoding="utf-8") as stream:
            stream.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {line}\n")
        self.say(line)

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Nobody else sets up in this root meanwhile."""
        self.home.mkdir(parents=True, exist_ok=True)
        lock = self.home / LOCK_FILE
        if not is_at_work(self.home):
            lock.unlink(missing_ok=True)
        try:
            with lock.open("x", encoding="utf-8") as stream:
                stream.write(f"{platform.node()} {os.getpid()}")
        except FileExistsError:
            raise SetupError(at_work_sentence(self.home)) from None
        except OSError as error:
            raise SetupError(tr("{} cannot be written: {}.").format(self.home, error.strerror)) from error
        try:
            yield
        finally:
            lock.unlink()

    def _check_space(self, build: str) -> None:
        whole, free = CUDA_BYTES if build.startswith("cu") else CPU_BYTES, shutil.disk_usage(self.home).free
        # what an environment of other packages has is replaced, not gone on with
        there = 0 if needs_update(self.root, self.home) else sum(folder_bytes(self.home / name) for name in PARTS)
        needed = max(SPARE_BYTES, whole - there)
        if free < needed:
            raise SetupError(tr("The environment needs up to {:.0f} GB in {}, and {:.1f} GB are free. Free some space, "
                                "or set METAEARTH_HOME to a folder on another disk.").format(
                                    needed / 1e9, self.home, free / 1e9))

    def _uv(self) -> Path:
        """uv of our version: fetched before, or from the wheels, or from the package index, checked by its hash."""
        own = self.home / "bin" / ("uv.exe" if sys.platform == "win32" else "uv")
        if own.is_file() and _version(own).startswith(f"uv {UV}"):
            return own
        key = (sys.platform, hardware())
        if key not in UV_WHEELS:
            raise SetupError(tr("There is no set-up for {}; make a Python environment with torch and rasterio yourself "
                                "and name it with --use.").format(" ".join(key)))
        tag, digest = UV_WHEELS[key]
        name = f"uv-{UV}-py3-none-{tag}.whl"
        wheel = self.wheels / name if self.wheels else self.home / "cache" / name
        if self.wheels is None and not _has_digest(wheel, digest):
            self._download(name, wheel)
        if not _has_digest(wheel, digest):
            raise SetupError(tr("{} is missing or damaged.").format(wheel))
        own.parent.mkdir(parents=True, exist_ok=True)
        with zipfile.ZipFile(wheel) as archive, archive.open(f"uv-{UV}.data/scripts/{own.name}") as packed:
            own.write_bytes(packed.read())
        own.chmod(0o755)
        return own

    def _download(self, name: str, path: Path) -> None:
        """A file of the project uv from the package index."""
        self.tell(tr("Downloading {}").format(name))
        try:
            download("uv", name, path, self._variables(), self.cancelled)
        except Stopped:
            raise SetupCancelled(_stopped()) from None
        except PROBLEMS as error:
            raise SetupError(tr("uv cannot be downloaded ({}). Check the network and the proxy (HTTPS_PROXY), or use a "
                                "folder of wheels.").format(without_credentials(str(error)))) from error

    def _make(self, uv: Path) -> None:
        """The empty environment, unless an earlier try has left it."""
        if not interpreter_in(self.env).is_file():
            offline = ["--no-python-downloads"] if self.wheels else []
            self._do([str(uv), "venv", "--python", PYTHON, "--clear", *offline, "env"])

    def _install(self, uv: Path, build: str) -> None:
        """Everything of the lock, checked by hashes, then the build of torch."""
        shutil.copyfile(lock_file(self.root), self.home / LOCK)  # paths with spaces break requirement files
        python = str(interpreter_in(Path("env")))
        source = ["--no-index", "--find-links", str(self.wheels)] if self.wheels else []
        command = [str(uv), "pip", "install", "--python", python, *source]
        self._do([*command, "--only-binary", ":all:", "--require-hashes", "-r", LOCK])
        # reinstalled: to uv, one build of a release is as good as another
        from_index = [] if self.wheels else [f"--torch-backend={build}"]
        self._do([*command, "--reinstall-package", "torch", *from_index, TORCH])

    def _smoke_test(self) -> Dict[str, str]:
        """What the new environment tells of itself after it has computed something on the device."""
        told = self._do([str(interpreter_in(self.env)), "-c", SMOKE])
        return json.loads(next(line for line in reversed(told) if line.startswith("{")))

    def _can_serve(self) -> None:
        """`SetupError` if the environment lacks anything that the backend imports, or cannot compute."""
        self._smoke_test()
        whole = "import sys; sys.path.insert(0, sys.argv[1]); import backend.server, backend.training.run"
        self._do([str(interpreter_in(self.env)), "-c", whole, str(self.root)])

    def _do(self, command: List[str]) -> List[str]:
        """The lines that a program has written; `SetupError` with its last ones if it failed."""
        process = subprocess.Popen(command, cwd=self.home, env=self._variables(), text=True,  # nosec B603 - our words
                                   stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                                   encoding="utf-8", errors="replace", creationflags=NO_WINDOW, start_new_session=True)
        watcher = threading.Thread(target=self._watch, args=(process,), daemon=True)
        watcher.start()
        lines = []
        try:
            for line in process.stdout:
                lines.append(line.rstrip())
                self.tell(line)
        except BaseException:
            kill_all(process)
            raise
        finally:
            status = process.wait()
        if self.cancelled():
            raise SetupCancelled(_stopped())
        if status:
            raise SetupError(tr("The set-up failed: {}").format(without_credentials(" ".join(lines[-4:]))))
        return lines

    def _watch(self, process: subprocess.Popen) -> None:
        """Kill a program that says nothing for long when the user stops the set-up."""
        while process.poll() is None:
            if self.cancelled():
                kill_all(process)
            time.sleep(WATCH_SECONDS)

    def _variables(self) -> Dict[str, str]:
        """The environment for uv: everything that it keeps lies under our root."""
        kept = with_proxy(without_qgis(os.environ), self.proxy)
        cache = self.home / "cache" / "uv"
        index = kept.get("UV_DEFAULT_INDEX") or index_url(kept)
        return {**kept, "UV_DEFAULT_INDEX": index, "UV_CACHE_DIR": str(cache),
                "UV_PYTHON_INSTALL_DIR": str(self.home / "python"), "UV_NO_CONFIG": "1",
                "UV_LINK_MODE": "hardlink" if sys.platform != "win32" else "copy"}


def _stopped() -> str:
    return tr("The set-up was stopped; what is downloaded is kept for the next try.")


def kill_all(process: subprocess.Popen) -> None:
    """Kill a program with whatever it has started, which would go on and hold its output open; Windows: it alone."""
    if os.name != "posix":
        process.kill()
        return
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def is_at_work(home: Path) -> bool:
    """Whether a set-up is running; a lock that is a day old, or whose process is gone, is a crash's."""
    lock = home / LOCK_FILE
    try:
        host, _, pid = lock.read_text(encoding="utf-8").rpartition(" ")
        if time.time() - lock.stat().st_mtime > 24 * 3600:
            return False
        return host != platform.node() or _is_alive(int(pid))
    except FileNotFoundError:
        return False
    except (OSError, ValueError):  # another user's, or one that is just written
        return True


def at_work_sentence(home: Path) -> str:
    """What to do about a set-up that is running, or seems to."""
    return tr("Another set-up is at work; wait until it is done. If there is none, delete {}.").format(home / LOCK_FILE)


def _is_alive(pid: int) -> bool:
    if os.name == "posix":
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            pass
        return True
    import ctypes  # of Windows, where signal 0 would end the process

    kernel, code = ctypes.windll.kernel32, ctypes.c_ulong()
    process = kernel.OpenProcess(QUERY, False, pid)
    if not process:
        return False
    known = kernel.GetExitCodeProcess(process, ctypes.byref(code))
    kernel.CloseHandle(process)
    return bool(known) and code.value == STILL_ACTIVE


def forget(home: Path) -> None:
    """Let no backend be started from the environment, or from the Python that the user has named."""
    for name in (SETTING, f"env/{READY}"):
        (home / name).unlink(missing_ok=True)


def remove(home: Path) -> None:
    """Delete the environment and all that was downloaded for it; `OSError` if some of it is still there."""
    forget(home)  # first: what a partly failed deletion leaves is no environment
    for name in PARTS:
        shutil.rmtree(home / name, ignore_errors=True)
    (home / LOCK).unlink(missing_ok=True)
    left = [str(home / name) for name in PARTS if (home / name).exists()]
    if left:
        raise OSError(tr("{} is in use. Close other programs and try again.").format(", ".join(left)))


def lock_file(root: Path) -> Path:
    """The lock that is shipped with the plugin."""
    return root / "resources" / LOCK


def lock_digest(root: Path) -> str:
    """What tells one lock from another."""
    return hashlib.sha256(lock_file(root).read_bytes() + TORCH.encode()).hexdigest()[:16]


def needs_update(root: Path, home: Path) -> bool:
    """Whether the environment was made from another lock than the plugin's."""
    stamp = home / "env" / READY
    try:
        return stamp.is_file() and json.loads(stamp.read_text(encoding="utf-8")).get("lock") != lock_digest(root)
    except (OSError, ValueError):
        return True


def _version(uv: Path) -> str:
    """What our own uv says of itself; empty if it cannot be started."""
    try:
        return subprocess.run([str(uv), "--version"], capture_output=True, text=True,  # nosec B603 - our own uv
                              timeout=20, creationflags=NO_WINDOW).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""


def folder_bytes(folder: Path) -> int:
    """Bytes of a folder; of files with several names, once."""
    seen: Dict[Tuple[int, int], int] = {}
    for place, _, names in os.walk(folder):
        for name in names:
            with suppress(OSError):  # it may be gone by now
                found = os.lstat(os.path.join(place, name))
                seen[(found.st_dev, found.st_ino)] = found.st_size
    return sum(seen.values())


def _has_digest(path: Path, digest: str) -> bool:
    return path.is_file() and f"sha256:{hashlib.sha256(path.read_bytes()).hexdigest()}" == digest
