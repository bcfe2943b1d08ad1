"""What the demo shows: a live table on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import shlex
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from appliance.demo_figures import DemoFigures, figure_line, figure_rows
from appliance.demo_proof import example_command

LINE_INTERVAL_S: Final = 5.0


class DemoScreen:
    """Standard output as the demo uses it."""

    def __init__(self, console: Console | None = None) -> None:
        self._console = console or Console(highlight=False, soft_wrap=True)
        self._live: Live | None = None
        self._last_line_s = float("-inf")

    def say(self, text: str = "") -> None:
        """A line of text, exactly as it is (soft-wrapped: it can be copied)."""
        self._console.print(Text(text))

    def show(self, figures: DemoFigures) -> None:
        """The figures as of now."""
        if self._console.is_terminal:
            self._show_live(figures)
        elif time.monotonic() - self._last_line_s >= LINE_INTERVAL_S:
            self._last_line_s = time.monotonic()
            self.say(figure_line(figures))

    def end_live(self) -> None:
        """Leave the live table as it stands and go on below it."""
        if self._live is not None:
            self._live.stop()
            self._live = None

    def _show_live(self, figures: DemoFigures) -> None:
        table = Table.grid(padding=(0, 2))
        for name, value in figure_rows(figures):
            table.add_row(Text(name, style="dim"), Text(value))
        shown = Group(table, Text(f"{figures.elapsed_s:.0f} s; Ctrl-C ends it in order", style="dim"))
        if self._live is None:
            self._live = Live(shown, console=self._console, refresh_per_second=4)
            self._live.start()
        else:
            self._live.update(shown)


def welcome(hosts: Mapping[str, str], ports: Mapping[str, int], lake: Path, topic: str, log: Path) -> Sequence[str]:
    """Where everything is, and what to try. `hosts` and `ports` by listener: mqtt, tcp, http."""
    url = f"http://{hosts['http']}:{ports.get('http', 0)}"
    lines = ["Headrace is up."]
    if "http" in ports:
        lines.append(f"  console  {url}/")
    if "mqtt" in ports:
        lines.append(f"  MQTT     {hosts['mqtt']}:{ports['mqtt']}")
    if "tcp" in ports:
        lines.append(f"  raw TCP  {hosts['tcp']}:{ports['tcp']}")
    lines += [f"  lake     {lake}", f"  log file {log}", "", "Try:"]
    if "mqtt" in ports:
        message = shlex.quote('{"value": 21.5}')
        where = f"-h {hosts['mqtt']} -p {ports['mqtt']}"
        lines.append(f"  mosquitto_pub {where} -q 1 -t devices/mine/telemetry -m {message}")
    if "http" in ports:
        lines.append(f"  curl -s {url}/api/v1/devices/mine")
    lines += [f"  {example_command(lake, topic)}", ""]
    return lines
