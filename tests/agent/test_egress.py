"""What iptables is told, and what is said where it is missing. That it holds is shown in tests/integration."""

from __future__ import annotations

import pytest

from agent_worker.runtimes import programs
from agent_worker.runtimes.egress import Egress, rules
from agent_worker.runtimes.programs import ProgramFailed, run


def test_what_is_allowed_stands_before_what_is_refused() -> None:
    lines = rules(["10.0.0.0/16"]).splitlines()
    forward = [line.removeprefix("-A MOORAGE-FORWARD ") for line in lines if line.startswith("-A MOORAGE-FORWARD")]
    answers, *rest = forward
    assert answers == "-m conntrack --ctstate RELATED,ESTABLISHED -j RETURN"
    assert [line.endswith("RETURN") for line in rest] == [True, True, *[False] * (len(rest) - 2)]
    assert rest[2:] == [
        "-o mr+ -j REJECT",
        "-i mr+ -d 169.254.0.0/16 -j REJECT",
        "-i mr+ -p udp -m udp --dport 4789 -j REJECT",
        "-i mr+ -d 10.0.0.0/16 -j REJECT",
        "-i mri+ -j REJECT",
        "-i mrh+ -j REJECT",
    ]
    assert lines[-2:] == ["-A MOORAGE-INPUT -j REJECT", "COMMIT"]


def test_a_missing_program_is_named_with_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(programs, "_PATH", "/nowhere")
    with pytest.raises(ProgramFailed, match="the program ip is missing on this node; install iproute2"):
        run(["ip", "link"], package="iproute2")
    warning = Egress().warning()
    assert warning.startswith("sessions can reach this host and metadata services: the program iptables is missing")


def test_a_program_that_fails_is_quoted() -> None:
    with pytest.raises(ProgramFailed, match="sh -c echo no >&2; exit 3 failed: no"):
        run(["sh", "-c", "echo no >&2; exit 3"], package="a shell")
