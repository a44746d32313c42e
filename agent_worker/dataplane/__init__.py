"""What the API reads and does on the node, each call with a token for exactly that. Nothing else listens here."""

from agent_worker.dataplane.app import build

__all__ = ["build"]
