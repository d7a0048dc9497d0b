"""What tells a process from another one with its pid."""

from __future__ import annotations

from dataclasses import replace

import pytest

from callstate_client.engine.process import Process

KNOWN = Process(10, 100, "boot", 7)


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (KNOWN, True),
        (replace(KNOWN, start_ticks=0), True),
        (replace(KNOWN, pidfs_inode=0), True),
        (replace(KNOWN, pid=11), False),
        (replace(KNOWN, start_ticks=101), False),
        (replace(KNOWN, pidfs_inode=8), False),
        (replace(KNOWN, boot_id="another"), False),
        (replace(KNOWN, start_ticks=0, pidfs_inode=0), None),
        (replace(KNOWN, boot_id=""), None),  # ticks and inodes begin anew with each boot
        (replace(KNOWN, boot_id="", start_ticks=101), False),
        (Process(10), None),
        (Process(11), False),
    ],
)
def test_marks_are_compared_where_both_are_known(other: Process, same: bool | None) -> None:
    assert KNOWN.is_same(other) is same
    assert other.is_same(KNOWN) is same
