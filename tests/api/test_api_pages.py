from __future__ import annotations

import re
from pathlib import Path

import pytest

from api.payload import COMPACT_CHARS, compact, fields
from api.times import relative
from commitlog.base import WriterState
from core.ports import publish_port
from tests.api.api_box import ApiBox


def page(box: ApiBox, path: str = "/") -> str:
    response = box.client.get(path, headers={"Accept": "text/html"})
    assert response.status_code == 200, response.text
    assert response.headers["content-type"] == "text/html; charset=utf-8"
    return response.text


def figure(html: str, label: str) -> str:
    match = re.search(rf"<dt>{label}</dt><dd>(.*?)</dd>", html)
    assert match is not None, html
    return match[1]


def test_an_empty_box_says_what_to_try(box: ApiBox) -> None:
    publish_port(box.run_dir, "mqtt", 41883)
    box.step()
    html = page(box)
    assert "No device has sent anything yet" in html
    assert "mosquitto_pub -p 41883 -q 1 -t devices/press-17/telemetry" in html


def test_devices_and_figures(box: ApiBox) -> None:
    box.edge["metrics"] = "headrace_unsynced_records 4\n"
    box.sink_reports(f'headrace_sink_last_export_timestamp_seconds{{topic="t"}} {box.clock.time_ms() / 1000 - 120}\n')
    box.log.event("press-17", "connected", "s1")
    box.log.reading("press-17", {"ts": 1, "temperature": 21.5, "state": "running"}, time_ms=box.clock.time_ms() - 3000)
    box.log.reading("pump-1")
    box.step()
    html = page(box)
    assert (figure(html, "devices"), figure(html, "connected")) == ("2", "1")
    assert (figure(html, "not yet on disk"), figure(html, "last export")) == ("4", "2 min ago")
    assert 'href="/devices/press-17">press-17</a>' in html
    assert '<span class="state on">connected</span>' in html
    assert '<span class="state off">not connected</span>' in html
    assert "temperature=21.5 state=running</span>" in html
    assert 'datetime="2027-01-15T07:59:57.000Z" title="2027-01-15 07:59:57.000 UTC">3 s ago</time>' in html


def test_figures_that_nobody_tells_are_dashes(box: ApiBox) -> None:
    del box.edge["metrics"]
    box.step()
    html = page(box)
    assert (figure(html, "not yet on disk"), figure(html, "last export")) == ("—", "—")
    assert figure(html, "readings/s") == "—"


def test_the_fragment_is_the_live_part_of_the_page(box: ApiBox) -> None:
    box.log.reading("press-17")
    box.step()
    assert page(box, "/fragments/live").strip() in page(box)
    assert "<html" not in page(box, "/fragments/live")


def test_replaying_is_said(box: ApiBox) -> None:
    box.log.reading("d")
    html = page(box)
    assert "Reading the log from its start · 0 %" in html
    assert figure(html, "connected") == "—"
    assert "No device has sent anything yet" not in html


def test_a_dead_edge_is_said_and_nobody_is_connected(box: ApiBox) -> None:
    box.log.event("d", "connected", "s1")
    box.step()
    box.log.state = WriterState.STALE
    box.step()
    html = page(box)
    assert "The edge process is down" in html
    assert '<span class="state unknown">not known</span>' in html
    assert 'class="state on"' not in html
    assert "The edge process is down" in page(box, "/devices/d")


def test_behind_and_failed_are_said(box: ApiBox) -> None:
    box.step()
    box.clock.now_ms += 60_000
    assert "Readings arrive faster" in page(box)
    box.tail._fail("no run file <x>")
    assert "The log cannot be read" in page(box)
    assert "no run file &lt;x&gt;" in page(box)


def test_search_and_paging_work_without_scripts(box: ApiBox) -> None:
    for number in range(120):
        box.log.reading(f"press {number:03}")
    box.log.reading("pump")
    box.step()
    seen: list[str] = []
    path: str | None = "/?search=press"
    while path is not None:
        html = page(box, path)
        seen += re.findall(r'href="/devices/press%20(\d+)">', html)
        match = re.search(r'href="([^"]+)" rel="next"', html)
        path = match[1].replace("&amp;", "&") if match else None
    assert seen == [f"{number:03}" for number in range(120)]
    nothing = page(box, '/?search="nobody"')
    assert "No device id contains “&#34;nobody&#34;”" in nothing
    assert "121 devices are known" in nothing


