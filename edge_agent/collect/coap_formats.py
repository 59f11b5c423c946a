"""Content-Formats (RFC 7252 12.3): what a CoAP payload says it is, and in which of our formats it may be.

A line of CONTENT_FORMATS is a number and the formats of payloads that bear it, the usual one first. If the format of
the path's mapping in gateway.toml is among them, it is decoded by that, else by the first. Formats that the agent
does not have do not count; a number without any is refused (4.15). A payload without a number, or with 42, "some
bytes", is in its mapping's format.

A new format needs a line here only if it has a number of its own, or shares one (a profile of JSON is 50).
"""

from edge_agent.formats import FORMATS

CONTENT_FORMATS: dict[int, tuple[str, ...]] = {
    0: ("text", "csv", "influx"),
    50: ("json", "senml-json"),
    60: ("cbor", "senml-cbor"),
    110: ("senml-json",),
    112: ("senml-cbor",),
}
OCTET_STREAM = 42
LINK_FORMAT = 40

TAKEN = {
    number: known
    for number, names in CONTENT_FORMATS.items()
    if (known := tuple(name for name in names if name in FORMATS))
}


def formats_of(number: int | None) -> tuple[str, ...] | None:
    """The formats of a payload with this Content-Format, () if that is left to its mapping; None: not taken."""
    return () if number in (None, OCTET_STREAM) else TAKEN.get(number)


def not_taken(number: int) -> str:
    """The sentence for a device whose Content-Format is not taken."""
    taken = ", ".join(f"{taken} ({names[0]})" for taken, names in TAKEN.items())
    return f"Content-Format {int(number)} is not taken; send {taken}, or none for the format of gateway.toml"


def links(paths: list[str]) -> bytes:
    """The document /.well-known/core (RFC 6690): what may be posted under /telemetry, and as what."""
    numbers = " ".join(map(str, TAKEN))
    title = "POST " + ", ".join(f"/{path}" for path in paths)
    telemetry = f'</telemetry>;rt="fieldline.telemetry";ct="{numbers}";title="{title}"'
    return f"{telemetry},</.well-known/core>;ct={LINK_FORMAT}".encode()
