"""The door between QGIS and the backend: job fields, messages and folders.

The only module that both processes import. Standard library only, Python 3.9 syntax.

Messages are JSON-RPC 2.0, one a line, UTF-8. Requests go from the client to the backend:

=============  =================================================  ==========================================
method         params                                             result
=============  =================================================  ==========================================
initialize     ``{"protocol": 1, "parent_pid": 4711}``            `Handshake`
plan           ``{"job": {...}}``                                 `JobSummary`: what the job would do
plan           ``{"verb": "translate", "values": {...}}``         the same of a `Verb` that is ``planned``
generate       ``{"job": {...}}``                                 `JobResult`
resume         ``{"folder": "..."}``                              `JobResult` of the unfinished job there
run            ``{"verb": "prepare", "values": {...}}``           what the `Verb` tells of its outcome, by name
inspect        ``{"input": "..."}``                               `RasterInfo`
unfinished     ``{}``                                             `UnfinishedJobs` that nobody works on
discard        ``{"folder": "..."}``                              ``{}``; the unfinished job there is deleted
models         ``{}``                                             `Models`
add_model      ``{"source": "...", "sha256": "..."}``             `Models`, the added one among them
remove_model   ``{"id": "..."}``                                  `Models`, without it
cluster        ``{"executor": "tcp://..."}``                      `ClusterInfo`
diagnose       ``{}``                                             `Diagnosis`
cancel         ``{"id": 3, "keep": true}``                        none; the cancelled request ends in an error
shutdown       ``{}``                                             ``{}``, then the process ends
=============  =================================================  ==========================================

``generate``, ``resume`` and ``run`` wait for each other, and send notifications ``progress`` with `Progress` and the
request's ``id``; all else is answered meanwhile. ``keep``: whether a cancelled job's finished blocks stay, to be
resumed; without it they do if the job names its folder.
"""

from __future__ import annotations

import dataclasses
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Dict, List, Optional, Tuple, Union

PROTOCOL_VERSION = 1
ENGINE_VERSION = "0.1.0"

INVALID_REQUEST = -32600
METHOD_NOT_FOUND = -32601
INVALID_PARAMS = -32602
INTERNAL_ERROR = -32603
JOB_FAILED = -32000
CANCELLED = -32800

JOB_METHODS = ("generate", "resume", "run")
"""Requests that the backend works on one after the other."""

DEFAULT_MODEL = "metaearth-lite"
DEFAULT_SCENE_MODEL = "metaearth-mm-lite"
CASCADE, SCENE = "cascade", "scene"
"""Kinds of models: those that make rasters finer, and MetaEarth-MM's, which know modalities."""
MODALITIES = ("rgb", "nir", "sar", "pan", "osm")
"""MetaEarth-MM's; more can be described in a file."""
MAX_SEED = 2147483647

ANCHOR_TAG = "METAEARTH_ANCHOR"
"""In the copy of a layer that is no file: row and column of its first pixel on the layer's own endless grid."""
ANCHOR_STEP = 52
"""Both are multiples of this, so that the windows of usual models (208 result pixels apart) lie alike in all copies."""

RASTER_DRIVERS = ("GTiff", "COG", "VRT", "JPEG", "PNG", "JP2OpenJPEG", "HFA", "ENVI", "AAIGrid", "SRTMHGT", "NITF",
                  "BMP", "PCIDSK", "RST", "GPKG", "BIL", "EHdr", "ERS", "SAGA", "XYZ", "netCDF", "HDF5")
"""GDAL formats that the backend opens: only data, none of them runs code or opens addresses. QGIS copies others."""


class FieldError(ValueError):
    """A job field has a value that it cannot have; the message is a sentence for the user."""


