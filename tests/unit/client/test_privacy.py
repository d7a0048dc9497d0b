"""What was said, numbers and recovery data are in no log line, error text, span or repr of the client's."""

from __future__ import annotations

import copy
import logging
import traceback
from pathlib import Path
from typing import Any

import pytest
from redis.exceptions import ResponseError

from callstate_client import CallstateError, MemoryStore, Record, SessionState, Turn
from callstate_client.otel import OpenTelemetry
from callstate_sidecar.stores.redis.errors import describe
from support import privacy
from support.privacy import check_output, private_texts, sent

SAID, NUMBER, KEPT = "mk-said-5d1f", "+447700900123", "mk-kept-82ac"
LINE = (
    b'{"from":"+447700900123","to" : "+447700900124","history":[{"content":"mk-said-5d1f"}],'
    b'"recovery_data":{"step":"mk-kept-82ac","n":1},"provider":"a-provider"}'
)


def state(session_id: str = "c1") -> SessionState:
    """A state with a marker in every private member."""
    made = SessionState(session_id, from_=NUMBER, to=NUMBER, recovery_data={KEPT: KEPT}, extra={"notes": KEPT})
    made.add_turn("user", SAID, extra={"tool_calls": [SAID]})
    return made


def private(text: str) -> bool:
    return any(word in text for word in (SAID, NUMBER, KEPT))


def test_representations_have_nothing_private() -> None:
    whole = state()
    shown: list[Any] = [
        whole, whole.history, whole.history[0], Turn("user", SAID), copy.deepcopy(whole),
        Record(whole, ended_detail={"card": KEPT}), [whole], {"state": whole},
    ]  # fmt: skip
    assert [each for each in map(repr, shown) if private(each)] == []
    assert [each for each in map(str, shown) if private(each)] == []


async def test_whatever_happens_to_a_call_its_logs_and_errors_have_nothing_private(
    caplog: pytest.LogCaptureFixture, collected: list[str]
) -> None:
    caplog.set_level(logging.DEBUG, "callstate")
    said: list[str] = []
    async with MemoryStore(telemetry=OpenTelemetry()) as store:
        other = store.worker("other")
        for session_id in ("refused", "stolen", "ended", "deleted"):
            call = await store.hold(state(session_id)).__aenter__()
            said.append(repr(call))
            turn = call.add_turn("agent", SAID)
            said += [repr(turn), repr(call)]
            await turn
            if session_id != "refused":
                await other.claim(session_id, steal=True)
            if session_id == "ended":
                await other.end(session_id)
            elif session_id == "deleted":
                await other.delete(session_id)
            for change in (
                lambda call=call: call.add_turn("agent", SAID * 1_000_000),
                lambda call=call: call.update(recovery_data={KEPT: KEPT}),
                lambda call=call: call.update(status={SAID: SAID}),
                lambda call=call: call.update(created_at=SAID),
                lambda call=call: call.add_turn("agent", SAID, extra={"timestamp": SAID}),
                lambda call=call: call.amend_last_turn(content=SAID),
                lambda call=call: call.end(detail={KEPT: KEPT}),
            ):
                said.append(await failure(change))
            said.append(await failure(lambda call=call: call.__aexit__(None, None, None)))
        with pytest.raises(CallstateError) as refused:
            await store.save(state("x" * 300))
        said.append("".join(traceback.format_exception(refused.value)))
    assert len([text for text in said if "Error" in text]) > 10
    assert [text for text in [*said, caplog.text, *collected] if private(text)] == []


async def failure(change: Any) -> str:
    """What a user's log has of a change that fails, with its traceback."""
    try:
        outcome = change()
        if outcome is not None:
            await outcome
    except Exception as error:  # noqa: BLE001 - of whatever kind
        return "".join(traceback.format_exception(error)) + repr(error)
    return ""


@pytest.fixture
def collected(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What spans say, as text."""
    from opentelemetry.sdk.trace import ReadableSpan, TracerProvider
    from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult

    texts: list[str] = []

    class Exporter(SpanExporter):
        def export(self, spans: Any) -> SpanExportResult:
            texts.extend(span.to_json() for span in spans if isinstance(span, ReadableSpan))
            return SpanExportResult.SUCCESS

    provider = TracerProvider()
    provider.add_span_processor(SimpleSpanProcessor(Exporter()))
    monkeypatch.setattr("opentelemetry.trace.get_tracer", lambda *_, **__: provider.get_tracer("test"))
    return texts


def test_an_error_of_redis_has_no_arguments() -> None:
    said = f"unknown command 'HSETEX', with args beginning with: '{KEPT}' '{SAID}'"
    assert describe(ResponseError(said)) == "ResponseError: unknown command 'HSETEX'"


# -- the search itself ----------------------------------------------------------------------------------------


def test_texts_of_private_members_are_found_in_whatever_is_around_them() -> None:
    expected = {b"+447700900123", b"+447700900124", b"mk-said-5d1f", b"mk-kept-82ac"}
    assert private_texts(LINE) == expected
    assert private_texts(b"\x00\x07\xff" + LINE + b"\xff\x00") == expected


@pytest.mark.parametrize("text", [SAID, NUMBER, KEPT])
def test_a_daemon_that_logs_something_private_is_found(text: str, short_dir: Path) -> None:
    log = short_dir / "log"
    log.write_text(f"no session {text}\n")
    for socket in (short_dir / "s1", short_dir / "s2"):
        check_output(socket, short_dir / "state", [log])  # nothing is known to be private
    sent(short_dir / "s1", LINE)
    with pytest.raises(AssertionError, match="is private"):
        check_output(short_dir / "s1", short_dir / "state", [log])
    (short_dir / "state").mkdir()
    (short_dir / "state/file").write_bytes(LINE)
    with pytest.raises(AssertionError, match="is private"):
        check_output(short_dir / "s2", short_dir / "state", [log])


def test_a_client_that_logs_something_private_is_found(short_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log = privacy.ClientLog()
    monkeypatch.setattr(privacy, "CLIENT_LOG", log)
    log.handle(logging.LogRecord("callstate_client.x", logging.WARNING, "", 0, "lost %s", (SAID,), None))
    sent(short_dir / "s", LINE)
    with pytest.raises(AssertionError, match="is private"):
        check_output(short_dir / "s", short_dir / "state", [])
