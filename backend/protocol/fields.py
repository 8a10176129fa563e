"""Fields: values that have a type, a range and a default, and make options, parameters and JSON keys."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple


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
            return self._in_range(_whole(value))
        if self.kind == "number":
            return self._in_range(float(value))
        if self.kind == "flag":
            return value if isinstance(value, bool) else str(value).lower() in ("true", "1", "yes")
        if self.kind == "numbers":
            return [self._in_range(float(v)) for v in (value.split() if isinstance(value, str) else value)]
        if self.kind == "words":
            return words_of(value) if isinstance(value, str) else [str(v) for v in value]
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


def _whole(value: Any) -> int:
    """A whole number, be it told as one or as 1e6, as QGIS writes 1000000.0; `ValueError` if it is none."""
    try:
        return int(str(value))
    except ValueError:
        number = float(str(value))
        if not number.is_integer():
            raise
        return int(number)


def words_of(text: str) -> List[str]:
    """Words between spaces; what is in double quotes has spaces of its own. A backslash means nothing."""
    words = shlex.shlex(text, posix=True)
    words.whitespace_split, words.quotes, words.escape, words.commenters = True, '"', "", ""
    return list(words)


def check_fields(fields: Tuple[JobField, ...], values: Dict[str, Any]) -> Dict[str, Any]:
    """A value of its proper type for each field; `FieldError` says what is wrong."""
    unknown = sorted(set(values) - {field.name for field in fields})
    if unknown:
        raise FieldError(f"There is no field named {', '.join(unknown)}.")
    return {field.name: field.check(values.get(field.name)) for field in fields}