@dataclass(frozen=True)
class JobField:
    """One value of a job: it makes a command line option, a Processing parameter and a JSON key.

    ``kind`` is raster, rasters (files and folders of them), destination, folder, new_folder (that is written), file
    (that is written and no raster), extent, bands, range, integer, number, numbers, choice, choices (some of them),
    flag, text, words, crs, point (X and Y) or points (X, Y and altitude, as text "x,y,alt; x,y,alt"). ``default`` None
    means "not given". ``label`` is for people. ``named``: an option on the command line although it is required.
    ``suffixes``: what a file's name may end in.
    """

    name: str
    kind: str
    label: str
    help: str
    default: Any = None
    choices: Tuple[str, ...] = ()
    minimum: Optional[float] = None
    maximum: Optional[float] = None
    advanced: bool = False
    required: bool = False
    named: bool = False
    suffixes: Tuple[str, ...] = ()

    @property
    def positional(self) -> bool:
        """Whether the command line takes the value without a name."""
        return self.required and not self.named

    @property
    def option(self) -> str:
        """The command line spelling."""
        return self.name if self.positional else "--" + self.name.replace("_", "-")

    @property
    def parameter(self) -> str:
        """The Processing parameter's name."""
        return self.name.upper()

    def check(self, value: Any) -> Any:
        """``value`` in its proper type; `FieldError` if the field cannot have it."""
        if value is None or value in ("", []):
            if self.required:
                raise FieldError(f"{self.label} is missing.")
            return self.default
        try:
            return self._convert(value)
        except (TypeError, ValueError) as error:
            if isinstance(error, FieldError):
                raise
            raise FieldError(f"{self.label}: {value!r} is not a valid {self.kind}.") from None

    def _convert(self, value: Any) -> Any:
        if self.kind == "integer":
            return self._in_range(int(str(value)))
        if self.kind == "number":
            return self._in_range(float(value))
        if self.kind == "flag":
            return value if isinstance(value, bool) else str(value).lower() in ("true", "1", "yes")
        if self.kind == "numbers":
            return [self._in_range(float(v)) for v in (value.split() if isinstance(value, str) else value)]
        if self.kind == "words":
            return value.split() if isinstance(value, str) else [str(v) for v in value]
        if self.kind == "rasters":
            return [str(v) for v in ([value] if isinstance(value, str) else value)]
        if self.kind == "choice":
            if str(value) not in self.choices:
                raise FieldError(f"{self.label}: {value!r} is not one of {', '.join(self.choices)}.")
            return str(value)
        if self.kind == "choices":
            chosen = value.replace(",", " ").split() if isinstance(value, str) else [str(v) for v in value]
            if unknown := [v for v in chosen if v not in self.choices]:
                raise FieldError(f"{self.label}: {', '.join(unknown)} is not among {', '.join(self.choices)}.")
            return chosen
        if self.kind == "extent":
            extent = [float(v) for v in value]
            if len(extent) != 4 or not all(abs(v) < 1e300 for v in extent):
                raise FieldError(f"{self.label} needs four finite numbers: XMIN YMIN XMAX YMAX.")
            return extent
        if self.kind == "range":
            parts = value.split(",") if isinstance(value, str) else list(value)
            if all(part in EMPTY_ENDS for part in parts):
                return self.default
            low, high = map(float, parts)
            if not -1e300 < low < high < 1e300:
                raise FieldError(f"{self.label} needs two numbers, the lower one first.")
            return [low, high]
        if self.kind == "bands":
            bands = [int(str(v)) for v in value]
            if not bands:
                return None
            if len(bands) not in (1, 3) or min(bands) < 1:
                raise FieldError(f"{self.label}: give one band or three, counted from 1.")
            return bands
        if self.kind == "point":
            return self._numbers(value, 2, "two finite numbers: X Y")
        if self.kind == "points":
            parts = [p for p in value.split(";") if p.strip()] if isinstance(value, str) else list(value)
            return [self._numbers(part, 3, 'points as "X,Y,ALTITUDE; X,Y,ALTITUDE"') for part in parts]
        return str(value)

    def _numbers(self, value: Any, count: int, form: str) -> List[float]:
        numbers = [float(v) for v in (value.split(",") if isinstance(value, str) else value)]
        if len(numbers) != count or not all(abs(v) < 1e300 for v in numbers):
            raise FieldError(f"{self.label} needs {form}.")
        return numbers

    def _in_range(self, value: Any) -> Any:
        low, high = self.minimum, self.maximum
        if value != value or (low is not None and value < low) or (high is not None and value > high):
            raise FieldError(f"{self.label}: {value} is outside {low:.10g} to {high:.10g}.")
        return value


EMPTY_ENDS = ("None", "nan", "")
"""How QGIS writes the end of a range that is not given."""

