"""Makes docs/pictures/ls.svg and show.svg: what `callstate ls` and `show` print on a terminal of 80 columns.

A daemon is started with a few calls: live ones, one whose worker was killed, one that was released, one that has
ended. The commands run on a pseudo-terminal, and what they write there is drawn; nothing is made up:

    python scripts/commands_picture.py
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import pty
import re
import struct
import subprocess
import sys
import tempfile
import termios
from datetime import timedelta
from io import StringIO
from pathlib import Path

from rich.console import Console
from rich.text import Text

from callstate_client import CallStore, SessionState, connect
from callstate_client.model.times import now
from callstate_client.model.tools import tool_call, tool_result

PICTURES = Path(__file__).parents[1] / "docs" / "pictures"
COLUMNS = 80
WITHIN_S = 30.0

SHOWN = "CA9b2f60c41d8e4a5f8c37d20e6a91b4f5"
OTHERS = {
    "voice-eu-2-311": ["CA0d7e31f5a2b94c68b1fe5a90c3d7427e", "CA5c18aa07e3f64d2b9a40d61cf2b8e793"],
    "killed": ["CAe4036fb9d1724c5a8e6bb07f91ac25d8"],
}
ENDED = "CA7f91d2c80b6e4a3d95ce41f08ab26d37"

HOLD = """
import asyncio, sys
from callstate_client import SessionState, connect

async def hold():
    async with connect(sys.argv[1], worker_id="voice-eu-1-208") as store:
        await store.open_call(SessionState(sys.argv[2], provider="twilio", direction="inbound"))
        print("held", flush=True)
        await asyncio.Event().wait()

asyncio.run(hold())
"""


def conversation() -> SessionState:
    """The call that `show` shows."""
    state = SessionState(
        SHOWN, provider="twilio", direction="inbound", from_="+442079460123", to="+442079460999", status="active",
        call_id=SHOWN, created_at=now() - timedelta(seconds=66),
    )  # fmt: skip
    begun = state.created_at

    def said(at_s: float, role: str, words: str, duration_ms: int = 0, **extra: object) -> None:
        state.add_turn(role, words, duration_ms, at=begun + timedelta(seconds=at_s), extra=extra or None)

    said(3, "agent", "Good evening, Harbour Kitchen. How can I help?", 2600, response_ms=410)
    said(12, "user", "Hi, I'd like a table for four on Friday, around eight, by the window if you have one.", 5100)
    said(13, "agent", "One moment, I'll look.", 1100, response_ms=640,
         tool_calls=[tool_call("t1", "find_tables", {"day": "Friday", "seats": 4})])  # fmt: skip
    said(15, "tool", '["19:45 window", "20:30 terrace"]', **tool_result("t1", "find_tables"))
    said(21, "agent", "We have a window table at a quarter to eight, or the terrace at", 4300, interrupted=True)
    said(24, "user", "A quarter to eight is fine.", 1700)
    said(39, "agent", "Lovely. May I have a name for the booking?", 2300, response_ms=520)
    return state


async def fill(store: CallStore, socket: Path) -> None:
    """Create the calls; one worker dies, one call is released, one ends."""
    await store.save(conversation(), labels={"app": "booking", "lang": "en"})
    await store.claim(SHOWN, steal=True)
    for session_id in OTHERS["voice-eu-2-311"]:
        await store.save(SessionState(session_id, provider="twilio", direction="inbound", status="active"))
    await store.update(OTHERS["voice-eu-2-311"][1], status="on_hold")
    await store.release(OTHERS["voice-eu-2-311"][0], (await store.get(OTHERS["voice-eu-2-311"][0])).epoch)
    await store.save(SessionState(ENDED, provider="twilio", status="active"))
    await store.end(ENDED, "caller_hangup")
    victim = await asyncio.create_subprocess_exec(
        sys.executable, "-c", HOLD, str(socket), OTHERS["killed"][0], stdout=subprocess.PIPE
    )
    async with store.events("suspect") as events:
        if victim.stdout is not None:
            await victim.stdout.readline()
        victim.kill()
        await victim.wait()
        async for _ in events:
            return


def printed(socket: Path, *words: str) -> str:
    """What a command writes on a terminal."""
    ours, theirs = pty.openpty()
    fcntl.ioctl(theirs, termios.TIOCSWINSZ, struct.pack("HHHH", 50, COLUMNS, 0, 0))
    environ = {"PATH": os.environ["PATH"], "TERM": "xterm-256color", "CALLSTATE_SOCKET": str(socket)}
    argv = [sys.executable, "-m", "callstate_client.cli", *words]
    seen = b""
    with subprocess.Popen(argv, stdin=theirs, stdout=theirs, stderr=theirs, env=environ) as process:  # noqa: S603
        os.close(theirs)
        with contextlib.suppress(OSError):  # EIO: it has ended
            while chunk := os.read(ours, 65536):
                seen += chunk
        process.wait(WITHIN_S)
    os.close(ours)
    return seen.decode().replace("\r", "")


def picture(command: str, text: str) -> str:
    """A terminal with a command and what it printed, as SVG."""
    console = Console(record=True, width=COLUMNS, file=StringIO(), force_terminal=True)
    console.print(Text.assemble(("$ ", "dim"), (command, "bold")))
    console.print(Text.from_ansi(text))
    drawn = console.export_svg(title=command.partition(" CA")[0], unique_id=command.split()[1])
    # fonts are those of whoever looks: an image may load nothing from elsewhere
    return re.sub(r"@font-face \{.*?\}\s*", "", drawn, flags=re.DOTALL)


async def make() -> None:
    """Write the pictures."""
    with tempfile.TemporaryDirectory(prefix="cs-") as folder:
        socket = Path(folder) / "s"
        argv = ["-m", "callstate_sidecar", "--socket", str(socket), "--state-dir", f"{folder}/state"]
        daemon = await asyncio.create_subprocess_exec(sys.executable, *argv, stderr=subprocess.DEVNULL)
        try:
            async with connect(socket, wait_s=WITHIN_S, worker_id="voice-eu-2-311") as store:
                await fill(store, socket)
                for words in (["ls", "--all"], ["show", SHOWN]):
                    text = await asyncio.to_thread(printed, socket, *words)
                    drawn = picture(" ".join(["callstate", *words]), text)
                    (PICTURES / f"{words[0]}.svg").write_text(drawn, "utf-8")
        finally:
            daemon.terminate()
            await daemon.wait()


if __name__ == "__main__":
    asyncio.run(make())
