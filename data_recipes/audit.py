"""Audit a set of pictures, whatever made it: who and what it shows, against a target, and what is wrong with it.

python data_recipes/audit.py source=generated_folder source.folder=<folder> claim=generator target=uniform
"""

from __future__ import annotations

import shlex
import sys
from pathlib import Path

from tqdm import tqdm

from evenhand.compose import Config, program
from evenhand.files import read_json, write_json_atomic
from evenhand.recipes.pictures import full_disk_said
from evenhand.report.set_page import PAGE_FILE, answer, write_set_page
from evenhand.run import NOT_RESULTS, Run, check_place, finished_before
from evenhand.set_audit.audit import AUDIT_FILE, SetAudit, thumbnails_of
from evenhand.set_audit.pictures import look
from evenhand.set_audit.settings import AuditSettings, readers_of
from evenhand.set_audit.wanted import wanted_shares

# The last digits of what a reader computes may depend on these, no count does.
NOT_IN_THE_AUDIT = (*NOT_RESULTS, "device", "num_threads", "read_batch_size")
EXIT_MISSED = 3


@program("audit_set")
def main(config: Config) -> None:
    # Everything that is wrong in the config ends here, before a model is loaded.
    source, attributes = config.build("source"), tuple(config.build("attributes").values())
    audit = SetAudit(
        source=source,
        attributes=attributes,
        wanted=wanted_shares(attributes, config.build("targets"), inputs=source.inputs),
        readers=readers_of(config.value("by", str), config.build("reader"), config.build("second_reader")),
        settings=config.construct(AuditSettings),
        against=config.build("against"),
        language=config.build("language"),
    )
    folder, device_name = Path(config.value("run_folder", str)), config.value("device", str)
    batch_size, num_threads = config.value("read_batch_size", int), config.value("num_threads", int)
    config.ignore("experiment", "run_name", "attribute", "target")
    config.refuse_unread()
    audit.check()
    if finished_before(folder, config=config.plain, inputs=source.inputs, not_results=NOT_IN_THE_AUDIT):
        return report(folder)
    check_place(folder, needed_bytes=0)

    import torch

    torch.set_num_threads(num_threads)
    if device_name == "auto":
        device_name = "cuda" if torch.cuda.is_available() else "cpu"
    with full_disk_said(folder):
        run = Run.open(
            folder,
            config=config.plain,
            seeds={},
            inputs=source.inputs,
            device=device_name,
            not_results=NOT_IN_THE_AUDIT,
        )
        loaded = {reader.name: reader.load(device=torch.device(device_name)) for reader in audit.readers}

        # One pass: each picture is checked and read as it streams by, and little of it is kept.
        pictures = look(source, loaded, attributes, audit.settings, batch_size=batch_size, num_threads=num_threads)
        seen = list(tqdm(pictures, desc=source.name, unit="picture", file=sys.stderr))

        content = audit.of(seen)
        write_json_atomic(folder / AUDIT_FILE, content)
        write_set_page(folder, content, thumbnails_of(seen), command=shlex.join(["python", *run.provenance["command"]]))
        run.finish()
    report(folder)


def report(folder: Path) -> None:
    content = read_json(folder / AUDIT_FILE)
    print(answer(content))
    for finding in content["findings"]:
        if finding["level"] != "fine":
            print(f"  {finding['level']:8}{finding['about']}: {finding['sentence']}")
    print(f"{folder / PAGE_FILE}")
    if not content["passed"]:
        print("the set misses its target", file=sys.stderr)
        raise SystemExit(EXIT_MISSED)


if __name__ == "__main__":
    main()