JOB_FIELDS: Tuple[JobField, ...] = (
    JobField("input", "raster", "Source raster", "The raster to make finer.", required=True),
    JobField("output", "destination", "Result",
             "GeoTIFF of the last stage; earlier stages go beside it. A folder receives stage1.tif, stage2.tif.",
             required=True),
    JobField("extent", "extent", "Extent",
             "Part of the source in its own coordinates: XMIN YMIN XMAX YMAX. Empty: the whole raster."),
    JobField("stages", "integer", "Stages", "How many times to make pixels four times finer.",
             minimum=1, maximum=6),
    JobField("resolution", "number", "Target resolution (m/px)",
             "Metres per pixel to reach, instead of a number of stages.", minimum=0.001, maximum=100000.0),
    JobField("model", "text", "Model", "Id of an installed model, or the folder of a model bundle.",
             default=DEFAULT_MODEL),
    JobField("bands", "bands", "Bands", "One band, or three for red, green and blue. Empty: as the raster is shown."),
    JobField("stretch", "range", "Stretch",
             "The two source values that become black and white for the network, and back. Empty: 8-bit data as they"
             " are, others from the whole layer's percentiles.", advanced=True),
    JobField("seed", "integer", "Seed", "The same seed gives the same pixels; another seed, another plausible detail.",
             default=0, minimum=0, maximum=MAX_SEED),
    JobField("sampler", "choice", "Sampler", "How noise becomes an image. auto: what the model was tuned for.",
             default="auto", choices=("auto", "dpm-solver++", "ddim"), advanced=True),
    JobField("steps", "integer", "Steps", "Network evaluations a window. Empty: what suits the sampler.",
             minimum=1, maximum=1000, advanced=True),
    JobField("noise", "choice", "Noise",
             "field: a function of place, no seams and no repetition. repeated-block: the paper's one block for all"
             " windows. independent: one draw a window.",
             default="field", choices=("field", "repeated-block", "independent"), advanced=True),
    JobField("overlap", "choice", "Overlap",
             "default: windows share a narrow blended border. paper: windows advance by half, central halves are kept.",
             default="default", choices=("default", "paper"), advanced=True),
    JobField("consistency", "number", "Consistency",
             "0 to 1: how strictly the result, averaged down, must be the source again.",
             default=1.0, minimum=0.0, maximum=1.0, advanced=True),
    JobField("source_resolution", "number", "Source resolution (m/px)",
             "Metres per pixel of the source. Needed only if it has no coordinate reference system.",
             minimum=0.001, maximum=100000.0, advanced=True),
    JobField("device", "choice", "Device", "Where the network runs. auto: the GPU if there is one.",
             default="auto", choices=("auto", "cpu", "cuda"), advanced=True),
    JobField("precision", "choice", "Precision",
             "Number format inside the network. auto: the fastest that suits the device.",
             default="auto", choices=("auto", "float32", "bfloat16"), advanced=True),
    JobField("compile", "choice", "Compile", "Compile the network first (CUDA on Linux only): faster in long jobs.",
             default="off", choices=("off", "on"), advanced=True),
    JobField("samples", "integer", "Samples",
             "How many results to make, with this seed and the next ones; above one, their mean and standard deviation"
             " are written beside the first.", default=1, minimum=1, maximum=64, advanced=True),
    JobField("executor", "text", "Executor",
             "local: this machine. An address (tcp://host:port, tls://host:port) or a scheduler file: that Dask"
             " cluster. auto: DASK_SCHEDULER_ADDRESS if set, else local.", default="auto", advanced=True),
    JobField("job_dir", "folder", "Job folder",
             "Folder for unfinished work, kept when the job is cancelled so that it can be resumed. Empty: beside the"
             " result.", advanced=True),
)

FIELDS: Dict[str, JobField] = {field.name: field for field in JOB_FIELDS}

WORLD_FIELDS: Tuple[JobField, ...] = (
    FIELDS["model"],
    FIELDS["seed"],
    dataclasses.replace(
        FIELDS["stages"], advanced=True,
        help="How many times pixels can become four times finer. Empty: what the model's ground resolution allows."),
    *(FIELDS[name] for name in ("bands", "stretch", "sampler", "steps", "noise", "overlap", "consistency",
                                "source_resolution", "device", "precision")),
    JobField("world", "folder", "World folder",
             "Folder that keeps what is made, for the next look. Empty: one in the account's MetaEarth folder, of this"
             " source, model and seed.", advanced=True),
)
"""What a world is, and where; the source comes first in the fields of each verb."""

CAMERA_FIELDS: Tuple[JobField, ...] = (
    JobField("width", "integer", "Image width", "Pixels across.", default=640, minimum=1, maximum=8192),
    JobField("height", "integer", "Image height", "Pixels down.", default=480, minimum=1, maximum=8192),
    JobField("field_of_view", "number", "Field of view (degrees)", "The camera's angle across the image.",
             default=60.0, minimum=0.01, maximum=179.0),
)


@dataclass(frozen=True)
class Output:
    """One value of a verb's answer; ``kind`` is raster, file, folder, number or text."""

    name: str
    kind: str
    label: str


@dataclass(frozen=True)
class Verb:
    """What the backend does besides jobs: a command, a ``run`` request and a Processing algorithm, of one table.

    ``algorithm``: the id in Processing; ``group``: where the toolbox shows it. ``planned``: whether the request
    ``plan`` tells what it would do and cost.
    """

    name: str
    algorithm: str
    title: str
    group: str
    help: str
    fields: Tuple[JobField, ...]
    outputs: Tuple[Output, ...]
    planned: bool = False


VIEW = Verb(
    "view", "view", "Look down on a raster", "World",
    "What a camera sees that looks straight down from an altitude: only what is in sight is made finer, and kept for"
    " the next look. The detail is synthetic.",
    (
        dataclasses.replace(FIELDS["input"], help="The raster to look at."),
        JobField("output", "destination", "Image", "GeoTIFF of what the camera sees: red, green, blue and alpha.",
                 required=True),
        JobField("altitude", "number", "Altitude (m)",
                 "Metres above the ground. The higher, the more is in sight, and the coarser.",
                 required=True, minimum=0.001, maximum=1e9),
        JobField("centre", "point", "Centre",
                 "What the camera looks at, in the source's coordinates. Empty: the middle of the source."),
        *CAMERA_FIELDS,
        *WORLD_FIELDS,
    ),
    (Output("stage", "number", "Stage that is seen"), Output("world", "folder", "World folder"),
     Output("evaluations", "number", "Network evaluations")),
)

