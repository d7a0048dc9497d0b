"""Nothing acknowledged is lost, whatever the disk, the store and the clock do: a whole core against a plain model.

Requests come in groups of one turn of the loop. The disk may refuse a group, once or for a while; the store
may be away, refuse, or apply a batch and lose the reply; writes may be under way while requests come; the daemon
may be killed at any moment and started again on its journal.
"""

from __future__ import annotations

import asyncio
import errno
import shutil
import tempfile
from copy import deepcopy
from pathlib import Path
from typing import Any

import msgspec
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from callstate_client.engine.table.quarantine import RETRY_MAX_S
from callstate_client.engine.table.replay import all_dirty
from callstate_client.engine.table.session_table import SessionTable
from support.budget import examples
from support.core import TIME, BadDisk, Core, FakeClient, open_journal
from support.hot_bytes import recounted, recounted_dirty
from support.stores import down, refusing

IDS = ["a", "b"]
STATUSES = ["active", "on_hold", "ended"]
ENOSPC = OSError(errno.ENOSPC, "No space left on device")

KINDS = [
    "save",
    "save",
    "create",
    "add_turn",
    "add_turn",
    "turns",
    "amend",
    "amend_at",
    "interrupt",
    "update",
    "end",
    "delete",
]
KINDS += ["load", "beat", "save", "delete"]

requests = st.lists(
    st.tuples(
        st.sampled_from(KINDS),
        st.sampled_from(IDS),
        st.sampled_from(STATUSES),
        st.sampled_from(["keep", "same", "longer", "other", "none"]),
        st.sampled_from([None, None, "op-1", "op-2"]),
    ),
    min_size=1,
    max_size=8,
)


def turn(number: int) -> dict[str, Any]:
    return {"role": "user", "content": f"turn {number}", "timestamp": TIME, "duration_ms": number}


class CoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.loop = asyncio.new_event_loop()
        self.directory = Path(tempfile.mkdtemp(prefix="cs-"))
        self.number = 0
        self.model: dict[str, dict[str, Any]] = {}
        self.round: asyncio.Task[None] | None = None
        self.core: Core | None = None

    def teardown(self) -> None:
        async def stop() -> None:
            if self.core is not None:
                self.core.memory.let_go()
                await self.finish_round()
                await self.core.read_through.close()

        self.loop.run_until_complete(stop())
        if self.core is not None:
            self.journal.close()
        self.loop.close()
        shutil.rmtree(self.directory)

    # -- the daemon's life ----------------------------------------------------------------------------------

    @initialize()
    def begin(self) -> None:
        self.loop.run_until_complete(self.start(None))

    async def start(self, before: Core | None) -> None:
        self.disk = BadDisk()
        table = SessionTable()
        self.journal = open_journal(self.directory, self.disk, table, start=True)
        core = Core(journal=self.journal, table=table)
        if before is not None:
            core.clock.at_us, core.clock.at_s = before.clock.at_us, before.clock.at_s
            core.memory.rows, core.memory.active = before.memory.rows, before.memory.active
        all_dirty(table, core.clock.mono())
        for session in core.table.sessions.values():
            (core.liveness.keep if session.ended else core.liveness.watch)(session, core.clock.live())
        self.core, self.peer = core, FakeClient(core)

    @rule()
    def killed(self) -> None:
        """kill -9 and a new start; what the store was sent may have arrived or not."""

        async def die() -> None:
            if self.round is not None:
                self.round.cancel()
            self.core.memory.let_go()
            await self.finish_round()
            await self.core.read_through.close()
            self.journal.close()
            await self.start(self.core)

        self.loop.run_until_complete(die())

    async def finish_round(self) -> None:
        if self.round is not None:
            await asyncio.gather(self.round, return_exceptions=True)
            self.round = None

    # -- requests -------------------------------------------------------------------------------------------

    def params(self, kind: str, session_id: str, status: str, history: str, op: str | None) -> tuple[str, Any]:
        self.number += 1
        self.core.clock.at_us += 1  # a version is never given twice, as the wall clock goes
        known = self.model.get(session_id, {"history": []})
        extra = {} if op is None else {"op": f"{kind}-{op}"}
        if kind in ("save", "create"):
            session: dict[str, Any] = {"id": session_id, "status": status, "campaign": self.number}
            turns = {"same": known["history"], "longer": [*known["history"], turn(self.number)]}
            turns |= {"other": [turn(self.number)], "none": []}
            if history in turns:
                session["history"] = turns[history]
            create = {"if_version": 0} if kind == "create" else {}
            return "session.save", {"session": session, **create, **extra}
        named = {"session_id": session_id}
        return {
            "add_turn": ("session.add_turn", {**named, "turn": turn(self.number), **extra}),
            "turns": ("session.add_turn", {**named, "turns": [turn(self.number), turn(-1)], **extra}),
            "amend": ("session.amend_turn", {**named, "set": {"content": f"cut {self.number}"}, **extra}),
            "amend_at": ("session.amend_turn", {**named, "set": {"content": "at"}, **self.place(known), **extra}),
            "interrupt": ("session.record_interruption", {**named, **extra}),
            "update": ("session.update", {**named, "set": {"status": status, "campaign": self.number}, **extra}),
            "end": ("session.end", {**named, "reason": "hangup", **extra}),
            "delete": ("session.delete", named),
            "load": ("session.load", named),
            "beat": ("session.heartbeat", named),
        }[kind]

    def place(self, known: dict[str, Any]) -> dict[str, Any]:
        """Some turn, sometimes one that is not there; half of them by the role that all have."""
        index = self.number % (2 * len(known["history"]) + 2) - len(known["history"]) - 1
        return {"index": index} if index % 3 else {"index": index, "role": "user"}

    @rule(
        wanted=requests,
        fails=st.sampled_from(["no", "no", "no", "once", "twice", "always"]),
        meanwhile=st.booleans(),
    )
    def turn_of_the_loop(self, wanted: list[Any], fails: str, meanwhile: bool) -> None:
        """Some requests in one turn; `meanwhile`, the round that was under way ends within the very same turn."""

        async def serve() -> None:
            made = [self.params(*request) for request in wanted]
            self.disk.once = {"once": 1, "twice": 3}.get(fails, 0)  # the attempt to wipe counts
            self.disk.error = None if fails == "no" else ENOSPC
            if meanwhile:
                self.core.memory.let_go()
            self.was_open = self.core.writer.store.is_open
            ids = self.peer.send(*made)
            for _ in range(200):  # turns of the loop, not time: nothing here waits for anything else
                if self.peer.answered(ids):
                    break
                await asyncio.sleep(0)
            if self.core.memory._gate.is_set():
                assert self.peer.answered(ids)
            else:  # what waits for the store is answered when that goes on
                self.core.memory.let_go()
                for _ in range(200):
                    await asyncio.sleep(0)
                assert self.peer.answered(ids)
            self.disk.error, self.disk.once = None, 0
            for (method, params), request_id in zip(made, ids, strict=True):
                self.take(method, params, self.peer.replies[request_id])

        self.loop.run_until_complete(serve())

    def take(self, method: str, params: dict[str, Any], reply: dict[str, Any]) -> None:
        """What a reply says has happened; what it must not say."""
        session_id = params["session"]["id"] if "session" in params else params["session_id"]
        known = self.model.get(session_id)
        if "error" in reply:
            self.refused(method, params, reply["error"], known)
            return
        result = reply["result"]
        op = params.get("op")
        if op is not None and known is not None and op in known["ops"]:
            assert result == known["ops"][op], "a repeat gets the first result"
            return
        if method == "session.load":
            assert known is not None, "gone, and yet loaded"
            self.same(result, known)
            return
        if method == "session.delete":
            assert known is not None, "gone, and yet deleted"
            del self.model[session_id]
            return
        if method == "session.heartbeat":
            assert known is not None
            assert known["status"] != "ended"
            return
        if method == "session.end" and known is not None and known["status"] == "ended":
            assert result == {"version": known["version"]}
            return
        after = self.changed(method, params, known, result)
        if known is not None and not after.pop("fresh", False):
            assert result["version"] > known["version"]
        after.pop("fresh", None)
        after["version"] = result["version"]
        if op is not None:
            after["ops"] = dict([*after["ops"].items(), (op, result)][-16:])
        self.model[session_id] = after

    def refused(
        self, method: str, params: dict[str, Any], error: dict[str, Any], known: dict[str, Any] | None
    ) -> None:
        kind = error["data"]["kind"]
        assert kind in ("not_found", "conflict", "session_ended", "store_unavailable", "not_durable"), error
        if kind == "not_found":
            assert known is None, "there, and yet not found"
        elif kind == "session_ended":
            assert known is not None
            assert known["status"] == "ended"
            revives = method == "session.update" and params["set"]["status"] != "ended"
            assert method == "session.heartbeat" or revives or known["reaped"]
        elif kind == "conflict":
            assert known is not None, "conflict with nothing"
            # several changes of one turn of the loop may lie between what was asked for and what is known now
            assert method == "session.save" or not known["history"] or "index" in params

    def changed(
        self, method: str, params: dict[str, Any], known: dict[str, Any] | None, result: dict[str, Any]
    ) -> dict[str, Any]:
        if method == "session.save":
            session = params["session"]
            # a save of what could not be looked for is a new session, as far as anybody knew
            asked = self.core.memory.failure is None and not self.was_open
            hot = known is not None and (asked or known.get("hot", True))
            before = known if hot else None
            history = session.get("history", before["history"] if before else [])
            after = deepcopy(before) if before else {"interruptions": 0, "ops": {}, "reaped": False}
            assert not after["reaped"], "a reaped session takes nothing more"
            return after | {
                "status": session["status"],
                "campaign": session["campaign"],
                "history": [*history],
                "interruptions": 0,  # the document says none
                "turns": 0,
                "fresh": before is None,
            }
        assert known is not None, f"{method} of nothing"
        assert not known["reaped"]
        after = deepcopy(known)
        if method == "session.add_turn":
            turns = params["turns"] if "turns" in params else [params["turn"]]
            after["history"] += turns
            after["turns"] += len(turns)
        elif method == "session.amend_turn":
            index = params.get("index", -1)
            after["history"][index] = after["history"][index] | params["set"]
            assert result["index"] == index % len(after["history"])
        elif method == "session.record_interruption":
            after["interruptions"] += 1
        elif method == "session.update":
            after |= params["set"]
        else:
            after["status"] = "ended"
        return after

    def same(self, result: dict[str, Any], known: dict[str, Any]) -> None:
        session = result["session"]
        assert session["history"] == known["history"]
        assert result["turn_count"] == len(known["history"])
        assert session["status"] == known["status"]
        assert session["campaign"] == known["campaign"]
        assert session["metrics"]["interruption_count"] == known["interruptions"]
        assert session["metrics"]["turn_count"] == known["turns"]
        assert result["version"] == known["version"]

    # -- the store ------------------------------------------------------------------------------------------

    @rule(how=st.sampled_from(["up", "down", "refusing", "cut"]))
    def store_becomes(self, how: str) -> None:
        memory = self.core.memory
        memory.failure = {"down": down, "refusing": refusing}.get(how)
        memory.cut = how == "cut"
        for session_id, known in self.model.items():
            known["hot"] = session_id in self.core.table.sessions

    @precondition(lambda self: self.round is None)
    @rule()
    def write_behind(self) -> None:
        self.loop.run_until_complete(self.core.writer.write_round())

    @precondition(lambda self: self.round is None)
    @rule()
    def begin_to_write(self) -> None:
        """A round begins, and does not end until something lets it go on."""

        async def begin() -> None:
            self.core.memory.hold()
            self.round = asyncio.ensure_future(self.core.writer.write_round())
            await asyncio.sleep(0)

        self.loop.run_until_complete(begin())

    @rule()
    def let_go(self) -> None:
        async def go() -> None:
            self.core.memory.let_go()
            await self.finish_round()

        self.loop.run_until_complete(go())

    # -- time -----------------------------------------------------------------------------------------------

    @rule(seconds=st.sampled_from([0.0, 1.5, 31.0, 400.0]), fails=st.booleans())
    def time_passes(self, seconds: float, fails: bool) -> None:
        """The reaper looks, twice: suspects, then ends. What is ended and stored leaves after a while."""

        async def look() -> None:
            core = self.core
            core.clock.advance(seconds)
            self.disk.error = ENOSPC if fails else None
            core.reaper.tick(core.clock.live())
            self.disk.error = None
            for session_id, known in self.model.items():
                session = core.table.sessions.get(session_id)
                if session is not None and session.facts.reaped and not known["reaped"]:
                    known |= {"status": "ended", "reaped": True, "version": session.version}
                known["hot"] = session is not None

        self.loop.run_until_complete(look())

    # -- what must hold -------------------------------------------------------------------------------------

    @invariant()
    def hot_is_as_acknowledged(self) -> None:
        if self.core is None:
            return
        table = self.core.table
        assert table.sessions.keys() <= self.model.keys()
        assert not self.core.tx.records, "every group is down or undone"
        for session_id, session in table.sessions.items():
            doc = session.doc.to_json(session.doc.updated_us)
            loaded = {"session": msgspec.json.decode(doc), "turn_count": session.doc.turn_count}
            self.same(loaded | {"version": session.version}, self.model[session_id])
            assert self.core.phase(session_id) is not None
        assert len(self.core.liveness) == len(table.sessions)

    @invariant()
    def hot_bytes_are_the_sum_of_what_is_kept(self) -> None:
        if self.core is not None:
            assert self.core.table.hot.total == recounted(self.core.table, self.core.events)

    @invariant()
    def what_the_store_lacks_is_dirty(self) -> None:
        """The mark that is never lost: hot or deleted, what the store may not have will be written again."""
        if self.core is None:
            return
        table = self.core.table
        for session_id, session in table.sessions.items():
            assert session.stored_version >= session.version or self.is_kept_for_the_store(session_id)
        for session_id in table.tombstones.pending:
            assert self.is_kept_for_the_store(session_id)
        assert table.dirty.size_bytes == recounted_dirty(table.dirty)
        ages = [mark.since for mark in table.dirty.marks.values()]
        assert all(
            session_id in table.sessions or session_id in table.tombstones.pending
            for session_id in table.dirty.marks
        )
        assert not ages or min(ages) >= 1000.0
        counts: dict[str, int] = {}
        for session in table.sessions.values():
            counts[session.doc.status] = counts.get(session.doc.status, 0) + 1
        assert table.index.by_status == counts

    def is_kept_for_the_store(self, session_id: str) -> bool:
        """Whether it is going to be written, sooner or later."""
        table = self.core.table
        dirty = session_id in table.dirty.marks or session_id in table.dirty.in_flight
        return dirty or session_id in table.quarantined

    @rule()
    def all_is_written(self) -> None:
        """With store and disk well again, the store has just what was acknowledged."""

        async def settle() -> None:
            core = self.core
            core.memory.let_go()
            await self.finish_round()
            core.memory.failure, core.memory.cut = None, False
            core.clock.advance(RETRY_MAX_S)
            for _ in range(3):
                await core.writer.write_round()
            assert not core.table.dirty.marks
            assert not core.table.quarantined
            rows = core.memory.rows
            assert {i for i, row in rows.items() if row.document is not None} == self.model.keys()
            for session_id, known in self.model.items():
                row = rows[session_id]
                session = msgspec.json.decode(row.document)
                loaded = {"session": session, "turn_count": len(session["history"]), "version": row.meta.version}
                self.same(loaded, known)
                assert (session_id in core.memory.active) is (known["status"] != "ended")

        self.loop.run_until_complete(settle())


TestCore = CoreMachine.TestCase
TestCore.settings = settings(max_examples=examples(40), stateful_step_count=25)
