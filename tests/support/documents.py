"""Documents as Go's encoding/json writes them from the package's types, in every form they take."""

from __future__ import annotations

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
    """One of `GO_DOCUMENTS` under an id."""
    return GO_DOCUMENTS[name].replace(b"%b", session_id)
