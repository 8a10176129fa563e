"""Every condition that a user can meet, one class each; the message is a sentence and says what to do."""

from __future__ import annotations


class MetaEarthError(Exception):
    """Base class; ``code`` names the condition to programs."""

    code = "error"


class InputError(MetaEarthError):
    """The source raster cannot be used as asked."""

    code = "input"


class MissingCrsError(InputError):
    """The source has no coordinate reference system and no ground resolution was given."""

    code = "no-crs"


class ExtentError(InputError):
    """The extent is empty, malformed or outside the source."""

    code = "extent"


class PlanError(MetaEarthError):
    """The job's values do not make a job."""

    code = "plan"


class ModelError(MetaEarthError):
    """A model bundle is unknown, incomplete, damaged or unfit for the job."""

    code = "model"


class OutputError(MetaEarthError):
    """The result cannot be written."""

    code = "output"


class DiskFullError(OutputError):
    """No space is left for the result."""

    code = "disk-full"


class JobBusyError(MetaEarthError):
    """Another process works on this job, or on a job with the same result."""

    code = "busy"


class ExecutorError(MetaEarthError):
    """The machine or cluster that computes failed; finished blocks are kept."""

    code = "executor"


class DeviceError(MetaEarthError):
    """The asked device is not there, or ran out of memory."""

    code = "device"


class NetworkOutputError(MetaEarthError):
    """The network returned values that are not finite."""

    code = "not-finite"


class HeldOutError(MetaEarthError):
    """Imagery of the validation or test split was offered for training."""

    code = "held-out"


class Interrupted(MetaEarthError):
    """The process is told to end; finished blocks are kept."""

    code = "interrupted"

    def __init__(self) -> None:
        super().__init__("The job was interrupted; what is finished is kept.")


class Cancelled(MetaEarthError):
    """The user cancelled the job."""

    code = "cancelled"

    def __init__(self, keep: bool | None = None) -> None:
        """``keep``: whether finished blocks stay, so that the job can be resumed.

        None: if its folder was named, or held them before this run.
        """
        super().__init__("The job was cancelled.")
        self.keep = keep