FLYTHROUGH = Verb(
    "flythrough", "flythrough", "Fly over a raster", "World",
    "A flight of a camera that looks straight down, along a path: frames and an animation. Ground that is seen twice"
    " at one resolution has equal pixels. The detail is synthetic.",
    (
        dataclasses.replace(FIELDS["input"], help="The raster to fly over."),
        JobField("output", "file", "Animation",
                 "A name that ends in .gif, or in .mp4 where the program ffmpeg is there.", required=True,
                 suffixes=("gif", "mp4")),
        JobField("path", "points", "Path",
                 'At least two points "X,Y,ALTITUDE; X,Y,ALTITUDE": X and Y in the source\'s coordinates, altitude in'
                 " metres above the ground. A path that ends where it begins makes a loop.", required=True),
        JobField("frames", "integer", "Frames", "How many images.", default=48, minimum=2, maximum=10000),
        JobField("frame_rate", "number", "Frames a second", "How fast the animation runs.",
                 default=12.0, minimum=0.1, maximum=100.0),
        JobField("frames_folder", "folder", "Folder of the frames",
                 "Where frame_0000.png and so on go; frames of an earlier flight are replaced. Empty: beside the"
                 " animation."),
        *CAMERA_FIELDS,
        *WORLD_FIELDS,
    ),
    (Output("frames_folder", "folder", "Folder of the frames"), Output("frames", "number", "Frames"),
     Output("world", "folder", "World folder"), Output("evaluations", "number", "Network evaluations")),
)

PLACE = Verb(
    "place", "placepicture", "Make a map of a picture", "World",
    "Gives a painting or any other picture a place on the ground, so that it can be made finer and flown over like"
    " any raster: a parallel world.",
    (
        JobField("input", "raster", "Picture", "PNG, JPEG or TIFF with 8 bits a channel.", required=True),
        JobField("output", "destination", "Map", "GeoTIFF of the picture: red, green, blue and, if it has one, alpha.",
                 required=True),
        JobField("metres_per_pixel", "number", "Metres per pixel", "How much ground a pixel of the picture is.",
                 required=True, minimum=0.001, maximum=100000.0),
        JobField("crs", "crs", "Coordinate reference system", "Where the map is to lie, such as EPSG:32633.",
                 default="EPSG:3857"),
        JobField("centre", "point", "Centre",
                 "Where the picture's middle is to lie, in that system's coordinates. Empty: 0, 0."),
    ),
    (),
)

PREPARE = Verb(
    "prepare", "preparetrainingdata", "Prepare training data", "Train",
    "Cuts imagery of any sensor into chips to train a model on, split by place into training, validation and test."
    " Chips with holes, clouds or nothing to see are dropped. A set begun in the folder is finished.",
    (
        JobField("sources", "rasters", "Imagery", "Rasters, VRTs, or folders of them.", required=True),
        JobField("output", "new_folder", "Training set", "Folder for the set.", required=True, named=True),
        JobField("gsd", "numbers", "Metres per pixel of the chips",
                 "Such as 64 16 4. Empty: each raster's own, and its halvings.", minimum=0.001, maximum=100000.0),
        JobField("halvings", "integer", "Halvings", "How often each raster's detail is halved.",
                 default=2, minimum=0, maximum=8),
        JobField("licence", "text", "Licence", "Licence of the imagery, written into every chip.", default=""),
        JobField("chip", "integer", "Pixels along a chip's side", "256 suits all embedded models.",
                 default=256, minimum=16, maximum=4096, advanced=True),
        JobField("max_cloud", "number", "Largest share of cloud",
                 "Of bright grey pixels in a chip: clouds, but snow and salt too. 1 keeps all chips.",
                 default=0.5, minimum=0.0, maximum=1.0, advanced=True),
        JobField("cell_km", "number", "Cells of the split (km)",
                 "Side of the cells that places are split by. 0: eight of the coarsest chips.",
                 default=0.0, minimum=0.0, maximum=20000.0, advanced=True),
        FIELDS["source_resolution"],
        JobField("collection", "text", "Collection file",
                 "TOML file that fixes splits, resolutions and licences of the files by hand, as"
                 " backend/training/split.toml.", default="", advanced=True),
        JobField("workers", "integer", "Processes", "How many processes cut.", default=2, minimum=1, maximum=256,
                 advanced=True),
    ),
    (Output("train", "number", "Chips for training"), Output("validation", "number", "Chips for validation"),
     Output("test", "number", "Chips for tests")),
)

TRAIN = Verb(
    "train", "trainmodel", "Train a model", "Train",
    "Trains a model, or goes on training one on your own imagery, on a set made by Prepare training data. The result"
    " is a model that Generate higher resolution takes. A run begun in the folder goes on.",
    (
        JobField("config", "text", "Model", "Id or folder of the model whose network is trained.",
                 default=DEFAULT_MODEL),
        JobField("data", "folder", "Training set", "A set made by Prepare training data, or a folder of imagery laid"
                 " out as backend/training/split.toml says."),
        JobField("output", "new_folder", "Trained model", "Folder for the model, checkpoint and log.", named=True),
        JobField("start", "text", "Begin with",
                 "auto: the model's own weights, if it has any. none: random ones. Else id or folder of a model.",
                 default="auto"),
        JobField("steps", "integer", "Steps", "Optimiser steps of the whole run. Empty: as the model says.",
                 minimum=1, maximum=100000000),
        JobField("learning_rate", "number", "Learning rate", "Empty: as the model says.", minimum=0.0, maximum=1.0),
        JobField("set", "words", "Other settings",
                 "NAME=VALUE, separated by spaces, such as: batch=8 degradation=high-order network.context=8.",
                 advanced=True),
        FIELDS["device"],
        JobField("workers", "integer", "Processes for examples", "Empty: half of the cores, at most 8.",
                 minimum=0, maximum=256, advanced=True),
        JobField("smoke", "flag", "Only try", "Only tell whether it trains here, and how long a step takes.",
                 default=False, advanced=True),
    ),
    (Output("step", "number", "Steps done"),),
)