def test_what_devices_say_is_never_markup(box: ApiBox) -> None:
    box.log.reading("<b>x</b>", {"<script>": "<img src=x onerror=alert(1)>", "q": "\"'>"})
    box.step()
    for path in ("/", "/devices/%3Cb%3Ex%3C%2Fb%3E"):
        html = page(box, path)
        assert "<b>x" not in html
        assert "<img" not in html
        assert "&lt;img" in html


def test_a_device_page(box: ApiBox) -> None:
    box.log.event("line/4", "connected", "s1", client_id="gw", protocol="mqtt", peer="127.0.0.1:5")
    for number in range(60):
        box.log.reading("line/4", {"n": number})
    box.step()
    html = page(box, "/devices/line%2F4")
    assert "<h1>line/4</h1>" in html
    assert "mqtt · gw · 127.0.0.1:5 · since now" in html
    assert '<th scope="row">n</th><td>59</td>' in html
    assert len(re.findall(r'<td class="number place">', html)) == 50
    assert page(box, "/fragments/devices/line%2F4").strip() in html


def test_a_device_page_stands_while_the_log_cannot_be_scanned(box: ApiBox) -> None:
    box.log.reading("d", {"n": 1})
    box.step()
    with box.pool.reader(), box.pool.reader():
        html = page(box, "/devices/d")
    assert "The log could not be read" in html
    assert '<th scope="row">n</th><td>1</td>' in html


def test_polls_ask_the_edge_at_most_once_a_second(box: ApiBox) -> None:
    asked: list[str] = []
    answer = box.ask

    async def counting(verb: str) -> object:
        asked.append(verb)
        return await answer(verb)

    object.__setattr__(box.services, "ask", counting)
    for _ in range(5):
        page(box, "/fragments/live")
    assert asked == ["metrics"]
    box.clock.now_ms += 1000
    page(box, "/fragments/live")
    assert asked == ["metrics", "metrics"]


def test_pages_load_nothing_from_elsewhere_and_run_nothing_inline(box: ApiBox) -> None:
    box.log.reading("d")
    box.step()
    for path in ("/", "/devices/d"):
        html = page(box, path)
        assert not re.search(r'(src|href)="(https?:)?//', html)
        assert not re.search(r"<script(?![^>]*\bsrc=)", html)
        assert " style=" not in html
        assert not re.search(r"\son[a-z]+=", html)
        for asset in re.findall(r'(?:src|href)="(/static/[^"]+)"', html):
            assert box.client.get(asset).status_code == 200, asset


def test_vendored_assets_carry_their_licence() -> None:
    vendor = Path(__file__).parents[2] / "api" / "static" / "vendor"
    for asset in vendor.glob("*.js"):
        assert asset.with_name(asset.name.replace(".min.js", ".LICENSE")).is_file()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (b'{"device": "d", "ts": 1, "seq": 4, "t": 21.123456789, "ok": true, "n": null}', "t=21.1235 ok=true n=null"),
        (b'{"ts": 1}', "ts=1"),
        (b"{}", ""),
        (b"21.5", "21.5"),
        (b'"on"', "on"),
        (b'[1, {"a": 2}]', '[1,{"a":2}]'),
        (b"plain\n text", "plain text"),
        (b"\xff\xfe", "(2 bytes, not text)"),
        (b"", "(empty)"),
        (b'{"big": 1e300, "exact": 1234567.25}', "big=1e+300 exact=1234567.25"),
        (None, "(large; open the device to see it)"),
    ],
)
def test_compact_readings(value: bytes | None, text: str) -> None:
    assert compact(value) == text


def test_compact_readings_are_cut() -> None:
    assert len(compact(b"x" * 5000)) == COMPACT_CHARS
    assert fields(b"[1]") == []
    assert fields(b"{") == []
    assert fields(b'{"a": {"b": 1}}') == [("a", '{"b":1}')]


@pytest.mark.parametrize(
    ("age_ms", "text"),
    [
        (-5, "now"),
        (999, "now"),
        (1000, "1 s ago"),
        (60_000, "1 min ago"),
        (7_200_000, "2 h ago"),
        (90_000_000, "1 d ago"),
    ],
)
def test_relative_times(age_ms: int, text: str) -> None:
    assert relative(1_000_000_000 - age_ms, 1_000_000_000) == text
