"""Captions from anywhere: cleaned of what cannot be seen, refused where they are no caption.

Any script is a caption: right-to-left text, accents and emoji stay as they are.
"""

from __future__ import annotations

import re
import unicodedata

from evenhand.hygiene.images import Refused

MARKUP = re.compile(r"</?[a-z!][^<>]*>|&(?:[a-z]{2,8}|#\d{1,7}|#x[0-9a-f]{1,6});", re.IGNORECASE)
# Embeddings, overrides and isolates: they make a text look otherwise than it is. The plain marks (U+200E, U+200F) and
# joiners (U+200C, U+200D) are part of how Arabic, Hebrew, Persian and emoji are written.
TURNING = re.compile("[\u202a-\u202e\u2066-\u2069]")
LOST = "\ufffd"  # what a decoder puts where it could not read
SPACES = "\t\n\r\v\f"
BYTE_ORDER_MARK = "\ufeff"


def check_caption(text: object, *, max_characters: int) -> str:
    """The caption in Unicode NFC, with single spaces and none around it; Refused when it cannot be used."""
    if text is None:
        raise Refused("no caption")
    if not isinstance(text, str):
        raise Refused(f"caption is no text ({type(text).__name__})")
    if len(text) > max_characters:
        raise Refused(f"caption too long ({len(text)} characters, more than {max_characters})")
    for character in text:
        if unicodedata.category(character) in ("Cc", "Cs") and character not in SPACES:
            kind = "control character" if unicodedata.category(character) == "Cc" else "half a character"
            raise Refused(f"{kind} in the caption (U+{ord(character):04X})")
    turning = TURNING.search(text)
    if turning is not None:
        raise Refused(f"hidden change of direction in the caption (U+{ord(turning.group()):04X})")
    if LOST in text:
        raise Refused("caption was decoded wrongly (U+FFFD)")
    markup = MARKUP.search(text)
    if markup is not None:
        raise Refused(f"markup in the caption ({markup.group()[:40]})")
    cleaned = " ".join(unicodedata.normalize("NFC", text.replace(BYTE_ORDER_MARK, "")).split())
    if not cleaned:
        raise Refused("empty caption")
    return cleaned