AUGMENT = Verb(
    "augment", "augmentdataset", "Augment a dataset", "Train",
    "Makes generated variants of labelled chips, as training data for classifiers: each chip is averaged down and"
    " generated again with several seeds. Folders and georeferences stay. What is there already is not made again.",
    (
        JobField("data", "folder", "Labelled chips", "Folder with one subfolder of chips (GeoTIFF, PNG, JPEG) a class.",
                 required=True),
        JobField("output", "new_folder", "Variants", "Folder for the variants and manifest.csv.", required=True),
        FIELDS["model"],
        JobField("variants", "integer", "Variants", "Generated files a chip.", default=5, minimum=1, maximum=1000),
        JobField("stages", "integer", "Stages", "How often chips are averaged down and generated.", default=1,
                 minimum=1, maximum=2),
        JobField("through", "text", "Through another modality",
                 "Instead of being averaged down, RGB chips are translated into this modality (nir, pan, ...) and back;"
                 " the model is then metaearth-mm-lite, or another of its kind. Empty: they are averaged down.",
                 default="", advanced=True),
        FIELDS["seed"], FIELDS["source_resolution"], FIELDS["consistency"], FIELDS["device"], FIELDS["precision"],
    ),
    (Output("manifest", "file", "Manifest: source, seed and hash of every variant"),
     Output("count", "number", "Variants")),
)

PROTOCOLS = ("spectrum", "fid", "seams", "data-engine", "ablations", "diversity", "probe", "modalities",
             "train-features", "lite", "gallery")

EVALUATE = Verb(
    "evaluate", "evaluate", "Evaluate a model", "Train",
    "Measures a model on imagery that it was not trained on, by one of the paper's protocols or ours. Ends in a table"
    " with intervals, as Markdown and JSON, and pictures.",
    (
        JobField("protocol", "choice", "Protocol", "spectrum: strength of the detail by octave. fid: distance to real"
                 " imagery. seams: whether windows show. data-engine: whether classifiers gain. ablations: cascade"
                 " against one shot, degradations. diversity: over seeds. modalities: MetaEarth-MM's translations."
                 " probe: whether its features tell classes apart. train-features: the network for distances. lite:"
                 " whether the model is good enough. gallery: pictures of held-out places.",
                 default="spectrum", choices=PROTOCOLS, required=True),
        JobField("data", "folder", "Imagery", "Folder of imagery, laid out as backend/training/split.toml says; of"
                 " classes for data-engine and probe; a prepared set for modalities.", required=True),
        JobField("output", "new_folder", "Tables and pictures", "Folder for table.md, table.json and pictures.",
                 required=True),
        FIELDS["model"],
        JobField("set", "words", "Other settings", "NAME=VALUE, separated by spaces: the options of the command"
                 " `evaluate PROTOCOL`, such as: limit=24 split=test without=FOLDER.", advanced=True),
    ),
    (Output("table", "file", "The table"),),
)

MODALITY_TITLES = {"rgb": "RGB", "nir": "Near infrared", "sar": "SAR (VV)", "pan": "Panchromatic", "osm": "Map"}

SCENE_FIELDS: Tuple[JobField, ...] = (
    FIELDS["seed"],
    dataclasses.replace(FIELDS["model"], default=DEFAULT_SCENE_MODEL,
                        help="Id of an installed MetaEarth-MM model, or the folder of its bundle."),
    JobField("other_targets", "words", "Other modalities to make",
             "Modalities of your own, separated by spaces; see docs/modalities.md.", advanced=True),
    dataclasses.replace(FIELDS["steps"], help="Network evaluations a window. Empty: what suits the model."),
    FIELDS["device"], FIELDS["precision"],
    dataclasses.replace(FIELDS["executor"]),
    FIELDS["job_dir"],
)
"""How scenes are made, whether or not something of them is known."""

TARGETS = JobField("targets", "choices", "Modalities to make", "What is made of the scene.", choices=MODALITIES,
                   default=["nir"])

EXTENT_OF_SCENE = dataclasses.replace(
    FIELDS["extent"], help="Part of the first raster in its coordinates: XMIN YMIN XMAX YMAX. Empty: all of it.")
RESOLUTION_OF_SCENE = dataclasses.replace(
    FIELDS["resolution"], label="Resolution (m/px)", advanced=True,
    help="Metres per pixel of the results. Empty: those of the first raster.")

