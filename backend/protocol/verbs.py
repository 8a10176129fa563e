"""What the backend does besides jobs, each a table of fields and outputs."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from typing import Dict, Tuple

from .fields import JobField
from .jobs import DEFAULT_MODEL, FIELDS

DEFAULT_SCENE_MODEL = "metaearth-mm-lite"
MODALITY_TITLES = {"rgb": "RGB", "nir": "Near infrared", "sar": "SAR (VV)", "pan": "Panchromatic", "osm": "Map"}
"""MetaEarth-MM's modalities; more can be described in a file."""
MODALITIES = tuple(MODALITY_TITLES)
MODALITY_BANDS = {"rgb": 3, "nir": 1, "sar": 1, "pan": 1}
"""Bands of those that are images."""

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
    """One value of a verb's answer; ``kind`` is raster, rasters (their paths), file, folder, number or text."""

    name: str
    kind: str
    label: str


@dataclass(frozen=True)
class Verb:
    """What the backend does besides jobs: a command, a ``run`` request and a Processing algorithm, of one table.

    ``algorithm``: the id in Processing; ``group``: where the toolbox shows it. ``planned``: whether the request
    ``plan`` tells what it would do and cost. ``saves``: whether it saves before it stops, which may take a while.
    """

    name: str
    algorithm: str
    title: str
    group: str
    help: str
    fields: Tuple[JobField, ...]
    outputs: Tuple[Output, ...]
    planned: bool = False
    saves: bool = False


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
        JobField("chip", "integer", "Pixels along a chip's side", "256 suits the models that make rasters finer.",
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
    saves=True,
)

AUGMENT = Verb(
    "augment", "augmentdataset", "Augment a dataset", "Train",
    "Makes generated variants of labelled chips, as training data for classifiers: each chip is averaged down and"
    " generated again with several seeds. Folders stay, and the georeferences of GeoTIFF; of more than three"
    " bands the three that are shown are made. What is there already is not made again.",
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
        JobField("data", "folder", "Imagery", "A prepared set, or a folder of imagery that is laid out as"
                 " backend/training/split.toml says (lite, gallery: the latter; modalities: the former); of classes for"
                 " data-engine and probe.", required=True),
        JobField("output", "new_folder", "Tables and pictures", "Folder for table.md, table.json and pictures.",
                 required=True),
        FIELDS["model"],
        JobField("set", "words", "Other settings", "NAME=VALUE, separated by spaces: the options of the command"
                 " `evaluate PROTOCOL`, such as: limit=24 split=test without=FOLDER.", advanced=True),
    ),
    (Output("table", "file", "The table"),),
)

KNOWN_FIELDS: Tuple[JobField, ...] = tuple(
    JobField(name, "raster", f"{title} raster", f"What is known of the scene: {title}.")
    for name, title in MODALITY_TITLES.items())
"""What is known of a scene: a raster a modality."""

SCENE_MODEL = dataclasses.replace(
    FIELDS["model"], default=DEFAULT_SCENE_MODEL,
    help="Id of an installed MetaEarth-MM model, or the folder of its bundle.")

SCENE_FIELDS: Tuple[JobField, ...] = (
    FIELDS["seed"],
    SCENE_MODEL,
    JobField("other_targets", "words", "Other modalities to make",
             "Modalities of your own that the model was trained with: their ids, separated by spaces.", advanced=True),
    dataclasses.replace(FIELDS["steps"], help="Network evaluations a window. Empty: what suits the model."),
    FIELDS["device"], FIELDS["precision"],
    FIELDS["executor"],
    FIELDS["job_dir"],
)
"""How scenes are made, whether or not something of them is known."""

TARGETS = JobField("targets", "choices", "Modalities to make",
                   "What is made of the scene. Empty, and no others named: near infrared.", choices=MODALITIES)

EXTENT_OF_SCENE = dataclasses.replace(
    FIELDS["extent"], help="Part of the first raster in its coordinates: XMIN YMIN XMAX YMAX. Empty: all of it.")
RESOLUTION_OF_SCENE = dataclasses.replace(
    FIELDS["resolution"], label="Resolution (m/px)", advanced=True,
    help="Metres per pixel of the results. Empty: those of the first raster.")

READING_FIELDS: Tuple[JobField, ...] = (
    JobField("other_inputs", "words", "Other rasters",
             "Modalities of your own, as NAME=PATH, separated by spaces; a path with spaces in double quotes.",
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
        *KNOWN_FIELDS,
        TARGETS,
        JobField("output", "new_folder", "Results", "Folder for one GeoTIFF a modality: nir.tif and so on.",
                 required=True, named=True),
        EXTENT_OF_SCENE,
        RESOLUTION_OF_SCENE,
        *READING_FIELDS,
        dataclasses.replace(
            FIELDS["samples"],
            help="How many times everything is made, with this seed and the next ones; above one, each result has its"
                 " mean (of maps the most frequent class) and standard deviation (the share of samples with another"
                 " class) beside it. A mean is nearer to the truth than one sample, and smoother."),
        *SCENE_FIELDS,
    ),
    (Output("results", "rasters", "Results"),
     Output("statistics", "rasters", "Mean and deviation of each"),
     Output("evaluations", "number", "Network evaluations")),
    planned=True,
)

GENERATE_PAIR = Verb(
    "generate-pair", "generatepaired", "Generate a scene in several modalities", "Modalities",
    "Makes a scene from nothing but a seed, aligned in all modalities that are chosen. What is larger than one window"
    " is made coarse first, and then finer. The result is synthetic: no such place exists.",
    (
        dataclasses.replace(
            TARGETS, help="What the scene is made in. Empty, and no others named: RGB and near infrared."),
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
    (Output("results", "rasters", "Results"), Output("evaluations", "number", "Network evaluations")),
    planned=True,
)

EMBED = Verb(
    "embed", "embedscene", "Embed a scene", "Modalities",
    "Describes a scene by the tokens that MetaEarth-MM infers of it: a raster of features, or one vector a chip of a"
    " labelled folder, to train other models on.",
    (
        *KNOWN_FIELDS,
        JobField("chips", "folder", "Labelled chips", "Instead of rasters: a folder with one subfolder of chips a"
                 " class."),
        JobField("output", "file", "Features", "A name that ends in .tif (of rasters: one pixel a token, one band a"
                 " feature) or in .npz.", required=True, named=True, suffixes=("tif", "npz")),
        EXTENT_OF_SCENE,
        dataclasses.replace(RESOLUTION_OF_SCENE, help="Metres per pixel at which the scene is looked at. Empty: those"
                            " of the first raster."),
        *READING_FIELDS,
        JobField("modality", "text", "Modality of the chips", "What labelled chips show: rgb, nir, sar, pan, osm or a"
                 " modality of your own.", default="rgb", advanced=True),
        JobField("block", "integer", "Block", "After how many blocks of the inference module tokens are taken. Empty:"
                 " all.", minimum=1, maximum=1000, advanced=True),
        SCENE_MODEL, FIELDS["device"], FIELDS["precision"],
    ),
    (Output("features", "number", "Features a place"), Output("places", "number", "Tokens, or chips")),
)

VERBS: Dict[str, Verb] = {verb.name: verb for verb in (
    VIEW, FLYTHROUGH, PLACE, PREPARE, TRAIN, AUGMENT, EVALUATE, TRANSLATE, GENERATE_PAIR, EMBED)}
