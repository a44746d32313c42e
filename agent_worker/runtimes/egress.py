"""What sessions may not reach, as rules of the host's iptables: the host, metadata services, other sessions, overlays.

The rules name our bridges by the beginning of their names, so a start or an end of a session changes none of them, and
all agents of a host share them. They stay when the agent ends, as the containers do.
"""

from __future__ import annotations

from collections.abc import Sequence

from agent_worker.runtimes import overlay
from agent_worker.runtimes.programs import ProgramFailed, run

BRIDGES = "mr"
# The next character says whose a bridge is, and whether what is on it may leave it.
OPEN, INTERNAL, GANG_OPEN, GANG_INTERNAL = "s", "i", "g", "h"
METADATA = "169.254.0.0/16"
_FORWARD, _INPUT = "MOORAGE-FORWARD", "MOORAGE-INPUT"
_DOCKERS = "DOCKER-USER"
_ANSWERS = "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
_PACKAGE = "iptables"


class Egress:
    """`deny`: networks that no session may reach. Blocks for some milliseconds."""

    def __init__(self, deny: Sequence[str] = ()) -> None:
        self._rules = rules(deny)
        self._seen: list[str] = []  # our chains as iptables showed them after they were made

    def ensure(self) -> None:
        """The rules hold. Made anew if somebody took some away. ProgramFailed if they can't be made."""
        present = run(["iptables", "-w", "5", "-S"], package=_PACKAGE).splitlines()
        if not self._seen or _ours(present) != self._seen:
            run(["iptables-restore", "-w", "5", "--noflush"], package=_PACKAGE, input=self._rules)
            present = run(["iptables", "-w", "5", "-S"], package=_PACKAGE).splitlines()
            self._seen = _ours(present)
        docker = _DOCKERS if f"-N {_DOCKERS}" in present else "FORWARD"
        for chain, jump in ((docker, f"-j {_FORWARD}"), ("INPUT", f"-i {BRIDGES}+ -j {_INPUT}")):
            if f"-A {chain} {jump}" not in present:
                run(["iptables", "-w", "5", "-I", chain, "1", *jump.split()], package=_PACKAGE)

    def warning(self) -> str:
        """Empty if the rules hold; else what that means, in words."""
        try:
            self.ensure()
        except ProgramFailed as error:
            return f"sessions can reach this host and metadata services: {error}"
        return ""


def rules(deny: Sequence[str]) -> str:
    """Our two chains, for iptables-restore: refused at once rather than left to time out."""
    ours, own = f"-i {BRIDGES}+", [f"-i {BRIDGES}{kind}+ -o {BRIDGES}{kind}+" for kind in (GANG_OPEN, GANG_INTERNAL)]
    refused = [
        # Into a session from outside of its own bridge. What the host itself sends is not forwarded.
        f"-o {BRIDGES}+",
        f"{ours} -d {METADATA}",
        # Else a session could write frames into the overlays of others.
        f"{ours} -p udp -m udp --dport {overlay.PORT}",
        *(f"{ours} -d {network}" for network in deny),
        *(f"-i {BRIDGES}{kind}+" for kind in (INTERNAL, GANG_INTERNAL)),
    ]
    lines = [
        "*filter",
        f":{_FORWARD} - [0:0]",
        f":{_INPUT} - [0:0]",
        f"-A {_FORWARD} {_ANSWERS}",
        *(f"-A {_FORWARD} {pair} -m physdev --physdev-is-bridged -j RETURN" for pair in own),
        *(f"-A {_FORWARD} {match} -j REJECT" for match in refused),
        f"-A {_INPUT} {_ANSWERS}",
        f"-A {_INPUT} -j REJECT",
        "COMMIT",
    ]
    return "\n".join(lines) + "\n"


def _ours(present: Sequence[str]) -> list[str]:
    return [line for line in present if line.startswith((f"-A {_FORWARD} ", f"-A {_INPUT} "))]