READING_FIELDS: Tuple[JobField, ...] = (
    JobField("other_inputs", "words", "Other rasters", "Modalities of your own, as NAME=PATH, separated by spaces.",
             advanced=True),
    JobField("band_choice", "words", "Bands",
             "Which bands show a modality, where the raster has others: NAME=BAND or NAME=BAND,BAND,BAND, such as:"
             " rgb=3,2,1 nir=4. Empty: as the raster is shown.", advanced=True),
    FIELDS["source_resolution"],
)
"""How the rasters of a scene are read."""

TRANSLATE = Verb(
    "translate", "translatemodality", "Translate between modalities", "Modalities",
    "Makes imagery of some modalities from that of others: near infrared from RGB, a map from a photograph, RGB from"
    " radar. All results lie on the grid of the first raster given. A modality that is given and also wanted is"
    " completed: where it is known it stays. The result is synthetic.",
    (
        *(JobField(name, "raster", f"{MODALITY_TITLES[name]} raster", f"What is known of the scene in {title}.")
          for name, title in MODALITY_TITLES.items()),
        TARGETS,
        JobField("output", "new_folder", "Results", "Folder for one GeoTIFF a modality: nir.tif and so on.",
                 required=True, named=True),
        EXTENT_OF_SCENE,
        RESOLUTION_OF_SCENE,
        *READING_FIELDS,
        *SCENE_FIELDS,
    ),
    (Output("results", "text", "Paths of the results"), Output("evaluations", "number", "Network evaluations")),
    planned=True,
)

GENERATE_PAIR = Verb(
    "generate-pair", "generatepaired", "Generate a scene in several modalities", "Modalities",
    "Makes a scene from nothing but a seed, aligned in all modalities that are chosen. What is larger than one window"
    " is made coarse first, and then finer. The result is synthetic: no such place exists.",
    (
        dataclasses.replace(TARGETS, default=["rgb", "nir"]),
        JobField("output", "new_folder", "Results", "Folder for one GeoTIFF a modality: rgb.tif and so on.",
                 required=True, named=True),
        JobField("metres_per_pixel", "number", "Metres per pixel", "How much ground a pixel of the result is.",
                 required=True, named=True, minimum=0.001, maximum=100000.0),
        JobField("width", "integer", "Width (px)", "Pixels across.", default=256, minimum=16, maximum=65536),
        JobField("height", "integer", "Height (px)", "Pixels down.", default=256, minimum=16, maximum=65536),
        JobField("crs", "crs", "Coordinate reference system", "Where the scene is to lie, such as EPSG:32633.",
                 default="EPSG:3857"),
        JobField("centre", "point", "Centre",
                 "Where the scene's middle is to lie, in that system's coordinates. Empty: 0, 0."),
        dataclasses.replace(FIELDS["model"], name="cascade", label="Model that makes finer", advanced=True,
                            help="Used for scenes larger than one window: id or folder of a cascade's bundle."),
        *SCENE_FIELDS,
    ),
    (Output("results", "text", "Paths of the results"), Output("evaluations", "number", "Network evaluations")),
    planned=True,
)

EMBED = Verb(
    "embed", "embedscene", "Embed a scene", "Modalities",
    "Describes a scene by the tokens that MetaEarth-MM infers of it: a raster of features, or one vector a chip of a"
    " labelled folder, to train other models on.",
    (
        *(JobField(name, "raster", f"{MODALITY_TITLES[name]} raster", f"What is known of the scene in {title}.")
          for name, title in MODALITY_TITLES.items()),
        JobField("chips", "folder", "Labelled chips", "Instead of rasters: a folder with one subfolder of chips a"
                 " class."),
        JobField("output", "file", "Features", "A name that ends in .tif (of rasters: one pixel a token, one band a"
                 " feature) or in .npz.", required=True, named=True, suffixes=("tif", "npz")),
        EXTENT_OF_SCENE,
        dataclasses.replace(RESOLUTION_OF_SCENE, help="Metres per pixel at which the scene is looked at. Empty: those"
                            " of the first raster."),
        *READING_FIELDS,
        JobField("modality", "choice", "Modality of the chips", "What labelled chips show.", default="rgb",
                 choices=MODALITIES, advanced=True),
        JobField("block", "integer", "Block", "After how many blocks of the inference module tokens are taken. Empty:"
                 " all.", minimum=1, maximum=1000, advanced=True),
        dataclasses.replace(FIELDS["model"], default=DEFAULT_SCENE_MODEL,
                            help="Id of an installed MetaEarth-MM model, or the folder of its bundle."),
        FIELDS["device"], FIELDS["precision"],
    ),
    (Output("features", "number", "Features a place"), Output("places", "number", "Tokens, or chips")),
)

VERBS: Dict[str, Verb] = {verb.name: verb for verb in (
    VIEW, FLYTHROUGH, PLACE, PREPARE, TRAIN, AUGMENT, EVALUATE, TRANSLATE, GENERATE_PAIR, EMBED)}


