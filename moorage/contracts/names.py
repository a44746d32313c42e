"""The names that several processes must agree on: queues, workflow ids, labels, search attributes, channels."""

from __future__ import annotations

from temporalio.common import SearchAttributeKey

CONTROL_QUEUE = "moorage-control"
DEFAULT_GROUP = "default"

STATUS = SearchAttributeKey.for_keyword("MoorStatus")
USER = SearchAttributeKey.for_keyword("MoorUser")
PROJECT = SearchAttributeKey.for_keyword("MoorProject")
RESOURCE_GROUP = SearchAttributeKey.for_keyword("MoorResourceGroup")
AGENT = SearchAttributeKey.for_keyword("MoorAgent")
SEARCH_ATTRIBUTES = (STATUS, USER, PROJECT, RESOURCE_GROUP, AGENT)

# Container labels. Session, kernel and attempt say which life a container belongs to; agent says whose it is, with the
# cluster before it: nodes of two clusters may share a Docker engine.
LABEL_AGENT = "moorage.agent"
LABEL_SESSION = "moorage.session"
LABEL_KERNEL = "moorage.kernel"
LABEL_ATTEMPT = "moorage.attempt"
# A container is ours with all of these; one that was given some of them by hand is not.
LABELS = (LABEL_AGENT, LABEL_SESSION, LABEL_KERNEL, LABEL_ATTEMPT)
LABEL_ON_NODE_LOSS = "moorage.on-node-loss"
LABEL_DEVICES = "moorage.devices"  # ids of the devices that a container holds, with commas between
LABEL_HEALTH = "moorage.health"  # how it is checked, as JSON of moorage.domain.health.HealthCheck
LABEL_IDLE = "moorage.idle"  # an IdlePolicy and the session's name, in JSON
# A container that only holds a network namespace for a session's; its value is the agent.
LABEL_NAMESPACE = "moorage.namespace"
# A Docker network of ours; its value is the agent, or the cluster for a gang's, which has session and attempt too.
LABEL_NETWORK = "moorage.network"
LABEL_UNDERLAY = "moorage.underlay"  # this node's address between nodes, then those of the gang's other nodes


def agent_queue(agent_id: str) -> str:
    return f"moorage-agent-{agent_id}"


def node_label(cluster: str, agent_id: str) -> str:
    """The value of LABEL_AGENT and LABEL_NAMESPACE."""
    return f"{cluster}/{agent_id}"


def session_workflow(session_id: str) -> str:
    return f"session-{session_id}"


def scheduler_workflow(resource_group: str) -> str:
    return f"scheduler-{resource_group}"


def agent_workflow(agent_id: str) -> str:
    return f"agent-{agent_id}"
