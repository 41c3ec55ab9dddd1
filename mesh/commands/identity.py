"""`mesh init | invite | authority | join | members | revoke | rotate | publish`: who is in a mesh.

Each is a few lines over `persistence.office`, `mesh.admission` or `mesh.publishing`.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import sys
from collections.abc import Coroutine
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

import typer
from rich.console import Console
from rich.table import Table

from crdt.errors import CallerError, MeshError
from mesh.admission import admitting
from mesh.admission import join as join_mesh
from mesh.publishing import publish as publish_roster
from mesh.settings import split_address
from persistence.identity import (
    Authority,
    PassphraseNeeded,
    create_genesis,
    open_authority,
)
from persistence.invitations import Invitation, Member, Token
from persistence.office import Office
from persistence.roster import Roster

__all__ = ("add_identity_commands",)

Result = TypeVar("Result")
VARIABLE: Final = "STATEMESH_PASSPHRASE"
LOOK_S: Final = 1.0
_UNITS: Final = {"s": 1, "m": 60, "h": 3_600, "d": 86_400, "w": 604_800, "y": 31_536_000}
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)

Place = Annotated[Path, typer.Argument(metavar="DIR", help="The authority's folder.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON object instead of text.")]
PassphraseFile = Annotated[
    Path | None,
    typer.Option(
        "--passphrase-file", metavar="FILE",
        help=f"Holds the passphrase of the authority's key; else {VARIABLE}, else it is asked for.",
    ),
]  # fmt: skip
Tell = Annotated[
    list[str] | None,
    typer.Option("--to", metavar="HOST:PORT", help="Tell this running replica; repeatable."),
]


def add_identity_commands(app: typer.Typer) -> None:
    """Add the commands of this file."""
    for command, example in (
        (init, "mesh init authority --name fleet"),
        (invite, "mesh invite authority --uses 3 --address 10.0.0.5:7401"),
        (authority, "mesh authority authority --listen 0.0.0.0:7401"),
        (join, 'mesh join "$TOKEN" agent-a'),
        (members, "mesh members authority --json"),
        (revoke, "mesh revoke authority agent-x --reason stolen --to 10.0.0.7:7400"),
        (rotate, "mesh rotate authority --to 10.0.0.7:7400"),
        (publish, "mesh publish authority 10.0.0.7:7400"),
    ):
        app.command(command.__name__, epilog=f"Example: {example}")(command)


def init(
    folder: Place,
    name: Annotated[str, typer.Option("--name", help="What the mesh is called.")],
    shards: Annotated[
        int, typer.Option(help="Into how many parts its state falls; for ever.")
    ] = 16,
    passphrase_file: PassphraseFile = None,
    passphrase: Annotated[
        bool, typer.Option("--passphrase", help="Ask for a passphrase for the authority's key.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Found a mesh: its authority, which lets replicas in.

    The authority's key is encrypted if there is a passphrase (from --passphrase-file,
    STATEMESH_PASSPHRASE, or asked for with --passphrase); else the mode of its file protects it.
    """
    secret = _given(passphrase_file)
    if passphrase and not secret:
        secret = typer.prompt("New passphrase", hide_input=True, confirmation_prompt=True).encode()
    mesh = create_genesis(folder, name, shards, passphrase=secret).mesh
    facts = {"mesh": mesh.name, "mesh_id": mesh.id.hex(), "shards": mesh.shards,
             "folder": str(folder.absolute()), "encrypted": bool(secret)}  # fmt: skip
    if as_json:
        _print_json(facts)
        return
    _print(f"{mesh} founded, {mesh.shards} shards; its authority is {folder}: keep it safe")
    _say(f"next: mesh invite {folder} --address HOST:PORT, and mesh authority {folder}")


def invite(
    folder: Place,
    role: Annotated[str, typer.Option(help="member, or observer (reads only).")] = "member",
    ttl: Annotated[str, typer.Option(help="How long it can be used: 90s, 15m, 8h, 2d.")] = "1d",
    uses: Annotated[int, typer.Option(help="How many replicas may join with it.")] = 1,
    address: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Where the authority answers; repeatable."),
    ] = None,
    valid: Annotated[str, typer.Option(help="How long certificates count: 30d, 1y.")] = "1y",
    no_snapshots: Annotated[
        bool, typer.Option("--no-snapshots", help="Others don't take whole shards from it.")
    ] = False,
    withdraw: Annotated[
        str, typer.Option(metavar="ID", help="End an invitation instead (`members --json`).")
    ] = "",
    as_json: AsJson = False,
) -> None:
    """Make a token that lets replicas join. Hand it over as you would a password."""
    if withdraw:
        Office(folder).withdraw(withdraw)
        if as_json:
            _print_json({"withdrawn": withdraw})
        else:
            _print(f"invitation {withdraw} admits nobody any more")
        return
    for one in address or []:
        _checked_address(one)
    token = Office(folder).invite(
        role=role, snapshots=not no_snapshots, ttl_ms=_duration_ms(ttl), uses=uses,
        lasts_ms=_duration_ms(valid), addresses=address or [],
    )  # fmt: skip
    if as_json:
        _print_json({"token": token.text(), "invitation": token.invitation.hex(), "role": role,
                     "uses": uses, "expires": _time(token.expires_ms)})  # fmt: skip
        return
    _print(token.text())
    if not address:
        _say(
            "it names no address: give --address HOST:PORT of `mesh authority`, or nobody can join"
        )