def check_fields(fields: Tuple[JobField, ...], values: Dict[str, Any]) -> Dict[str, Any]:
    """A value of its proper type for each field; `FieldError` says what is wrong."""
    unknown = sorted(set(values) - {field.name for field in fields})
    if unknown:
        raise FieldError(f"There is no field named {', '.join(unknown)}.")
    return {field.name: field.check(values.get(field.name)) for field in fields}


@dataclass(frozen=True)
class Job:
    """What a user asks for; one attribute a `JobField`. Extents are xmin, ymin, xmax, ymax in the source's CRS."""

    input: str
    output: str
    extent: Optional[List[float]] = None
    stages: Optional[int] = None
    resolution: Optional[float] = None
    model: str = DEFAULT_MODEL
    bands: Optional[List[int]] = None
    stretch: Optional[List[float]] = None
    seed: int = 0
    sampler: str = "auto"
    steps: Optional[int] = None
    noise: str = "field"
    overlap: str = "default"
    consistency: float = 1.0
    source_resolution: Optional[float] = None
    device: str = "auto"
    precision: str = "auto"
    compile: str = "off"
    samples: int = 1
    executor: str = "auto"
    job_dir: Optional[str] = None

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> Job:
        """The job in ``values``, every field checked; `FieldError` says what is wrong."""
        checked = check_fields(JOB_FIELDS, values)
        if checked["stages"] is not None and checked["resolution"] is not None:
            raise FieldError("Give either a number of stages or a target resolution, not both.")
        return cls(**checked)

    def to_dict(self) -> Dict[str, Any]:
        """Plain JSON values."""
        return dataclasses.asdict(self)


@dataclass(frozen=True)
class ModelInfo:
    """What a client shows of a model bundle.

    ``kind`` is `CASCADE` or `SCENE`; ``modalities``: what a scene model was trained on. Old messages have neither.
    """

    id: str
    title: str
    folder: str
    has_weights: bool
    ground_resolution_m: List[float]
    licence: str
    kind: str = CASCADE
    modalities: List[str] = dataclasses.field(default_factory=list)


@dataclass(frozen=True)
class Models:
    """The models that there are."""

    models: List[ModelInfo]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> Models:
        """The models in a message."""
        return cls([ModelInfo(**m) for m in values["models"]])


@dataclass(frozen=True)
class ClusterInfo:
    """What answers at an executor's address."""

    address: str
    workers: int
    threads: int


@dataclass(frozen=True)
class Diagnosis:
    """Names and lines for a report to those who are asked for help."""

    facts: Dict[str, str]


@dataclass(frozen=True)
class Handshake:
    """Answer to ``initialize``."""

    protocol: int
    engine: str
    pid: int
    device: str
    device_name: str
    memory_bytes: int
    models: List[ModelInfo]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> Handshake:
        """The handshake in a message."""
        return cls(**{**values, "models": [ModelInfo(**m) for m in values["models"]]})


@dataclass(frozen=True)
class GridInfo:
    """Where a raster lies: ``transform`` is a, b, c, d, e, f of x = a col + b row + c, y = d col + e row + f."""

    crs: str
    transform: List[float]
    width: int
    height: int
    pixel_size_m: float


@dataclass(frozen=True)
class RasterInfo:
    """What the backend sees in a raster: its grid, its bands, and how the network will see their values.

    ``shown_bands`` is what a job takes by default; ``stretch_low`` and ``stretch_high`` become black and white.
    ``models`` names those whose ground resolution range the first stage's result falls into.
    """

    path: str
    driver: str
    grid: GridInfo
    pixel_width_m: float
    pixel_height_m: float
    dtype: str
    bands: int
    shown_bands: List[int]
    nodata: Optional[str]
    mask: str
    stretch_low: List[float]
    stretch_high: List[float]
    models: List[str]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> RasterInfo:
        """The description in a message."""
        return cls(**{**values, "grid": GridInfo(**values["grid"])})


@dataclass(frozen=True)
class JobSummary:
    """What a job would do: one `GridInfo` a stage, what it costs, and what the user should know first.

    ``output_bytes`` without compression, ``disk_bytes`` to have free, ``seconds`` on ``device_name`` as measured there.
    ``preview_extent``, in the source's CRS: what one window makes of the last stage, at the middle of the job's extent.
    """

    stages: List[GridInfo]
    windows: int
    evaluations: int
    evaluations_per_pixel: float
    output_bytes: int
    disk_bytes: int
    free_bytes: int
    seconds: float
    device_name: str
    preview_extent: List[float]
    warnings: List[str]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> JobSummary:
        """The summary in a message."""
        return cls(**{**values, "stages": [GridInfo(**g) for g in values["stages"]]})


@dataclass(frozen=True)
class UnfinishedJob:
    """A job that was interrupted: its folder, its source and result, and when it was last begun (local time)."""

    folder: str
    input: str
    output: str
    since: str


@dataclass(frozen=True)
class UnfinishedJobs:
    """Answer to ``unfinished``."""

    jobs: List[UnfinishedJob]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> UnfinishedJobs:
        """The jobs in a message."""
        return cls([UnfinishedJob(**job) for job in values["jobs"]])


