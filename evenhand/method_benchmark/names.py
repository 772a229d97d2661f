"""Names that the benchmark's files share."""

from __future__ import annotations

ADAPTER_ARM = "adapted"  # conf/arm's choice for what was trained; not a baseline
BASE = "base"
NO_CHOICE = "none"
TRAINING_FOLDER = "training"
CERTIFICATE = "certificate.json"
NOT_DONE = "not done yet"  # how the reason begins why a run is missing that nobody has begun or ended
