"""The model bundles' cards."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Optional

from ...backend.protocol import Handshake
from .translate import tr

CARD = "README.md"
LINK_INTO_CHECKOUT = re.compile(r"\[([^\]]+)\]\((?!https?:)[^)]+\)")


def card_of(model: str, handshake: Optional[Handshake]) -> str:
    """A model's card in Markdown, or a sentence."""
    found = [known for known in handshake.models if known.id == model] if handshake else []
    if not found:
        return tr("The backend has not told its models yet; try again in a moment.")
    card = Path(found[0].folder) / CARD
    if not card.is_file():
        return tr("The model {} has no card.").format(model)
    text = LINK_INTO_CHECKOUT.sub(r"\1", card.read_text(encoding="utf-8"))  # a plugin's zip has no such files
    header, end, rest = text.partition("\n---\n")
    return rest.lstrip("\n") if header.startswith("---") and end else text  # the Hugging Face header
