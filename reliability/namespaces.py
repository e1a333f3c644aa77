"""Make hosts on one machine from network namespaces and a bridge, as root on Linux."""

from __future__ import annotations

import subprocess

HUB, SUBNET = "maisi-hub", "10.213.0"
HUB_ADDRESS = f"{SUBNET}.1"


def run(*words: str, check: bool = True) -> None:
    """Run a command; raise CalledProcessError if it fails and `check` is true."""
    subprocess.run(words, check=check, capture_output=not check)


class HostNetwork:
    """A namespace for balancer and clients (hub), and namespaces of hosts that connect to it."""

    def __init__(self, hosts: int) -> None:
        """Create the namespaces; `close` removes them."""
        self.hosts = [f"maisi-{number}" for number in range(1, hosts + 1)]
        self.close()
        for name in (HUB, *self.hosts):
            run("ip", "netns", "add", name)
            run("ip", "-n", name, "link", "set", "lo", "up")
        run("ip", "-n", HUB, "link", "add", "bridge", "type", "bridge")
        run("ip", "-n", HUB, "link", "set", "bridge", "up")
        run("ip", "-n", HUB, "addr", "add", f"{HUB_ADDRESS}/24", "dev", "bridge")
        for host, name in enumerate(self.hosts):
            run(*f"ip -n {HUB} link add {name} type veth peer name eth netns {name}".split())
            run(*f"ip -n {HUB} link set {name} master bridge up".split())
            run(*f"ip -n {name} addr add {self.address(host)}/24 dev eth".split())
            run(*f"ip -n {name} link set eth up".split())

    def address(self, host: int) -> str:
        """Return the IP address of a host; the first host is 0."""
        return f"{SUBNET}.{11 + host}"

    def link(self, host: int, state: str) -> None:
        """Set a host's link `down` or `up`."""
        run("ip", "-n", HUB, "link", "set", self.hosts[host], state)

    def close(self) -> None:
        """Remove all namespaces."""
        for name in (*self.hosts, HUB):
            run("ip", "netns", "del", name, check=False)


def command_prefix(name: str) -> list[str]:
    """Return the prefix of a command that runs in a namespace."""
    return ["ip", "netns", "exec", name]
