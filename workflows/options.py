"""Each timeout and retry policy, with its reason."""

from __future__ import annotations

from datetime import timedelta

from temporalio.common import RetryPolicy

from moorage.contracts import activities as contract

# Database steps are a few milliseconds; PostgreSQL may be restarting, and they must happen: retried for ever.
DATABASE_TIMEOUT = timedelta(seconds=15)
DATABASE_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=5))

# A live agent takes its tasks at once; a restarting one within seconds; a dead one is LOST after 15 s. So a task that
# nobody took for 30 s has no agent.
NODE_PICKUP = timedelta(seconds=30)

# Docker makes a container in 0.3 s; a loaded disk may need a minute.
CREATE_TIMEOUT = timedelta(seconds=120)
# The agent heartbeats every 3 s while it works, so that its death is noticed and the step repeated when it is back.
NODE_HEARTBEAT = timedelta(seconds=12)
CREATE_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=500),
    maximum_interval=timedelta(seconds=5),
    maximum_attempts=5,
    non_retryable_error_types=[
        contract.IMAGE_MISSING,
        contract.IMAGE_PULL_FAILED,
        contract.CREATE_REFUSED,
        contract.KERNEL_STOPPED,
    ],
)

PULL_TIMEOUT = timedelta(hours=2)
# The registry's refusal is final; what is tried again is a dead agent or a broken connection.
PULL_RETRY = RetryPolicy(
    initial_interval=timedelta(seconds=1),
    maximum_attempts=3,
    non_retryable_error_types=[contract.IMAGE_PULL_FAILED],
)

# Docker deletes an image's layers in seconds; some are hundreds of thousands of files.
REMOVE_IMAGE_TIMEOUT = timedelta(minutes=10)

# Stopping takes its grace period and then Docker's own time; it is repeated until it is proven.
DESTROY_MARGIN = timedelta(seconds=60)
DESTROY_RETRY = RetryPolicy(initial_interval=timedelta(seconds=1), maximum_interval=timedelta(seconds=10))

# Docker changes limits in milliseconds; its answer is worth waiting for, since what was held hangs on it.
UPDATE_TIMEOUT = timedelta(seconds=30)
UPDATE_RETRY = RetryPolicy(
    initial_interval=timedelta(milliseconds=500),
    maximum_interval=timedelta(seconds=5),
    maximum_attempts=5,
    non_retryable_error_types=[contract.UPDATE_REFUSED, contract.COMMIT_REFUSED],
)
# All that a container has written is packed into a layer.
COMMIT_TIMEOUT = timedelta(minutes=30)

# A container that ends by itself again and again is started again after 1, 2, 4 … s, and at most so much.
LONGEST_BACK_OFF_S = 300.0
# One that ran for so long has settled: its next end is the first of a new row.
STEADY_S = 300.0

# The node's heartbeats: every 5 s; three missing ones and the node is LOST.
PRESENCE_HEARTBEAT = timedelta(seconds=15)
PRESENCE_TIMEOUT = timedelta(days=3650)
PRESENCE_RETRY = RetryPolicy(maximum_attempts=1)

# Temporal notices a silent node at once. When it was away itself, all nodes seem silent when it is back: an agent tries
# again every 5 s at most, and registers when its old presence is refused. A node's clock may be a few seconds behind.
NOTICED_LATE_S = PRESENCE_HEARTBEAT.total_seconds() + 7
CALLS_AGAIN = timedelta(seconds=15)

# Telling the sessions of a lost node: one signal each.
MESSAGES_TIMEOUT = timedelta(seconds=120)

# The pass loop heartbeats every 2 s. If its worker dies, another one has it after this.
SCHEDULER_HEARTBEAT = timedelta(seconds=6)
SCHEDULER_TIMEOUT = timedelta(days=1)
SCHEDULER_RETRY = RetryPolicy(initial_interval=timedelta(milliseconds=200), maximum_interval=timedelta(seconds=5))
