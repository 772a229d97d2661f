"""What may be done with pictures of real people, in one place.

A source declares what it ``depicts``. Where that is ``people``, it says by what ``consent`` they are used, and a reader
may read them for one purpose: to measure how the whole set is distributed. Nothing that a reader says of one person is
written beside that person's picture, chosen by, or put into a caption, and no column may name anybody.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterable, Mapping
from typing import Literal, get_args

Depicts = Literal["synthetic", "people", "other"]
Purpose = Literal["measure", "label", "choose"]

# Names of columns that say who somebody is, without regard to case, spaces and underscores.
IDENTITY_COLUMN = re.compile(
    "(first|last|full|person|user|nick)?name|surname|celebrity|identity|(person|subject|face|individual)id|email|phone"
    "|address|birthdate|dateofbirth|ssn|passport"
)

READERS_LIMITS = (
    "A reading says what a picture looks like to one classifier. It does not say who anybody is, nor how anybody "
    "identifies. Readers err, and not equally often for every group of people: where a reader was not validated on "
    "pictures like these, its shares are that reader's view."
)
PEOPLE_NOTE = (
    "These are pictures of real people. They were read to measure how the set is distributed, and for nothing else: no "
    "reading of a single person is kept, used to choose pictures, or written into a caption, and no column names "
    "anybody."
)
SYNTHETIC_NOTE = "No picture shows a real person: all were generated or drawn."
OTHER_NOTE = "The pictures are not meant to show people; whoever can be made out in them was not asked."
WHAT_CAN_BE_DONE = (
    "take the labels from columns that the people in the pictures, or annotators with their consent, filled in "
    "(source.columns.labels), or measure the set with data_recipes/audit.py"
)


def check_consent(depicts: str, consent: str | None, *, source: str) -> None:
    """Raise ValueError where a source does not say what it depicts, or of people, by what consent they are used."""
    if depicts not in get_args(Depicts):
        raise ValueError(
            f"source {source}: depicts must be one of {', '.join(get_args(Depicts))}, got {depicts!r} (source.depicts)"
        )
    if depicts == "people" and not (consent or "").strip():
        raise ValueError(
            f"source {source} depicts people but names no consent: say in source.consent by what consent, licence or "
            "law their pictures may be used for this, and where that can be read"
        )


def check_reading(depicts: Depicts, purpose: Purpose, *, source: str) -> None:
    """Raise ValueError where a reader would be used on pictures of real people for more than to measure a set."""
    if depicts == "people" and purpose != "measure":
        doing = {
            "label": "write a reader's labels of each person beside the picture",
            "choose": "choose pictures by what a reader says of the person in them",
        }[purpose]
        raise ValueError(
            f"source {source} depicts people, and this would {doing}; readers may only measure how such a set is "
            f"distributed: {WHAT_CAN_BE_DONE}"
        )


def check_columns(depicts: Depicts, columns: Iterable[str], *, source: str) -> None:
    """Raise ValueError where a column that would be used or copied says who the people in the pictures are."""
    named = [column for column in columns if IDENTITY_COLUMN.fullmatch(re.sub(r"[\W_]", "", column).lower())]
    if depicts == "people" and named:
        raise ValueError(
            f"source {source} depicts people, and its column {named[0]!r} says who they are; leave it out "
            "(source.columns)"
        )


def check_explicit(depicts: Depicts, *, source: str) -> None:
    """Raise ValueError where captions that name what a picture shows would be written for pictures of real people."""
    if depicts == "people":
        raise ValueError(
            f"source {source} depicts people, and explicit captions would write what is known of each person into the "
            "text beside the picture: set recipe.preserve.explicit=false"
        )


def shown_key(depicts: Depicts, key: str) -> str:
    """A picture's key as it may stand in a file that is published: a hash of people's, which may be called by name."""
    return hashlib.sha256(key.encode(errors="surrogatepass")).hexdigest()[:16] if depicts == "people" else key


def people_record(depicts: Depicts, consent: str | None) -> Mapping[str, str | None]:
    """What a certificate and an audit say about people: ``depicts``, ``consent``, ``note`` and ``readers_limits``."""
    note = {"people": PEOPLE_NOTE, "synthetic": SYNTHETIC_NOTE, "other": OTHER_NOTE}[depicts]
    return {"depicts": depicts, "consent": consent, "note": note, "readers_limits": READERS_LIMITS}
