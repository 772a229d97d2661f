"""Seeds are functions of names: equal everywhere, different for different names."""

from __future__ import annotations

import hashlib
import subprocess
import sys

from evenhand.seeds import MAX_SEED, derive


def test_a_seed_is_the_first_eight_bytes_of_the_sha256_of_its_names() -> None:
    """Computed by hand here: 63 bits, big end first, names joined by the unit separator."""
    digest = hashlib.sha256(b"7\x1fimage\x1f3").digest()
    assert derive(7, "image", 3) == int.from_bytes(digest[:8], "big") % 2**63


def test_a_seed_does_not_depend_on_the_process() -> None:
    code = "from evenhand.seeds import derive; print(derive(0, 'noise', 12))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert int(done.stdout) == derive(0, "noise", 12)


def test_other_names_and_other_roots_give_other_seeds() -> None:
    seeds = {derive(root, name, index) for root in range(10) for name in ("noise", "data") for index in range(50)}
    assert len(seeds) == 10 * 2 * 50


def test_names_do_not_run_into_each_other() -> None:
    assert derive(1, "a", "bc") != derive(1, "ab", "c")
    assert derive(1, 23) != derive(12, 3)


def test_seeds_fit_a_signed_64_bit_integer() -> None:
    assert all(0 <= derive(seed) <= MAX_SEED for seed in range(200))
