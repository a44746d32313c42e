"""A cluster on three machines made of network namespaces, to try things by hand. As root, until Ctrl-C.

    .venv/bin/python scripts/three-nodes.py

Says how to reach it. When it ends nothing of it is left. It is what the tests use (tests/support/three_nodes.py).
"""

from __future__ import annotations

import signal
import sys
import tempfile
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from tests.support.three_nodes import ThreeNodes


def main() -> None:
    for number in (signal.SIGTERM, signal.SIGINT):  # in the background Ctrl-C may be ignored
        signal.signal(number, lambda *_: sys.exit())
    with tempfile.TemporaryDirectory(prefix="moorage-three-", ignore_cleanup_errors=True) as folder:
        nodes = ThreeNodes(Path(folder))
        try:
            print(f"export MOORAGE_CONFIG_DIR={nodes.cluster.folder}/client   # for moor")
            for node in nodes.lab.nodes:
                print(
                    f"{node.name}  {node.address}  docker -H {node.socket} ps   {' '.join(node.command('ip', 'addr'))}"
                )
            print(
                "pull a cable:  "
                + " ".join(nodes.lab.switch_command("ip", "link", "set", nodes.lab.nodes[0].cable, "down"))
            )
            print("Ctrl-C ends it", flush=True)
            signal.pause()
        finally:
            nodes.close()


if __name__ == "__main__":
    main()
