"""A blinded audit: pictures of both arms in random order for people to label, and their labels as readings.

Readers err, and may err differently in the two arms; only labels of both arms by people who do not know which is which
can tell (prediction-powered inference: Angelopoulos et al. 2023, arXiv 2301.09633). The sheet is one HTML file without
prompts, arms or names of files; which picture is which stands in a key beside it.
"""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from pathlib import Path

import jinja2
import numpy as np
from PIL import Image

from evenhand.evaluation.folder import READINGS_FILE, load_images
from evenhand.evaluation.plan import Plan
from evenhand.files import read_json, read_jsonl, sha256_file, sha256_json, write_json_atomic, write_jsonl_atomic
from evenhand.readers.labels import CANNOT_TELL, NOBODY, AuditKey, read_labels
from evenhand.records import ImageRecord
from evenhand.seeds import derive

AUDIT_FOLDER = "audit"
TEMPLATES = Path(__file__).parent / "templates"
# The answers that are no value, as they stand in the file and as they are shown: scenes have nobody in them.
NO_VALUE = ((CANNOT_TELL, "cannot tell"), (NOBODY, "nobody, or not shown"))
PNG_PX, MOST_PX = 128, 512
JPEG_QUALITY = 90


@dataclass(frozen=True, slots=True, kw_only=True)
class Sheet:
    """A written audit sheet, its key, and how many pictures are on it."""

    path: Path
    key_path: Path
    num_pictures: int


def write_sheet(plan: Plan, folder: Path, *, attribute: str, suite: str, num_pairs: int, seed: int) -> Sheet:
    """Write the sheet and the key of a simple random sample of pairs; both arms of each are on it, in random order.

    The same arguments give the same files. Raises ValueError when there are fewer pairs, when an image is not the one
    that was generated, or when another sheet of the attribute is there already.
    """
    if attribute not in plan.attributes:
        raise ValueError(f"unknown attribute {attribute!r}; the plan has {', '.join(plan.attributes)}")
    records = _sample(plan, folder, suite=suite, num_pairs=num_pairs, seed=seed)
    pictures = {
        f"{number:0{len(str(len(records)))}d}": (record.prompt_id, record.seed, record.arm)
        for number, record in enumerate(records, start=1)
    }
    values = plan.attributes[attribute]
    sheet = sha256_json([attribute, values, suite, seed, pictures, [record.sha256 for record in records]])[:12]
    key = {
        "sheet": sheet,
        "attribute": attribute,
        "values": values,
        "suite": suite,
        "seed": seed,
        "num_pairs": num_pairs,
        "pictures": pictures,
    }
    path = folder / AUDIT_FOLDER / f"{attribute}.html"
    key_path = path.with_suffix(".key.json")
    if key_path.is_file() and read_json(key_path)["sheet"] != sheet:
        raise ValueError(f"{key_path} is the key of another sheet; keep both files under other names, then draw again")
    html = _template().render(
        sheet=sheet,
        attribute=attribute,
        answers=[*((value, value) for value in values), *NO_VALUE],
        pictures=[(number, _data_uri(record, folder)) for number, record in zip(pictures, records, strict=True)],
    )
    path.parent.mkdir(exist_ok=True)
    path.write_text(html, encoding="utf-8")
    write_json_atomic(key_path, key)
    return Sheet(path=path, key_path=key_path, num_pictures=len(records))


def _sample(plan: Plan, folder: Path, *, suite: str, num_pairs: int, seed: int) -> list[ImageRecord]:
    """Both arms' images of ``num_pairs`` pairs of a suite, drawn without replacement and shuffled together."""
    if not plan.paired:
        raise ValueError("an audit samples pairs of the same prompt and seed, but this plan is not paired")
    if num_pairs < 1:
        raise ValueError(f"pairs must be >= 1, got {num_pairs}")
    records = load_images(folder)
    prompts = {prompt.id for prompt in plan.in_suite(suite)}
    pairs = sorted(
        (prompt_id, number)
        for arm, prompt_id, number in records
        if arm == plan.arms[0] and prompt_id in prompts and (plan.arms[1], prompt_id, number) in records
    )
    if len(pairs) < num_pairs:
        raise ValueError(f"{folder}: suite {suite} has {len(pairs)} pairs of images, fewer than pairs={num_pairs}")
    rng = np.random.default_rng(derive(seed, "audit", suite))
    chosen = [pairs[index] for index in rng.choice(len(pairs), size=num_pairs, replace=False)]
    both = [records[arm, prompt_id, number] for prompt_id, number in chosen for arm in plan.arms]
    return [both[index] for index in rng.permutation(len(both))]


def _data_uri(record: ImageRecord, folder: Path) -> str:
    """An image as it was generated, or shrunk, encoded anew: a file's metadata could name its arm."""
    path = folder / record.path
    if not path.is_file() or sha256_file(path) != record.sha256:
        raise ValueError(f"{path} is not the image that was generated; generate again")
    with Image.open(path) as image:
        picture = image.convert("RGB")
    buffer = io.BytesIO()
    if max(picture.size) <= PNG_PX:
        picture.save(buffer, format="PNG")
        kind = "png"
    else:
        picture.thumbnail((MOST_PX, MOST_PX))
        picture.save(buffer, format="JPEG", quality=JPEG_QUALITY)
        kind = "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(buffer.getvalue()).decode()}"


def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(TEMPLATES), autoescape=True, undefined=jinja2.StrictUndefined
    )
    return environment.get_template("audit.html")


def load_keys(folder: Path) -> list[AuditKey]:
    """The keys of a run's audit sheets."""
    keys = []
    for path in sorted((folder / AUDIT_FOLDER).glob("*.key.json")):
        content = read_json(path)
        pictures = {number: (place[0], place[1], place[2]) for number, place in content["pictures"].items()}
        keys.append(
            AuditKey(
                sheet=content["sheet"],
                attribute=content["attribute"],
                values=tuple(content["values"]),
                pictures=pictures,
            )
        )
    return keys


def add_labels(plan: Plan, folder: Path, path: Path, *, rater: str) -> int:
    """Put the labels of a CSV file into ``readings.jsonl`` as readings of ``rater``; how many rows they are.

    Earlier labels of the same rater are replaced, other readers' lines stay. Raises ValueError for a rater that has the
    name of a planned reader, and for a picture that is not of the plan.
    """
    if rater in (plan.reader, *plan.second_readers) or not rater:
        raise ValueError(f"rater={rater!r} must be a name, and not that of a reader of the plan")
    readings = read_labels(path, reader=rater, attributes=plan.attributes, keys=load_keys(folder))
    arms, prompts = {*plan.arms, *plan.dose_arms}, {prompt.id for prompt in plan.prompts}
    seeds = None if plan.generation is None else plan.generation.seeds
    for reading in readings:
        known = reading.arm in arms and reading.prompt_id in prompts
        if not known or (seeds is not None and reading.seed not in seeds[reading.prompt_id]):
            raise ValueError(
                f"{path}: the plan has no picture of prompt {reading.prompt_id!r}, seed {reading.seed}, "
                f"arm {reading.arm!r}"
            )
    others = [row for row in read_jsonl(folder / READINGS_FILE) if row["reader"] != rater]
    write_jsonl_atomic(folder / READINGS_FILE, [*others, *readings])
    return len(readings)
