import subprocess
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import qgis_support

ALGORITHM = "metaearth:generatehigherresolution"


class QgisProcess:
    """`qgis_process` with a private profile, data root and folder for results."""

    def __init__(self, variables, folder):
        self.variables, self.folder = variables, folder
        folder.mkdir()

    def start(self, *arguments):
        return subprocess.Popen(["/usr/bin/qgis_process.bin", *arguments], env=self.variables, cwd=self.folder,
                                stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    def start_job(self, algorithm=ALGORITHM, **values):
        values = {"OUTPUT": self.folder / "o.tif", "MODEL": "tiny", **values}
        return self.start("run", algorithm, "--", *(f"{name}={value}" for name, value in values.items()))

    def run_job(self, algorithm=ALGORITHM, **values):
        """Exit status and everything that was printed."""
        process = self.start_job(algorithm, **values)
        text, _ = process.communicate(timeout=300)
        return process.returncode, text

    def working_child(self, process):
        """The backend of ``process``, once it computes."""
        def child():
            ended = process.poll() is not None
            assert not ended, process.stdout.read()
            return any(self.folder.glob("*.metaearth-job/plan.json")) and qgis_support.backend_children(process.pid)

        return qgis_support.wait_for(child, 120)[0]

    def results(self):
        return sorted(path.name for path in self.folder.glob("*.tif"))


@pytest.fixture(scope="session")
def variables(tmp_path_factory):
    home = qgis_support.make_home(tmp_path_factory.mktemp("home"))
    return qgis_support.qgis_variables(tmp_path_factory.mktemp("qgis"), home)


@pytest.fixture
def qgis_process(variables, tmp_path):
    return QgisProcess(variables, tmp_path / "results")


@pytest.fixture
def scene(tmp_path):
    return qgis_support.write_raster(tmp_path / "scene.tif", 48)


@pytest.fixture
def long_job(tmp_path):
    """Parameters of a job that takes minutes."""
    return {"INPUT": qgis_support.write_raster(tmp_path / "large.tif", 400), "STEPS": 900}
