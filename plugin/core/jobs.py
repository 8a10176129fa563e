"""A job from the plugin's side: handed to the backend, followed, told about."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any, Dict, List, Optional

from qgis.core import QgsProcessingFeedback
from qgis.PyQt.QtCore import pyqtSignal

from ...backend.protocol import (
    JOB_FOLDER,
    OWNER_FILE,
    PLAN_FILE,
    Job,
    JobResult,
    JobSummary,
    Progress,
    RasterInfo,
    Verb,
    default_job_folder,
)
from .backend_client import BackendCancelled, BackendClient, BackendError, session_client
from .cost import duration
from .snapshots import remove_snapshot, source_of
from .translate import tr


class JobFeedback(QgsProcessingFeedback):
    """The feedback of a job that somebody watches: ``advanced`` gives every `Progress`.

    ``keep`` says what becomes of finished blocks after a cancel: kept or deleted; None: as the job says.
    """

    advanced = pyqtSignal(object)
    keep: Optional[bool] = None

    def stop(self, keep: bool) -> None:
        """Cancel the job."""
        self.keep = keep
        self.cancel()


def run_job(job: Job, feedback: QgsProcessingFeedback) -> JobResult:
    """The finished job; what it will cost is told first, then its progress. Raises `BackendError`."""
    feedback.setProgressText(tr("Starting the backend…"))
    params, client, begun = {"job": job.to_dict()}, session_client(), is_unfinished(job)
    warned = _tell_cost(params, feedback)
    try:
        return _follow("generate", params, feedback, warned)
    except BackendCancelled as error:
        if error.killed and not job.job_dir and not _keeps(feedback, begun):
            _remove_left(Path(default_job_folder(job.output)), error.killed, client)
        raise


def is_unfinished(job: Job) -> bool:
    """Whether a job has left something that can be resumed."""
    return (Path(job.job_dir or default_job_folder(job.output)) / PLAN_FILE).is_file()


def _keep(feedback: QgsProcessingFeedback) -> Optional[bool]:
    """Whether a cancelled job's finished blocks stay; None: as the job says."""
    return feedback.keep if isinstance(feedback, JobFeedback) else None


def _keeps(feedback: QgsProcessingFeedback, begun: bool) -> bool:
    """Whether what is finished stays; unless somebody says, it does where an earlier run has ``begun`` it."""
    keep = _keep(feedback)
    return begun if keep is None else keep


def _remove_left(folder: Path, pid: int, client: BackendClient) -> None:
    """Delete the job of a backend that was killed because it did not answer, if that worked in its folder last."""
    try:
        owner = json.loads((folder / OWNER_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return
    if owner["pid"] == pid:
        try:
            client.request("discard", {"folder": str(folder)}, lambda progress: None, lambda: False)
        except BackendError:  # it had no plan yet, or QGIS is closing, and the client with it
            shutil.rmtree(folder, ignore_errors=True)


def resume_job(folder: str, executor: str, feedback: QgsProcessingFeedback) -> JobResult:
    """The finished job of a job folder, on its own executor unless another is given. Raises `BackendError`."""
    feedback.setProgressText(tr("Starting the backend…"))
    source = source_of(Path(folder))
    result = _follow("resume", {"folder": folder, "executor": executor or None}, feedback, [])
    remove_snapshot(source)
    return result


def run_verb(verb: Verb, values: Dict[str, Any], feedback: QgsProcessingFeedback) -> Dict[str, Any]:
    """What the backend tells of a verb's outcome, by name. Raises `BackendError`."""
    feedback.setProgressText(tr("Starting the backend…"))

    def show(progress: Progress) -> None:
        feedback.setProgress(100.0 * progress.fraction)
        feedback.setProgressText(tr("{}: {} of {}").format(progress.message, progress.windows_done, progress.windows))
        if isinstance(feedback, JobFeedback):
            feedback.advanced.emit(progress)

    params, client = {"verb": verb.name, "values": values}, session_client()
    begun = {folder for folder in _job_folders(values) if (folder / PLAN_FILE).is_file()}
    warned = _tell_cost(params, feedback) if verb.planned else []
    try:
        told = client.request("run", params, show, feedback.isCanceled, lambda: _keep(feedback))
    except BackendCancelled as error:
        if error.killed and not values.get("job_dir"):
            for folder in _job_folders(values):
                if not _keeps(feedback, folder in begun):
                    _remove_left(folder, error.killed, client)
        raise
    for warning in told.get("warnings", []):
        if warning not in warned:
            feedback.pushWarning(warning)
    feedback.pushInfo(told["text"])
    return told


def _job_folders(values: Dict[str, Any]) -> List[Path]:
    """Of unfinished jobs, where a verb's results go."""
    return list(Path(values["output"]).glob(f"**/*{JOB_FOLDER}")) if values.get("output") else []


def inspect_raster(path: str, given: Dict[str, Any], feedback: QgsProcessingFeedback) -> RasterInfo:
    """What the backend sees in a raster file, by what is ``given`` of it. Raises `BackendError`."""
    params = {"input": path, **given}
    found = session_client().request("inspect", params, lambda progress: None, feedback.isCanceled)
    return RasterInfo.from_dict(found)


def _follow(method: str, params: dict, feedback: QgsProcessingFeedback, told: List[str]) -> JobResult:
    """The result of a request that reports progress; warnings that were not ``told`` yet are."""
    shown: List[str] = []

    def show(progress: Progress) -> None:
        feedback.setProgress(100.0 * progress.fraction)
        if isinstance(feedback, JobFeedback):
            feedback.advanced.emit(progress)
        text = tr("Stage {} of {}: {}").format(progress.stage, progress.stages, progress.message)
        if text not in shown:
            shown.append(text)
            feedback.setProgressText(text)

    answer = session_client().request(method, params, show, feedback.isCanceled, lambda: _keep(feedback))
    result = JobResult.from_dict(answer)
    for warning in result.warnings:
        if warning not in told:
            feedback.pushWarning(warning)
    if result.blocks_resumed:
        feedback.pushInfo(tr("Blocks that were finished already: {}.").format(result.blocks_resumed))
    feedback.pushInfo(tr("Done in {:.1f} s on {}: {:.3g} m/px, seed {}.").format(
        result.seconds_total, result.device, result.grid.pixel_size_m, result.seed))
    return result


def _tell_cost(params: dict, feedback: QgsProcessingFeedback) -> List[str]:
    """Ask what a job would do, and write its size, its cost and the warnings, which are returned, into the log."""
    planned = session_client().request("plan", params, lambda progress: None, feedback.isCanceled)
    summary = JobSummary.from_dict(planned)
    last = summary.stages[-1]
    feedback.pushInfo(tr("Stages: {}. Result: {} x {} pixels of {:.3g} m, {:.1f} MB. Windows: {}, network evaluations: "
                         "{}.").format(len(summary.stages), last.width, last.height, last.pixel_size_m,
                                       summary.output_bytes / 1e6, summary.windows, summary.evaluations))
    feedback.pushInfo(tr("Estimated time: {} on {}. Disk space needed meanwhile: {:.2f} GB.").format(
        duration(summary.seconds), summary.device_name, summary.disk_bytes / 1e9))
    for warning in summary.warnings:
        feedback.pushWarning(warning)
    return summary.warnings
