"""What the store, and so other hosts, are told of a session's life: live, suspect, orphan or ended."""

from __future__ import annotations

from callstate_client.engine.sessions.stored import StoredMeta
from callstate_sidecar.config.schema import ReaperConfig
from support.core import HOST, Core


async def stored(core: Core) -> StoredMeta:
    """What is beside the document once all is written."""
    await core.writer.write_round()
    meta = core.memory.rows["a"].meta
    assert meta is not None
    return meta


async def test_a_live_session() -> None:
    core = Core()
    await core.save("a")
    assert (await stored(core)).state == "live"


async def test_a_suspect_is_one_in_the_store_too_and_live_again_after_a_beat() -> None:
    core = Core(reaper=ReaperConfig(heartbeat_timeout_s=10.0))
    await core.save("a")
    version = (await stored(core)).version
    core.advance(11.0)
    suspect = await stored(core)
    assert (suspect.state, suspect.version) == ("suspect", version)
    await core.call("session.heartbeat", session_id="a")
    live = await stored(core)
    assert (live.state, live.version) == ("live", version)


async def test_an_orphan_and_why() -> None:
    core = Core()
    await core.save("a")
    epoch = (await core.call("session.claim", session_id="a", worker_id="w1"))["epoch"]
    await core.call("session.release", session_id="a", epoch=epoch)
    meta = await stored(core)
    assert (meta.state, meta.orphan, meta.owner) == ("orphan", "released", "")


async def test_an_ended_session() -> None:
    core = Core()
    await core.save("a")
    await core.call("session.end", session_id="a")
    assert (await stored(core)).state == "ended"


async def test_an_orphan_that_is_read_back_can_be_claimed_as_one() -> None:
    core = Core()
    document = b'{"id":"a","status":"active"}'
    core.memory.put("a", document, StoredMeta(host=HOST, version=5, epoch=3, state="orphan", orphan="released"))
    await core.call("session.load", session_id="a")
    claimed = await core.call("session.claim_next", worker_id="w1")
    assert (claimed["session"]["id"], claimed["epoch"]) == ("a", 4)


async def test_the_states_of_another_hosts_sessions_are_listed() -> None:
    core = Core()
    for session_id, state in (("a", "live"), ("b", "suspect"), ("c", "orphan")):
        meta = StoredMeta(host="other", version=5, state=state, orphan="released" if state == "orphan" else "")
        core.memory.put(session_id, b'{"id":"%b","status":"active"}' % session_id.encode(), meta)
    for session_id, state in (("a", "live"), ("b", "suspect"), ("c", "orphan")):
        found = await core.call("session.list", state=state, scope="all")
        assert [listed["session"]["id"] for listed in found["sessions"]] == [session_id]
