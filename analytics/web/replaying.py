"""The part of the page Custody that replays dead letters: choose a gateway's config, try it, replay.

The work is analytics/replay.py's, in a thread; this shows it. A config is a file on the dashboard's machine (option
`--gateway-config`), by name and without showing its text, or a text that somebody pasted. Nothing of it is kept. What
reads a config is handed in (`Mapping`), for analytics knows nothing of the gateway's program. A page that is closed
ends its replay after the group of letters at hand; whoever repeats it goes on from there.
"""

import asyncio
import io
import threading
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from nicegui import ui

from analytics.dead_letters import Filter, printable
from analytics.web import frame
from analytics.web.asking import Asker, may_write
from ingest.clickhouse.client import Client
from telemetry.errors import ConfigError, FieldlineError

if TYPE_CHECKING:
    from analytics.replay import Decode, Decoded, Outcome, Step

Mapping = Callable[[str, str], "tuple[str, Decode]"]
"""From the text of a gateway's config and its name to the gateway's name and its decoder. Raises ConfigError."""

CONFIG_BYTES_MAX = 1_000_000
CONFIGS_MAX = 1000
SHOWN_LETTERS, SHOWN_READINGS = 5, 12
PASTED = ""


@dataclass(frozen=True, slots=True)
class Configs:
    """Where the configs of gateways are, and how to read one."""

    mapping: Mapping
    paths: Sequence[Path] = ()

    def files(self) -> list[Path]:
        """The files there are now; of a folder those that end in .toml."""
        found = [file for path in self.paths for file in (sorted(path.glob("*.toml")) if path.is_dir() else [path])]
        return found[:CONFIGS_MAX]

    def choices(self) -> dict[str, str]:
        """For a list: the file's path -> the gateway and the file's name; at the end the pasted one."""
        found = {}
        for file in self.files():
            try:
                found[str(file)] = f"{self.read(str(file), '')[0]} ({file.name})"
            except ConfigError as error:
                found[str(file)] = f"{file.name} cannot be used: {str(error).splitlines()[0]}"
        return {**found, PASTED: "a config that I paste"}

    def read(self, file: str, pasted: str) -> "tuple[str, Decode]":
        """The gateway and its decoder. Raises ConfigError."""
        if file == PASTED:
            if not pasted.strip():
                raise ConfigError(
                    "There is no config yet. Paste the gateway's config (gateway.toml), or read its file."
                )
            return self.mapping(pasted, "the pasted config")
        path = next((path for path in self.files() if str(path) == file), None)
        if path is None:
            raise ConfigError(f"{file} is not there any more. Choose another config.")
        try:
            with path.open(encoding="utf-8") as opened:
                text = opened.read(CONFIG_BYTES_MAX)
        except (OSError, UnicodeDecodeError) as error:
            raise ConfigError(f"cannot read {path.name}: {error}") from error
        return self.mapping(text, path.name)