def authority(
    folder: Place,
    listen: Annotated[str, typer.Option(metavar="HOST:PORT", help="Where to answer.")] = (
        "127.0.0.1:7401"
    ),
    member: Annotated[
        list[str] | None,
        typer.Option(metavar="HOST:PORT", help="Tell this replica of every change; repeatable."),
    ] = None,
    passphrase_file: PassphraseFile = None,
    as_json: Annotated[bool, typer.Option("--json", help="A line of JSON for each event.")] = False,
) -> None:
    """Let invited replicas join, until interrupted. Other commands may be used meanwhile."""
    office, opened = Office(folder), _open(folder, passphrase_file)

    def tell(what: str, who: str, detail: str) -> None:
        if as_json:
            line = json.dumps({"event": what, "who": who, "detail": detail})
            _print(line, flush=True)
        else:
            _print(f"{what} {who}: {detail}", flush=True)

    _run(_serve(office, opened, listen, member or [], tell))


async def _serve(
    office: Office, opened: Authority, listen: str, told: list[str], tell: Any
) -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    async with admitting(office, opened, listen, tell) as address:
        tell("listening", address, f"for {office.genesis}")
        telling = asyncio.create_task(_tell_members(office, opened, told, tell))
        ending = asyncio.create_task(ended.wait())
        await asyncio.wait([telling, ending], return_when=asyncio.FIRST_COMPLETED)
        for task in (telling, ending):
            task.cancel()
        await asyncio.wait([telling, ending])
        if not telling.cancelled():
            telling.result()  # it only ends by itself where the folder can't be read


async def _tell_members(office: Office, opened: Authority, told: list[str], tell: Any) -> None:
    """Tell these replicas every new roster, for ever."""
    knows = dict.fromkeys(told, 0)
    failed: dict[str, str] = {}
    while True:
        version = (await asyncio.to_thread(office.roster))[0].version
        for one in [one for one, known in knows.items() if known < version]:
            try:
                name = await publish_roster(office, opened, one)
            except MeshError as error:  # tried again; said once for each reason
                if failed.get(one) != str(error):
                    failed[one] = str(error)
                    tell("failed", one, str(error))
                continue
            knows[one] = version
            tell("told", name, f"roster {version}")
        await asyncio.sleep(LOOK_S)


def join(
    token: Annotated[
        str, typer.Argument(help="What `mesh invite` printed; - reads it from stdin.")
    ],
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The new replica's data folder.")],
    name: Annotated[str, typer.Option(help="Its name; default: the folder's.")] = "",
    as_json: AsJson = False,
) -> None:
    """Join a mesh: the folder is a replica's from then on.

    Joining again in the same folder is the same replica: it changes nothing, and renews a
    certificate that is about to expire.
    """
    text = sys.stdin.readline() if token == "-" else token  # noqa: S105 - a file's usual name
    chosen = name or folder.absolute().name
    joined = _run(join_mesh(Token.parse(text), folder, chosen))
    identity, certified = joined.identity, joined.identity.certified
    if as_json:
        _print_json({"replica": identity.replica, "mesh": identity.mesh.name,
                     "mesh_id": identity.mesh.id.hex(), "role": certified.role,
                     "snapshots": certified.gives_snapshots, "fresh": joined.fresh,
                     "expires": _time(certified.expires_ms)})  # fmt: skip
        return
    again = "" if joined.fresh else " (again)"
    _print(
        f"{identity.replica} is {certified.role} of {identity.mesh}{again}, until "
        f"{_time(certified.expires_ms)}"
    )


def members(folder: Place, as_json: AsJson = False) -> None:
    """List who has joined, and who was revoked; with --json the invitations, too."""
    office = Office(folder)
    found, roster = office.members(), office.roster()[0]
    if as_json:
        rows = [_row(one) for one in found]
        _print_json({"mesh": office.genesis.name, "mesh_id": office.genesis.id.hex(),
                     "roster": roster.version, "seals": roster.seals,
                     "keys": sorted(roster.keys), "members": rows,
                     "invitations": [_invited(one) for one in office.invitations()]})  # fmt: skip
        return
    title = f"{office.genesis}, roster {roster.version}, key {roster.seals} seals"
    table = Table("replica", "role", "snapshots", "joined", "expires", "revoked", title=title)
    for one in found:
        revoked = f"{_time(one.revoked_ms)} {one.reason}" if one.revoked_ms is not None else ""
        gives = "yes" if one.snapshots else "no"
        table.add_row(
            one.name, one.role, gives, _time(one.issued_ms), _time(one.expires_ms), revoked
        )
    Console(soft_wrap=not sys.stdout.isatty()).print(table)


