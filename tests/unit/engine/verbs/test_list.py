"""`session.list` and `session.list_active`: filters, pages and cursors."""

from __future__ import annotations

from typing import Any

import pytest

from callstate_client.engine.verbs import listing
from callstate_client.errors import InvalidParamsError, StoreUnavailableError
from support.core import Core
from support.stores import down
from support.verbs import refused


async def test_pages_and_filters(core: Core) -> None:
    for number in range(7):
        await core.save(
            f"s{number}", session={"status": "active" if number % 2 else "on_hold", "call_id": f"CA{number}"},
            labels={"app": "x", "n": str(number)},
        )  # fmt: skip
    core.clock.advance(1.0)
    await core.call("session.end", session_id="s3")
    found, cursor = [], None
    while True:
        page = await core.call("session.list_active", limit=2, **({"cursor": cursor} if cursor else {}))
        found += page["session_ids"]
        cursor = page.get("next_cursor")
        if cursor is None:
            break
    assert found == ["s0", "s1", "s2", "s4", "s5", "s6"]

    async def ids(**wanted: Any) -> list[str]:
        return [found["session"]["id"] for found in (await core.call("session.list", **wanted))["sessions"]]

    assert await ids(status="active") == ["s1", "s5"]
    assert await ids(status="ended") == ["s3"]
    assert await ids(provider="sip") == []
    assert await ids(call_id="CA4") == ["s4"]
    assert await ids(labels={"app": "x", "n": "2"}) == ["s2"]
    assert await ids(labels={"n": "x"}) == []
    assert await ids(ended_since="2026-01-01T00:00:01Z") == ["s3"]
    assert await ids(ended_since="2026-01-01T00:00:01.000001Z") == []
    assert await ids(ended_since="1970-01-01T00:00:00Z") == ["s3"], "an end at any time"
    assert await ids(ended_since="0001-01-01T00:00:00Z") == ["s3"]
    assert len(await ids(provider="twilio")) == 7
    first = await core.call("session.list", limit=3, status="on_hold")
    rest = await core.call("session.list", status="on_hold", cursor=first["next_cursor"])
    assert len(first["sessions"]) == 3
    assert [found["session"]["id"] for found in rest["sessions"]] == ["s6"]
    assert "history" not in first["sessions"][0]["session"]


async def test_the_last_page_has_no_cursor(core: Core) -> None:
    for name in "ab":
        await core.save(name)
    assert "next_cursor" not in await core.call("session.list_active", limit=2)
    assert "next_cursor" not in await core.call("session.list", limit=2)


async def test_a_page_examines_a_bounded_number_of_sessions(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "LOOKS_A_PAGE", 3)
    for number in range(8):
        await core.save(f"s{number}", session={"status": "on_hold" if number == 7 else "active"})
    pages: list[list[str]] = []
    cursor: dict[str, str] = {}
    while True:
        page = await core.call("session.list", status="on_hold", **cursor)
        pages.append([found["session"]["id"] for found in page["sessions"]])
        if "next_cursor" not in page:
            break
        cursor = {"cursor": page["next_cursor"]}
    assert pages == [[], [], ["s7"]]
    first = await core.call("session.list_active", limit=100)
    assert first["session_ids"] == ["s0", "s1", "s2"]


@pytest.mark.parametrize("method", ["session.list", "session.list_active"])
async def test_a_page_ends_by_its_bytes(core: Core, monkeypatch: pytest.MonkeyPatch, method: str) -> None:
    """Clients may have large heads, and ids of 256 bytes; a page has at least one entry."""
    monkeypatch.setattr(listing, "PAGE_BYTES", 500 if method == "session.list_active" else 3000)
    names = [str(number) * 200 for number in range(1, 8)]
    for name in names:
        await core.save(name, session={"recovery_data": {"blob": "x" * 1000}})
    found: list[list[str]] = []
    cursor: dict[str, str] = {}
    while not found or cursor:
        page = await core.call(method, **cursor)
        shown = page.get("session_ids") or [each["session"]["id"] for each in page["sessions"]]
        found.append(shown)
        cursor = {"cursor": page["next_cursor"]} if "next_cursor" in page else {}
    assert [name for shown in found for name in shown] == names
    assert [len(shown) for shown in found] == ([3, 3, 1] if method == "session.list_active" else [2, 2, 2, 1])


