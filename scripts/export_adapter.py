"""Write an adapter in the layout that ComfyUI and A1111 read.

python scripts/export_adapter.py adapter=runs/default/<run_name>/adapter to=mechanics.safetensors
"""

from __future__ import annotations

from pathlib import Path

from evenhand.adapters.kohya import kohya_bytes
from evenhand.compose import Config, program
from evenhand.files import atomic_path


@program("export")
def main(config: Config) -> None:
    adapter, to = Path(config.value("adapter", str)), Path(config.value("to", str))
    config.ignore("experiment", "run_name", "run_folder")
    config.refuse_unread()
    if to.suffix != ".safetensors":
        raise ValueError(f"to must name a .safetensors file, got {to}")
    content = kohya_bytes(adapter)
    with atomic_path(to) as temporary:
        temporary.write_bytes(content)
    print(f"exported: {to}  {len(content)} bytes")


if __name__ == "__main__":
    main()