def revoke(
    folder: Place,
    name: Annotated[str, typer.Argument(help="Whose certificates count no more.")],
    reason: Annotated[str, typer.Option(help="Why, for people.")] = "",
    to: Tell = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Put a replica out of the mesh: nobody links with it once the roster has reached them.

    What it wrote stays. Run `mesh rotate` too, so that it cannot read what is written from now on.
    """
    office, opened = Office(folder), _open(folder, passphrase_file)
    roster = office.revoke(name, reason, opened)
    _report(f"{name} is revoked", roster, office, opened, to, folder, as_json)


def rotate(
    folder: Place,
    to: Tell = None,
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Make a new mesh key, which all replicas seal with as soon as they have it.

    Old keys stay, to open what was sealed with them.
    """
    office, opened = Office(folder), _open(folder, passphrase_file)
    roster = office.rotate(opened)
    _report(f"key {roster.seals} seals from now on", roster, office, opened, to, folder, as_json)


def publish(
    folder: Place,
    address: Annotated[list[str], typer.Argument(metavar="HOST:PORT...")],
    passphrase_file: PassphraseFile = None,
    as_json: AsJson = False,
) -> None:
    """Tell running replicas the newest roster, with the mesh keys in it. One is enough."""
    office, opened = Office(folder), _open(folder, passphrase_file)
    roster = office.roster()[0]
    _report(f"roster {roster.version}", roster, office, opened, address, folder, as_json)


def _report(
    what: str, roster: Roster, office: Office, opened: Authority, to: list[str] | None,
    folder: Path, as_json: bool,
) -> None:  # fmt: skip
    """Tell whom there is to tell, and say what was done."""
    told = [_run(publish_roster(office, opened, _checked_address(one))) for one in to or []]
    if as_json:
        _print_json({"roster": roster.version, "seals": roster.seals,
                     "revoked": sorted(one.name for one in roster.revoked.values()),
                     "told": told})  # fmt: skip
        return
    _print(f"{what}; told: {', '.join(told) or 'nobody'}")
    if not told:
        _say(f"next: mesh publish {folder} HOST:PORT of any running replica; it tells the others")


def _row(member: Member) -> dict[str, Any]:
    revoked = None if member.revoked_ms is None else _time(member.revoked_ms)
    return {"name": member.name, "role": member.role, "snapshots": member.snapshots,
            "serial": member.serial, "joined": _time(member.issued_ms),
            "expires": _time(member.expires_ms), "revoked": revoked,
            "reason": member.reason}  # fmt: skip


def _invited(invitation: Invitation) -> dict[str, Any]:
    return {"id": invitation.id, "role": invitation.role, "snapshots": invitation.snapshots,
            "uses_left": invitation.uses_left, "expires": _time(invitation.expires_ms),
            "withdrawn": invitation.withdrawn}  # fmt: skip


def _open(folder: Path, passphrase_file: Path | None) -> Authority:
    """The authority, with the passphrase from file, variable or terminal if it needs one."""
    secret = _given(passphrase_file)
    try:
        return open_authority(folder, secret)
    except PassphraseNeeded:
        if secret or not sys.stdin.isatty():
            raise
    return open_authority(folder, typer.prompt("Passphrase", hide_input=True, err=True).encode())


def _given(passphrase_file: Path | None) -> bytes:
    if passphrase_file is None:
        return os.environ.get(VARIABLE, "").encode()
    try:
        secret = passphrase_file.read_bytes().rstrip(b"\r\n")
    except OSError as error:
        raise CallerError(f"cannot read the passphrase: {error}") from None
    if not secret:
        raise CallerError(f"{passphrase_file} is empty; put the passphrase on its first line")
    return secret


def _duration_ms(text: str) -> int:
    number, unit = text[:-1], text[-1:]
    if not number.isdecimal() or unit not in _UNITS or not 0 < int(number) <= 10**6:
        raise CallerError(f"{text!r} is not a time; write a number and s, m, h, d, w or y: 8h")
    return min(int(number) * _UNITS[unit] * 1_000, 100 * _UNITS["y"] * 1_000)


def _checked_address(text: str) -> str:
    try:
        split_address(text)
    except ValueError as error:
        raise CallerError(str(error)) from None
    return text


def _time(ms: int | None) -> str:
    return (_EPOCH + timedelta(milliseconds=ms or 0)).isoformat(timespec="seconds")


def _run(work: Coroutine[Any, Any, Result]) -> Result:
    return asyncio.run(work)


def _print(text: str, *, flush: bool = False) -> None:
    print(text, flush=flush)  # noqa: T201


def _say(text: str) -> None:
    print(text, file=sys.stderr)  # noqa: T201


def _print_json(value: Any) -> None:
    print(json.dumps(value, indent=2))  # noqa: T201
