"""Jobs that were interrupted, to be offered when QGIS opens."""

from __future__ import annotations

from typing import Callable, List

from qgis.PyQt.QtCore import QObject

from ...backend.protocol import UnfinishedJob, UnfinishedJobs, unfinished_folder
from .backend_client import Question, session_client
from .snapshots import remove_snapshot


def ask_unfinished(parent: QObject, found: Callable[[List[UnfinishedJob]], None]) -> None:
    """``found`` gets the jobs that can be resumed, if there are any; the backend starts only if there may be."""
    if any(unfinished_folder().glob("*.txt")):
        def answered(answer: dict) -> None:
            jobs = UnfinishedJobs.from_dict(answer).jobs
            if jobs:
                found(jobs)

        session_client().ask("unfinished", {}, parent).answered.connect(answered)


def discard(job: UnfinishedJob, parent: QObject) -> Question:
    """Delete an unfinished job, and then the copy of a layer that it was to read; the question may fail."""
    question = session_client().ask("discard", {"folder": job.folder}, parent)
    question.answered.connect(lambda answer: remove_snapshot(job.input))
    return question
