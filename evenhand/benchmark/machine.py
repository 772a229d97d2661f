"""What figures were taken on: without it they say nothing."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING

from evenhand.run import package_versions

if TYPE_CHECKING:
    import torch

CPUINFO = Path("/proc/cpuinfo")


def machine_facts(device: torch.device) -> dict[str, object]:
    """Processor, cores, threads, load, device and versions."""
    import torch

    on_gpu = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if on_gpu else "cpu",
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "load": [round(load, 2) for load in os.getloadavg()],
        "platform": platform.platform(),
        "python": platform.python_version(),
        "versions": package_versions(),
        "cuda": torch.version.cuda if on_gpu else None,
    }


def _processor() -> str:
    lines = CPUINFO.read_text().splitlines() if CPUINFO.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()