async def test_a_page_ends_by_the_bytes_that_are_read_for_it(core: Core, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where nothing of it is listed; what was read once is not read again for the next page."""
    monkeypatch.setattr(listing, "READ_BYTES_A_PAGE", 2500)
    for number in range(7):
        document = b'{"id":"s%d","status":"active","recovery_data":{"x":"%b"}}' % (number, b"x" * 1000)
        core.memory.put(f"s{number}", document, None)
    for provider, found in (("", [["s0", "s1", "s2"], ["s3", "s4", "s5"], ["s6"]]), ("sip", [[], [], []])):
        pages: list[list[str]] = []
        cursor: dict[str, str] = {}
        while not pages or cursor:
            page = await core.call("session.list", scope="all", provider=provider, **cursor)
            pages.append([each["session"]["id"] for each in page["sessions"]])
            cursor = {"cursor": page["next_cursor"]} if "next_cursor" in page else {}
        assert pages == found


@pytest.mark.parametrize("cursor", ["x", "-1", "1.5", "9" * 20, "", "²"])
async def test_an_invalid_cursor_is_refused(core: Core, cursor: str) -> None:
    await core.save("a")
    error = await refused(InvalidParamsError, core, "session.list", cursor=cursor)
    assert error.data["path"] == "$.params.cursor"


@pytest.mark.parametrize("method", ["session.list", "session.list_active"])
@pytest.mark.parametrize("scope", ["host", "all"])
async def test_a_listing_that_goes_on_after_a_restart_leaves_nothing_out(
    core: Core, method: str, scope: str
) -> None:
    """The places of the sessions in memory are other ones then: the listing begins anew."""
    names = [f"s{number}" for number in range(4)]
    for name in ("gone", *names):
        await core.save(name)
    first = await core.call(method, limit=2, scope=scope)
    await core.call("session.delete", session_id="gone")
    restarted = Core(table=core.replayed(), stream="stream-2")
    listed, cursor = ids_of(first), first["next_cursor"]
    while cursor is not None:
        page = await restarted.call(method, limit=2, scope=scope, cursor=cursor)
        listed += ids_of(page)
        cursor = page.get("next_cursor")
    assert {*names} <= {*listed}
    for other in ("2", "stream-1@2"):  # of a version that named no run, and of another run
        assert ids_of(await restarted.call(method, cursor=other)) == names
    for broken in ("stream-1@x", "@2", "stream-2@-1", "stream-2@stream-2@1"):
        await refused(InvalidParamsError, restarted, method, cursor=broken)


def ids_of(page: dict[str, Any]) -> list[str]:
    return page["session_ids"] if "session_ids" in page else [each["session"]["id"] for each in page["sessions"]]


async def test_sessions_of_all_hosts_come_from_the_store_and_ours_from_memory(core: Core) -> None:
    core.memory.put("theirs", b'{"id":"theirs"}', None)
    for name in ("deleted", "ended", "new", "both"):
        await core.save(name)
    await core.writer.write_round()
    await core.call("session.delete", session_id="deleted")
    await core.call("session.end", session_id="ended")
    await core.save("newest")
    assert core.memory.active == {"theirs", "deleted", "ended", "new", "both"}
    page = await core.call("session.list_active", scope="all", limit=3)
    assert page["session_ids"] == ["new", "both", "newest"], (
        "ours first, in the order in which they came into memory"
    )
    page = await core.call("session.list_active", scope="all", limit=3, cursor=page["next_cursor"])
    assert page == {"session_ids": ["theirs"]}
    core.memory.failure = down
    await refused(StoreUnavailableError, core, "session.list_active", scope="all")
    await refused(InvalidParamsError, core, "session.list_active", scope="some")
