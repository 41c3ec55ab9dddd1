"""Peers on the local network by multicast DNS service discovery (RFC 6762, RFC 6763).

    async with ZeroconfDiscovery(mesh, name="agent-a", now=clock.monotonic) as found:
        await found.announce("192.168.1.7:7400")
        found.addresses()

The service type is `_statemesh._tcp.local.`; the TXT record carries the mesh's id (`mesh`) and the
replica's name (`name`); the instance is called after both, so that meshes don't collide. Anybody on
the network can announce anything: these are hints. An entry lasts as long as its record (two
minutes, unless renewed), and at most `FOUND_MAX` are held.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Final

import ifaddr
from zeroconf import IPVersion, ServiceStateChange, Zeroconf
from zeroconf.asyncio import AsyncServiceBrowser, AsyncServiceInfo, AsyncZeroconf

from crdt.errors import ServiceError
from mesh.settings import split_address

__all__ = ("SERVICE_TYPE", "ZeroconfDiscovery")

SERVICE_TYPE: Final = "_statemesh._tcp.local."
FOUND_MAX: Final = 256
ASK_MS: Final = 3_000
"""How long an instance is asked for its address."""
LIFETIME_S: Final = 300.0
"""What was not heard of again for so long is forgotten, whatever its record said."""
LOOK_S: Final = 60.0
"""How often instances are asked again."""


class ZeroconfDiscovery:
    """`mesh.environment.Discovery`. Needs a network that lets multicast through; where there is
    none it finds nobody. `interfaces`: addresses to use, all by default.
    """

    def __init__(
        self,
        mesh: bytes,
        name: str,
        now: Callable[[], float],
        interfaces: Sequence[str] = (),
    ) -> None:
        self._mesh = mesh.hex()
        self._name = name
        self._now = now
        self._interfaces = list(interfaces)
        self._found: dict[str, tuple[float, list[str]]] = {}
        self._asking: dict[str, asyncio.Task[None]] = {}
        self._zeroconf: AsyncZeroconf | None = None
        self._browser: AsyncServiceBrowser | None = None
        self._again: asyncio.Task[None] | None = None
        self._own: AsyncServiceInfo | None = None

    def __repr__(self) -> str:
        return f"<ZeroconfDiscovery of {self._mesh[:8]}, {len(self._found)} found>"

    async def __aenter__(self) -> ZeroconfDiscovery:
        """Look. Raises ServiceError if there is no network to look on."""
        try:
            if self._interfaces:
                self._zeroconf = AsyncZeroconf(
                    interfaces=self._interfaces, ip_version=IPVersion.V4Only
                )
            else:
                self._zeroconf = AsyncZeroconf(ip_version=IPVersion.V4Only)
        except OSError as error:
            raise ServiceError(f"no multicast here ({error}); set peers.zeroconf = off") from None
        self._browser = AsyncServiceBrowser(
            self._zeroconf.zeroconf, [SERVICE_TYPE], handlers=[self._changed]
        )
        self._again = asyncio.create_task(self._ask_again(), name="zeroconf")
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        await self.close()

    async def announce(self, address: str) -> None:
        """Let others find this replica at `host:port`; on every interface's address where the host
        stands for all of them. Raises ServiceError.
        """
        assert self._zeroconf is not None, "enter it first"
        host, port = split_address(address)
        try:
            packed = [socket.inet_aton(one) for one in await _numeric(host)]
        except OSError:
            raise ServiceError(
                f"{address} can't be announced by zeroconf: listen on, or advertise, IPv4"
            ) from None
        self._own = AsyncServiceInfo(
            SERVICE_TYPE,
            f"{self._instance()}.{SERVICE_TYPE}",
            port,
            addresses=packed,
            properties={"mesh": self._mesh, "name": self._name},
            server=f"{self._instance()}.local.",
        )
        # Names are certified and meshes have random ids: whoever has this one is an older self.
        await self._zeroconf.async_register_service(
            self._own, allow_name_change=False, cooperating_responders=True
        )

    async def close(self) -> None:
        """Take back what was announced, and look no more. Idempotent."""
        zeroconf, self._zeroconf = self._zeroconf, None
        if zeroconf is None:
            return
        tasks = [*self._asking.values(), *([self._again] if self._again else [])]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._browser is not None:
            await self._browser.async_cancel()
        await zeroconf.async_unregister_all_services()
        await zeroconf.async_close()

    def addresses(self) -> list[str]:
        """Of the instances of this mesh, by their names."""
        now = self._now()
        self._found = {name: one for name, one in self._found.items() if one[0] > now}
        return [address for name in sorted(self._found) for address in self._found[name][1]]

    def _instance(self) -> str:
        # A label holds 63 bytes; the certificate knows the whole name.
        return f"{self._mesh[:8]}-{self._name.replace('.', '-')}"[:63]

    def _changed(
        self, zeroconf: Zeroconf, service_type: str, name: str, state_change: ServiceStateChange
    ) -> None:
        del service_type  # the only one we browse for
        if state_change is ServiceStateChange.Removed:
            self._found.pop(name, None)
        elif name.startswith(self._mesh[:8]):
            self._ask(zeroconf, name)

    def _ask(self, zeroconf: Zeroconf, name: str) -> None:
        held = {*self._asking, *self._found}
        if name in self._asking or (name not in held and len(held) >= FOUND_MAX):
            return
        task = asyncio.create_task(self._look_up(zeroconf, name), name=f"zeroconf {name}")
        self._asking[name] = task
        task.add_done_callback(lambda _: self._asking.pop(name, None))

    async def _look_up(self, zeroconf: Zeroconf, name: str) -> None:
        info = AsyncServiceInfo(SERVICE_TYPE, name)
        if not await info.async_request(zeroconf, ASK_MS) or not info.port:
            return
        said = info.decoded_properties
        if said.get("mesh") != self._mesh or said.get("name") in (None, self._name):
            return
        hosts = info.parsed_addresses(IPVersion.V4Only)[:4]
        self._found[name] = (self._now() + LIFETIME_S, [f"{host}:{info.port}" for host in hosts])

    async def _ask_again(self) -> None:
        while True:
            await asyncio.sleep(LOOK_S)
            for name in sorted(self._found):
                if self._zeroconf is not None:
                    self._ask(self._zeroconf.zeroconf, name)


async def _numeric(host: str) -> list[str]:
    """IPv4 addresses of a host. OSError: it has none."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - compared, not listened on
        every = (
            str(ip.ip) for adapter in ifaddr.get_adapters() for ip in adapter.ips if ip.is_IPv4
        )
        return [one for one in every if not one.startswith("127.")]
    loop = asyncio.get_running_loop()
    found = await loop.getaddrinfo(host, None, family=socket.AF_INET, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(info[4][0]) for info in found))
