"""Known advisories about what the lock files pin: `python scripts/audit.py PIP_AUDIT [--if-reachable]`.

Exit status 1 if there are any, and 2 if nothing could be checked, as without network; with `--if-reachable`, as in
CI, that passes. It is said in any case, with what pip-audit gives as the reason.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
LOCKS = ("requirements-dev.lock", "requirements-fuzz.lock")
WAIT_S = 300


def main(argv: list[str]) -> int:
    """Ask for each lock file, and print what is found."""
    status = 0
    for lock in LOCKS:
        packages, reason = audited(argv[0], ROOT / lock)
        known = [package for package in packages if "vulns" in package]
        if not known:
            sys.stdout.write(f"{lock}: not checked: {reason}\n")
            status = max(status, 0 if "--if-reachable" in argv else 2)
            continue
        advisories = [(package, advisory) for package in known for advisory in package["vulns"]]
        for package, advisory in advisories:
            fixed = ", ".join(advisory["fix_versions"]) or "no version yet"
            sys.stdout.write(f"{package['name']} {package['version']}: {advisory['id']}, fixed in {fixed}\n")
        sys.stdout.write(
            f"{lock}: {len(known)} of {len(packages)} packages checked, {len(advisories)} advisories\n"
        )
        status = 1 if advisories else status
    return status


def audited(pip_audit: str, lock: Path) -> tuple[list[dict[str, Any]], str]:
    """The packages of a lock file, those that could be checked with their `vulns`; and why one could not be."""
    command = [pip_audit, "--requirement", str(lock), "--require-hashes", "--disable-pip", "--format", "json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=WAIT_S, check=False)  # noqa: S603
    except subprocess.TimeoutExpired:
        return [], f"pip-audit had no answer within {WAIT_S} seconds"
    try:
        found: list[dict[str, Any]] = json.loads(done.stdout)["dependencies"]
    except (ValueError, KeyError):
        return [], (done.stderr.strip().splitlines() or ["pip-audit says nothing"])[-1]
    return found, next(
        (package["skip_reason"] for package in found if "skip_reason" in package), "it has no packages"
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
