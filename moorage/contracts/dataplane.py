"""Tokens and paths between the API and an agent's data plane (HTTP and WebSocket on the node).

A token is a JWT (HS256, shared key) bound to one session, kernel, agent and action, valid for two minutes: a stream is
checked when it is opened. SK stands for {session_id}/{kernel_id}.

GET  /logs/SK?follow=1&tail=N&since=STAMP&stamps=1&attempt=N   text/plain, chunked; `logs`
POST /exec/SK      {"command": [...], "timeout_s": 60} -> {"exit_code", "stdout", "stderr"}; `exec`
WS   /terminal/SK?command=…&command=…&tty=1&rows=&cols=&term=   as docs/api.md describes it; `terminal`
GET  /files/SK?path=/a/path    a tar of it; with stat=1 {"name", "size", "mode", "modified", "is_folder"}; `download`
PUT  /files/SK?path=/a/folder  a tar that is unpacked there; `upload`
WS   /ports/SK/{port}          bytes of one TCP connection to that port of the container; `port:{port}`
GET  /stats/{session_id}?since_s=N  the session's kernels here, as NodeStats; `stats`, with the session as kernel
GET  /stats                                            the whole node, as NodeStats; `stats`, with EVERY_KERNEL
GET  /pulls                                            {"items": [PullProgress]}; `pulls`, with EVERY_KERNEL
GET  /health                                            no token
"""

from __future__ import annotations

import time
from typing import Any

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from moorage.domain.errors import Unauthenticated

LIFETIME_S = 120
EVERY_KERNEL = "*"  # in the place of a kernel, where all of a node are meant

# Of WebSockets. A frame of more is refused; of what was sent and not yet taken a peer holds a window at most.
FRAME_BYTES = 1024 * 1024
WINDOW_BYTES = 1024 * 1024
PING_S = 20.0
# A client that reads nothing for so long is let go; one that vanished is found after it.
UNANSWERED_S = 300.0
# How uvicorn serves them, on both sides.
WEBSOCKETS: dict[str, Any] = {
    "ws_max_size": FRAME_BYTES,
    "ws_ping_interval": PING_S,
    "ws_ping_timeout": UNANSWERED_S,
    "ws_per_message_deflate": False,
}


def issue_token(key: str, *, agent_id: str, kernel_id: str, action: str, session_id: str = "") -> str:
    now = int(time.time())
    claims = {"aud": agent_id, "sub": kernel_id, "act": action, "iat": now, "exp": now + LIFETIME_S}
    claims |= {"ses": session_id} if session_id else {}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(key))


def check_token(key: str, token: str, *, agent_id: str, kernel_id: str, action: str, session_id: str = "") -> None:
    """Unauthenticated unless the token is for exactly this agent, session, kernel and action, and has not expired."""
    try:
        claims = jwt.decode(token, OctKey.import_key(key), algorithms=["HS256"]).claims
    except (JoseError, ValueError):
        raise Unauthenticated("the data plane token is not valid") from None
    wanted = {"aud": agent_id, "sub": kernel_id, "act": action, "ses": session_id or None}
    if any(claims.get(name) != value for name, value in wanted.items()):
        raise Unauthenticated("the data plane token is for something else")
    late_s = time.time() - float(claims.get("exp", 0))
    if late_s > 0:
        raise Unauthenticated(f"the data plane token expired {late_s:.0f} s ago by this node's clock")
