"""Documents as Go's encoding/json writes them from the package's types, and documents that can't be read."""

from __future__ import annotations

import json

GO_DOCUMENTS: dict[str, bytes] = {
    "plain": (
        b'{"id":"%b","created_at":"2024-05-01T10:00:00.123456789Z","updated_at":"2024-05-01T10:00:03.5Z",'
        b'"call_id":"CA1","provider":"twilio","direction":"inbound","from":"+15550001","to":"+15550002",'
        b'"status":"active","history":[{"role":"user","content":"hi \\u003cb\\u003e","timestamp":'
        b'"2024-05-01T10:00:01.987654321Z","duration_ms":900}],"metrics":{"turn_count":1,"interruption_count":0,'
        b'"user_speech_duration_ms":900,"agent_speech_duration_ms":0},"recovery_data":{"step":3}}'
    ),
    "null history": (
        b'{"id":"%b","created_at":"2024-05-01T10:00:00Z","updated_at":"2024-05-01T10:00:00Z","provider":"",'
        b'"direction":"","from":"","to":"","status":"pending","history":null,"metrics":{"turn_count":0,'
        b'"interruption_count":0,"user_speech_duration_ms":0,"agent_speech_duration_ms":0}}'
    ),
    "zero times": (
        b'{"id":"%b","created_at":"0001-01-01T00:00:00Z","updated_at":"0001-01-01T00:00:00Z","provider":"sip",'
        b'"direction":"outbound","from":"","to":"","status":"","history":[{"role":"","content":"","timestamp":'
        b'"0001-01-01T00:00:00Z","duration_ms":0}],"metrics":{"turn_count":0,"interruption_count":0,'
        b'"user_speech_duration_ms":0,"agent_speech_duration_ms":0}}'
    ),
    "offsets": (
        b'{"id":"%b","created_at":"2024-05-01T12:00:00+02:00","updated_at":"2024-05-01T05:00:03.000000001-05:00",'
        b'"provider":"sip","direction":"outbound","from":"a","to":"b","status":"on_hold","history":[],'
        b'"metrics":{"turn_count":0,"interruption_count":2,"user_speech_duration_ms":0,'
        b'"agent_speech_duration_ms":0,"first_response_ms":120,"average_response_ms":340}}'
    ),
}


def go_document(name: str, session_id: bytes = b"go-1") -> bytes:
    """One of `GO_DOCUMENTS`, with this id."""
    return GO_DOCUMENTS[name].replace(b"%b", session_id)


def count_turns(turns: bytes) -> int:
    """The number of these turns (comma-joined, without brackets)."""
    return len(json.loads(b"[%b]" % turns))


UNREADABLE: dict[str, bytes] = {
    "empty": b"",
    "no object": b"[]",
    "cut off": b'{"id":"a"',
    "two": b'{"id":"a"}{}',
    "byte order mark": b'\xef\xbb\xbf{"id":"a"}',
    "no UTF-8": b"\xff",
    "no UTF-8 passed through": b'{"id":"a","extra":"\xff"}',
    "no id": b'{"status":"active"}',
    "id a number": b'{"id":5}',
    "id null": b'{"id":null}',
    "another's": b'{"id":"b"}',
    "another's to Go": b'{"id":"a","ID":"b"}',
    "from null": b'{"id":"a","from":null}',
    "status a number": b'{"id":"a","status":1}',
    "created at no time": b'{"id":"a","created_at":"2026-02-30T00:00:00Z"}',
    "updated at no time": b'{"id":"a","updated_at":""}',
    "NaN": b'{"id":"a","recovery_data":{"x":NaN}}',
    "infinite": b'{"id":"a","x":1e400}',
    "lone surrogate": b'{"id":"a","recovery_data":{"x":"\\ud800"}}',
    "lone surrogate said": b'{"id":"a","history":[{"content":"\\udc00"}]}',
    "recovery data an array": b'{"id":"a","recovery_data":[1]}',
    "recovery data a text": b'{"id":"a","recovery_data":"x"}',
    "history an object": b'{"id":"a","history":{}}',
    "turn null": b'{"id":"a","history":[null]}',
    "role null": b'{"id":"a","history":[{"role":null}]}',
    "turn at no time": b'{"id":"a","history":[{"timestamp":"soon"}]}',
    "half a millisecond": b'{"id":"a","history":[{"duration_ms":1.5}]}',
    "duration of 64 bits": b'{"id":"a","history":[{"duration_ms":9223372036854775808}]}',
    "metrics an array": b'{"id":"a","metrics":[]}',
    "count of 64 bits": b'{"id":"a","metrics":{"turn_count":9223372036854775808}}',
    "deeper than Go reads": b'{"id":"a","recovery_data":' + b'{"a":' * 10_000 + b"1" + b"}" * 10_001,
}
"""Documents that are not accepted as session `a`."""