@dataclass(frozen=True)
class Progress:
    """Parameters of a ``progress`` notification. Stages count from 1; ``fraction`` is of the whole job.

    ``mosaic`` is a VRT of what is finished of the stage; each is a new file, the one before the last is deleted.
    """

    id: Union[int, str, None]
    stage: int
    stages: int
    windows_done: int
    windows: int
    fraction: float
    eta_seconds: Optional[float]
    message: str
    mosaic: Optional[str] = None


@dataclass(frozen=True)
class JobResult:
    """What a finished job says of itself; ``grid`` and ``consistency_psnr`` (dB) are of the last stage.

    ``statistics``: rasters of mean and standard deviation, where several samples were made. ``evaluations`` counts
    network evaluations of this run in all stages; ``evaluations_per_pixel`` those of the last stage, in earlier runs of
    the job too, times a window's pixels over its valid output pixels. ``blocks_resumed`` were finished by earlier runs.
    ``consistency_psnr`` is None where it is infinite.
    """

    outputs: List[str]
    statistics: List[str]
    grid: GridInfo
    seed: int
    model: str
    model_sha256: str
    sampler: str
    steps: int
    device: str
    precision: str
    evaluations: int
    evaluations_per_pixel: float
    blocks_resumed: int
    seconds_network: float
    seconds_total: float
    peak_memory_bytes: int
    consistency_psnr: Optional[float]
    warnings: List[str]

    @classmethod
    def from_dict(cls, values: Dict[str, Any]) -> JobResult:
        """The result in a message."""
        return cls(**{**values, "grid": GridInfo(**values["grid"])})


def encode(message: Dict[str, Any]) -> bytes:
    """One message as one line."""
    return json.dumps(message, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode("utf-8") + b"\n"


def decode(line: bytes) -> Dict[str, Any]:
    """The message of one line; ValueError if it is not a JSON-RPC 2.0 object."""
    message = json.loads(line.decode("utf-8"))
    if not isinstance(message, dict) or message.get("jsonrpc") != "2.0":
        raise ValueError("This is not a JSON-RPC 2.0 message.")
    return message


def request(id_: int, method: str, params: Dict[str, Any]) -> Dict[str, Any]:
    """A request that wants an answer."""
    return {"jsonrpc": "2.0", "id": id_, "method": method, "params": params}


def notification(method: str, params: Dict[str, Any]) -> Dict[str, Any]:
    """A message that wants none."""
    return {"jsonrpc": "2.0", "method": method, "params": params}


def response(id_: Any, result: Any) -> Dict[str, Any]:
    """The answer to a request."""
    return {"jsonrpc": "2.0", "id": id_, "result": result}


def error_response(id_: Any, code: int, sentence: str, condition: str = "error") -> Dict[str, Any]:
    """The failure of a request; ``condition`` names it to programs, ``sentence`` to people."""
    return {"jsonrpc": "2.0", "id": id_,
            "error": {"code": code, "message": sentence, "data": {"condition": condition}}}


def data_home() -> Path:
    """Root of environment, models, jobs and caches; METAEARTH_HOME overrides the system's usual place."""
    override = os.environ.get("METAEARTH_HOME")
    if override:
        return Path(override)
    if sys.platform == "win32":
        return Path(os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local") / "MetaEarth"
    if sys.platform == "darwin":
        return Path.home() / "Library" / "Application Support" / "MetaEarth"
    return Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share") / "metaearth"


def stage_paths(output: str, stages: int) -> List[str]:
    """Where the stages' rasters go, first stage first.

    ``out.tif`` with two stages: ``out_stage1.tif`` and ``out.tif``; ``stage2.tif``: ``stage1.tif`` and
    ``stage2.tif``; a folder (no .tif or .tiff at the end): ``stage1.tif`` and ``stage2.tif`` in it.
    """
    path = Path(output)
    if path.suffix.lower() not in (".tif", ".tiff"):
        return [str(path / f"stage{k}.tif") for k in range(1, stages + 1)]
    own = f"stage{stages}"
    base = path.stem[: -len(own)] if path.stem.endswith(own) else path.stem + "_"
    earlier = [str(path.with_name(f"{base}stage{k}{path.suffix}")) for k in range(1, stages)]
    return [*earlier, str(path)]


def statistics_paths(output: str) -> List[str]:
    """Where mean and standard deviation over several samples go: ``out_mean.tif`` and ``out_std.tif``."""
    path = Path(output)
    return [str(path.with_name(f"{path.stem}_{name}{path.suffix}")) for name in ("mean", "std")]


PLAN_FILE = "plan.json"
"""In a job's folder: the plan, as long as the job is not finished."""
OWNER_FILE = "owner.json"
"""In a job's folder: host and pid of the process that works on it, or did last."""


JOB_FOLDER = ".metaearth-job"
"""How the name of a job's folder ends, unless the user has named it."""


def unfinished_folder() -> Path:
    """Where the backend notes which jobs it works on: one small file a job, gone when the job is."""
    return data_home() / "unfinished"


def default_job_folder(output: str) -> str:
    """Where a job's unfinished work lies unless the user names a place: beside its last result."""
    return output + JOB_FOLDER