class Replaying:
    """The card of one open page."""

    def __init__(self, asker: Asker, configs: Configs, after: Callable[[], Awaitable[None]]) -> None:
        self._asker = asker
        self._configs = configs
        self._after = after
        self._stopping = threading.Event()
        self._may_write = False
        ui.context.client.on_delete(self._stopping.set)
        with ui.element("section").classes("card").props("id=replay"):
            ui.html(
                "<h2>Replay</h2><p class='small soft'>Dead letters are decoded again, with a corrected config of their "
                "gateway. <b>Try it</b> stores nothing and shows which readings would come of them. A letter that was "
                "replayed is not taken again.</p>",
                sanitize=False,
            )
            self._denied = frame.part()
            self._trouble = frame.Trouble()
            with ui.element("div").classes("bar"):
                choices = configs.choices()
                self._file = ui.select(choices, value=next(iter(choices)), label="Config of the gateway")
                self._file.props("outlined dense").classes("grow")
                self._only = ui.input("Which: an id, part of a reason, or empty for all").props("outlined dense")
                self._only.classes("grow")
            with ui.element("div").style("width:100%;display:flex;flex-direction:column;gap:.5rem") as self._paste:
                self._text = ui.textarea("The config (gateway.toml)")
                self._text.props(f'outlined spellcheck=false maxlength={CONFIG_BYTES_MAX} rows=8 input-style="{_CODE}"')
                self._text.style("width:100%")
                ui.html(_FILE.replace("TARGET", str(self._text.id)), sanitize=False)
            self._again = ui.checkbox("Also those that were replayed already; what they gave is replaced")
            with ui.element("div").classes("bar"):
                self._try = frame.button("Try it", lambda: self._run(dry=True))
                self._go = frame.button("Replay", lambda: self._run(dry=False), strong=True)
                self._stop = frame.button("Stop", self._stopping.set)
                self._status = ui.label().classes("small soft").props("role=status")
            self._outcome = frame.part()
        self._paste.bind_visibility_from(self._file, "value", value=PASTED)
        self._running(is_so=False)

    def only(self, id_: str) -> None:
        """Choose one letter."""
        self._only.value = id_
        ui.run_javascript("document.getElementById('replay').scrollIntoView()")
        ui.run_javascript(f"getElement({self._only.id}).$refs.qRef.focus()")

    async def rights(self) -> None:
        """Find out whether the dashboard may store anything, and say what to do if not."""
        self._may_write = await self._asker.act(may_write)
        self._denied.content = "" if self._may_write else _DENIED
        self._running(is_so=False)

    def _running(self, *, is_so: bool) -> None:
        _enable(self._try, not is_so)
        _enable(self._go, not is_so and self._may_write)
        _enable(self._stop, is_so)

    async def _run(self, *, dry: bool) -> None:
        self._stopping.clear()
        self._outcome.content = ""
        async with self._trouble.told():
            gateway, decode = self._configs.read(self._file.value, self._text.value or "")
            chosen = self._chosen(gateway)
            self._running(is_so=True)
            self._status.text = "Reading the dead letters …"
            loop, shown = asyncio.get_running_loop(), list["Decoded"]()

            def seen(step: "Step") -> None:
                shown.extend(step.decoded[: SHOWN_LETTERS - len(shown)])
                loop.call_soon_threadsafe(self._say, f"{step.letters:,} of {step.total:,} letters …")
                if self._stopping.is_set() and step.letters < step.total:
                    raise FieldlineError(
                        f"Stopped after {step.letters:,} of {step.total:,} letters. Press {_NAMES[dry]} again to go on."
                    )

            def work(client: Client) -> "Outcome | None":
                from analytics.replay import replay  # noqa: PLC0415 - pyarrow's 70 MB, with the first replay

                return replay(client, decode, chosen, dry=dry, again=bool(self._again.value), seen=seen)

            try:
                outcome = await self._asker.work(work)
            finally:
                self._running(is_so=False)
                self._status.text = ""
            self._outcome.content = _said(outcome, shown, gateway, dry=dry)
        await self._after()

    def _say(self, text: str) -> None:
        self._status.text = text

    def _chosen(self, gateway: str) -> Filter:
        only = (self._only.value or "").strip()
        if not only.startswith(f"{gateway}/"):
            if only.count("/") >= 2 and only.rpartition("/")[2].isdigit():
                raise FieldlineError(f"{only} is of another gateway; this config is that of {gateway}.")
            return Filter(gateway, reason=only)
        return Filter.of(only)


_NAMES = {True: "Try it", False: "Replay"}
_CODE = "font-family:var(--mono)"
_FILE = (
    '<label class="small soft">or read it from a file: <input type="file" accept=".toml" '
    'onchange="fieldline.read(this, TARGET)"></label>'
)
_DENIED = (
    '<p class="small warn">The dashboard\'s login at ClickHouse may only read, so nothing can be stored from here: '
    "<b>Try it</b> works, <b>Replay</b> does not. Start the dashboard with the URL of a login that may write, or run "
    "<code>fieldline dead-letters replay --config gateway.toml</code> where there is one.</p>"
)


def _enable(button: ui.element, is_so: bool) -> None:
    if is_so:
        button.props(remove="disabled")
    else:
        button.props("disabled")


def _said(outcome: "Outcome | None", shown: "Sequence[Decoded]", gateway: str, *, dry: bool) -> str:
    """What came of it, as the command says it, and the readings of the first letters."""
    if outcome is None:
        return f'<p class="empty">There are no such dead letters of gateway {frame.safe(gateway)} to replay.</p>'
    out = io.StringIO()
    outcome.say(out, dry=dry)
    said = "".join(f"<p>{frame.safe(line)}</p>" for line in out.getvalue().splitlines())
    rows = [row for found in shown for row in _readings(found)]
    if not rows:
        return said
    about = "The first letters:" if outcome.letters > len(shown) else ""
    headings = ("Letter", "Device", "Metric", "Value", "Measured (UTC)")
    return f'{said}<p class="small soft">{about}</p>{frame.table(headings, rows, numbers=(3,))}'


def _readings(found: "Decoded") -> list[tuple[str, ...]]:
    columns, rows = found.columns, []
    for at in range(min(len(columns), SHOWN_READINGS)):
        series = found.series[columns.series[at]]
        value = columns.texts.get(at) or frame.number(columns.value[at])
        measured = datetime.fromtimestamp(columns.measured_at[at] / 1000, UTC)
        cells = (str(found.letter.seq), series.device, series.metric, f"{value} {series.unit}", frame.when(measured))
        rows.append(tuple(frame.safe(printable(cell)) for cell in cells))
    return rows
