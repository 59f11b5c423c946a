"""The edge processing of the drill: what each message of its mixed devices carries, and the rules for it.

plain   no rule
scaled  scale and offset; beyond VALUE_MAX the quality says bad
band    a deadband with a heartbeat
rare    a minimum interval
win     windows in place of the readings
both    windows beside the readings
"""

SCALE, OFFSET, VALUE_MAX = 0.5, 1.0, 10.0
DEADBAND, HEARTBEAT_S = 1.0, 5.0
INTERVAL_S = 1.0
WINDOW_S = 2
AGGREGATES = ("count", "min", "max", "mean", "last", "stddev")
METRICS = ("plain", "scaled", "band", "rare", "win", "both")
TOPICS = ("devices/+/telemetry", "drill/#", "spBv1.0/#")
FORMATS = ("csv", "influx", "senml-json", "cbor", "msgpack", "struct")
IDENTITY = "drill"
OBSERVED, POLLED, SPARKPLUG = "drill-observed", "drill-polled", "drill/node"

_RULES = {
    "scaled": f"scale = {SCALE}\noffset = {OFFSET}\nvalue_max = {VALUE_MAX}",
    "band": f"deadband = {DEADBAND}\nheartbeat_s = {HEARTBEAT_S}",
    "rare": f"interval_s_min = {INTERVAL_S}",
    "win": f"window_s = {WINDOW_S}\naggregates = {list(AGGREGATES)}",
    "both": f"window_s = {WINDOW_S}\naggregates = {list(AGGREGATES)}\nkeep_raw = true",
}
_OPTIONS = {
    "csv": f'[mappings.csv]\ncolumns = {["ts", *METRICS]}\ntime_format = "ms"\n',
    "influx": '[mappings.influx]\nprecision = "ms"\nmeasurement = "drill"\n',
    "struct": '[mappings.struct]\ntime_unit = "ms"\nfields = [{name = "ts", type = "i64"}, '
    + ", ".join(f'{{name = "{metric}", type = "f64"}}' for metric in METRICS)
    + "]\n",
}


def topic(fmt: str, device: str) -> str:
    """Where a device publishes in a format."""
    return f"drill/{fmt}/{device}"


def gateway_toml(*, resources_port: int, dtls_port: int | None, psk_file: str, oscore_file: str | None = None) -> str:
    """The sections of gateway.toml for the mixed devices. dtls_port: None is no DTLS; oscore_file: nor OSCORE."""
    sections = ['[[mappings]]\ntopic = "devices/{device}/telemetry"\n', "[sparkplug]\nrebirth_interval_s = 0.5\n"]
    sections += [
        f'[[mappings]]\ntopic = "{topic(fmt, "{device}")}"\nformat = "{fmt}"\n{_OPTIONS.get(fmt, "")}'
        for fmt in FORMATS
    ]
    sections += [f'[[process]]\ndevice = "drill-*"\nmetric = "{metric}"\n{rule}\n' for metric, rule in _RULES.items()]
    for device, mode in ((OBSERVED, "observe"), (POLLED, "poll")):
        sections.append(
            f'[[coap.resources]]\nuri = "coap://127.0.0.1:{resources_port}/{device}"\ntopic = "telemetry/{device}"\n'
            f'mode = "{mode}"\nevery_s = 0.5\nsilence_s_max = 3.0\n'
        )
    if dtls_port is not None:
        sections.append(f'[coap.dtls]\nport = {dtls_port}\npsk_file = "{psk_file}"\n')
    if oscore_file is not None:
        sections.append(f'[coap.oscore]\nkeys_file = "{oscore_file}"\n')
    return "\n".join(sections)
