"""`callstated journal export` of a running daemon: a state that there was, with all that was acknowledged."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from dataclasses import dataclass, field

import pytest

from callstate_client import SessionState, connect
from callstate_client.errors import CallstateError
from support.daemon import Daemon

pytestmark = [pytest.mark.system, pytest.mark.timeout(180), pytest.mark.asyncio(loop_factories=["uvloop"])]

CALLS = 8
EXPORTS = 5


@dataclass
class Load:
    """Calls that grow by numbered turns, and how many of them were sent and acknowledged.

    Args:
        daemon: holds them.
    """

    daemon: Daemon
    sent: dict[str, int] = field(default_factory=dict)
    acknowledged: dict[str, int] = field(default_factory=dict)

    async def grow(self, session_id: str) -> None:
        """Add turns until the daemon is gone."""
        async with connect(self.daemon.socket, wait_s=0, register=False) as store:
            await store.save(SessionState(session_id, status="active"))
            for number in range(1_000_000):
                self.sent[session_id] = number + 1
                try:
                    await store.add_turn(session_id, "user", str(number), timeout_s=5)
                except CallstateError:
                    return
                self.acknowledged[session_id] = number + 1

    async def exported(self) -> dict[str, list[str]]:
        """What an export has: the turns of each call."""
        command = [sys.executable, "-m", "callstate_sidecar", "journal", "export", str(self.daemon.state_dir)]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        sessions = [json.loads(line)["session"] for line in done.stdout.splitlines()]
        return {each["id"]: [turn["content"] for turn in each["history"]] for each in sessions}

    async def check(self) -> int:
        """Export, and compare with what was known before and after; returns how many turns there were."""
        before = dict(self.acknowledged)
        turns = await self.exported()
        for session_id, said in turns.items():
            assert said == [str(number) for number in range(len(said))]
            assert before.get(session_id, 0) <= len(said) <= self.sent.get(session_id, 0)
        assert before.keys() <= turns.keys()
        return sum(map(len, turns.values()))


@pytest.mark.parametrize("durability", ["process", "power"])
async def test_an_export_under_load_is_a_state_that_there_was(durability: str) -> None:
    """Checkpoints replace the journal's files meanwhile, and the last of it is read after a kill -9."""
    settings = ["journal.checkpoint_min_bytes=262144", "journal.sync_interval_s=0.05"]
    args = [word for each in settings for word in ("--set", each)]
    with Daemon("--durability", durability, *args) as daemon:
        load = Load(daemon)
        growing = [asyncio.create_task(load.grow(f"call-{number}")) for number in range(CALLS)]
        counts = [await load.check() for _ in range(EXPORTS)]
        manifest = (daemon.state_dir / "journal" / "MANIFEST").read_text()
        await daemon.in_thread("kill")
        await asyncio.gather(*growing)
        counts.append(await load.check())
        assert counts == sorted(counts)
        assert counts[-1] > counts[0]
        assert '"snapshot":null' not in manifest, "no checkpoint came in between"
