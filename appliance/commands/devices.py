"""`headrace devices` and `headrace device ID`: what people say of devices, changed on a running appliance."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from appliance.commands.options import Config, DataDir
from appliance.settings import Settings, load_settings
from core.errors import BadRequestError
from core.units import parse_duration_ms

if TYPE_CHECKING:
    from devices.registry_client import RegistryClient

T = TypeVar("T")

devices = typer.Typer(help="The device registry as a whole: import and export.", no_args_is_help=True)
device = typer.Typer(help="One device of the registry.", no_args_is_help=True, subcommand_metavar="COMMAND")

CsvFile = Annotated[Path, typer.Argument(metavar="FILE", help="CSV file; `-`: standard input or output.")]


def register(app: typer.Typer) -> None:
    """Add the commands."""
    app.add_typer(devices, name="devices")
    app.add_typer(device, name="device")


def _on_registry(settings: Settings, use: Callable[[RegistryClient], Awaitable[T]]) -> T:
    """What `use` comes to, with the registry of the running appliance. Raises UnavailableError when none runs."""
    from core.channel import ChannelClient  # here: no other command needs them
    from devices.registry_client import RegistryClient

    async def run() -> T:
        channel = ChannelClient(settings.data_dir / "run" / "edge.sock")
        try:
            client = RegistryClient(channel.call)
            await client.catch_up()
            return await use(client)
        finally:
            await channel.close()

    return asyncio.run(run())


# -- devices


@devices.command("import")
def import_file(
    file: CsvFile,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would change; write nothing.")] = False,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Set what a CSV file says of devices: the columns it has. With one bad row nothing is written."""
    from devices.registry_csv import CsvError, read_csv
    from devices.registry_import import MAX_IMPORT_BYTES, Imported, carry_out, plan

    settings = load_settings(config, data_dir)
    body = _read(file, MAX_IMPORT_BYTES)

    async def use(client: RegistryClient) -> Imported:
        counts, planned = plan(client.view, rows, max_devices=settings.http.max_devices)
        if not dry_run:
            await carry_out(client, planned)
        return counts

    try:
        rows = read_csv(body, max_rows=settings.http.max_devices)
        counts = _on_registry(settings, use)
    except CsvError as error:
        for one in error.errors[1:]:  # the first is the error itself
            typer.echo(f"note: {one.where}: {one.what}", err=True)
        raise
    begin = "would be: " if dry_run else ""
    typer.echo(f"{begin}{counts.created} created, {counts.changed} changed, {counts.unchanged} unchanged")


@devices.command("export")
def export_file(file: CsvFile, data_dir: DataDir = None, config: Config = None) -> None:
    """Write the registry as a CSV file, for spreadsheets and for `headrace devices import`."""
    from devices.registry import Registered
    from devices.registry_csv import csv_header, csv_lines

    async def use(client: RegistryClient) -> list[Registered]:
        entries: list[Registered] = []
        after: bytes | None = b""
        while after is not None:
            found, after = client.view.page(after=after, limit=1000)
            entries += found
        return entries

    entries = _on_registry(load_settings(config, data_dir), use)
    text = csv_header() + "".join(csv_lines(entries))
    if str(file) == "-":
        sys.stdout.buffer.write(text.encode())
        return
    try:
        file.write_bytes(text.encode())
    except OSError as error:
        raise BadRequestError(f"the file cannot be written: {error.strerror}", where=str(file)) from error
    typer.echo(f"{len(entries)} devices")


def _read(file: Path, max_bytes: int) -> bytes:
    try:
        if str(file) == "-":
            body = sys.stdin.buffer.read(max_bytes + 1)
        else:
            with file.open("rb") as opened:
                body = opened.read(max_bytes + 1)
    except OSError as error:
        raise BadRequestError(f"the file cannot be read: {error.strerror}", where=str(file)) from error
    if len(body) > max_bytes:
        raise BadRequestError(
            f"the file has more than {max_bytes} bytes", where=str(file), mend="import it in several files"
        )
    return body


# -- device


@device.callback()
def _which(
    context: typer.Context, device_id: Annotated[str, typer.Argument(metavar="ID", help="The device id.")]
) -> None:
    context.obj = device_id


@device.command("set")
def set_fields(
    context: typer.Context,
    name: Annotated[str | None, typer.Option("--name", help="Display name.")] = None,
    tag: Annotated[
        list[str] | None, typer.Option("--tag", help="Its tags, in place of those it has. Repeatable.")
    ] = None,
    no_tags: Annotated[bool, typer.Option("--no-tags", help="Take all its tags away.")] = False,
    location: Annotated[str | None, typer.Option("--location", help="Where it stands.")] = None,
    latitude: Annotated[float | None, typer.Option("--latitude", help="Degrees; with --longitude.")] = None,
    longitude: Annotated[float | None, typer.Option("--longitude", help="Degrees; with --latitude.")] = None,
    interval: Annotated[
        str | None,
        typer.Option("--interval", metavar="TIME", help="Time between two readings, such as 10s; 0: not told."),
    ] = None,
    unit: Annotated[
        list[str] | None,
        typer.Option("--unit", metavar="FIELD=UNIT", help="Unit of a field; empty: none. Others stay. Repeatable."),
    ] = None,
    notes: Annotated[str | None, typer.Option("--notes", help="Free text.")] = None,
    data_dir: DataDir = None,
    config: Config = None,
) -> None:
    """Set what is given and leave the rest; an empty text empties a field."""
    from devices.registry_entry import RegistryRow, device_key

    patch: dict[str, Any] = {
        "name": name,
        "tags": [] if no_tags else tag or None,
        "location": location,
        "position": _position(latitude, longitude),
        "units": dict(map(_unit, unit)) if unit else None,
        "notes": notes,
    }
    patch = {field: value for field, value in patch.items() if value is not None}
    if interval is not None:
        patch["expected_interval_ms"] = _interval_ms(interval)
    if not patch:
        raise BadRequestError("nothing to set", where="headrace device ID set", mend="give --name, --tag or others")
    key = device_key(context.obj)

    async def use(client: RegistryClient) -> RegistryRow:
        return await client.patch(key, patch)

    row = _on_registry(load_settings(config, data_dir), use)
    typer.echo(f"{context.obj}: version {row.revision}")


def _position(latitude: float | None, longitude: float | None) -> dict[str, float] | None:
    if (latitude is None) != (longitude is None):
        raise BadRequestError("--latitude and --longitude belong together", where="headrace device ID set")
    return None if latitude is None or longitude is None else {"latitude": latitude, "longitude": longitude}


def _unit(text: str) -> tuple[str, str | None]:
    field, equals, unit = text.rpartition("=")
    if not equals:
        raise BadRequestError(f"{text[:80]!r} is no field and unit", where="--unit", mend="such as temperature=°C")
    return field, unit or None


def _interval_ms(text: str) -> int | None:
    try:
        return parse_duration_ms(text) or None
    except ValueError as error:
        raise BadRequestError(str(error), where="--interval") from error


@device.command("forget")
def forget(context: typer.Context, data_dir: DataDir = None, config: Config = None) -> None:
    """Remove the device's entry from the registry; its readings stay."""
    from devices.registry_entry import device_key

    key = device_key(context.obj)

    async def use(client: RegistryClient) -> None:
        await client.remove(key)

    _on_registry(load_settings(config, data_dir), use)
    typer.echo(f"{context.obj}: forgotten")
