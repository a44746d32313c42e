"""Tokens and paths between the API and an agent's data plane (HTTP on the node).

A token is a JWT (HS256, shared key) bound to one agent, kernel and action, valid for a minute.
GET  /logs/{session_id}/{kernel_id}?follow=0|1&tail=N   text/plain, chunked; `logs`
POST /exec/{session_id}/{kernel_id}  {"command": [...], "timeout_s": 60} -> {"exit_code", "stdout", "stderr"}; `exec`
GET  /stats/{session_id}?since_s=N  the session's kernels here, as NodeStats; `stats`, with the session as kernel
GET  /stats                                            the whole node, as NodeStats; `stats`, with EVERY_KERNEL
GET  /health                                            no token
"""

from __future__ import annotations

import time

from joserfc import jwt
from joserfc.errors import JoseError
from joserfc.jwk import OctKey

from moorage.domain.errors import Unauthenticated

LIFETIME_S = 60
EVERY_KERNEL = "*"  # in the place of a kernel, where all of a node are meant


def issue_token(key: str, *, agent_id: str, kernel_id: str, action: str) -> str:
    now = int(time.time())
    claims = {"aud": agent_id, "sub": kernel_id, "act": action, "iat": now, "exp": now + LIFETIME_S}
    return jwt.encode({"alg": "HS256"}, claims, OctKey.import_key(key))


def check_token(key: str, token: str, *, agent_id: str, kernel_id: str, action: str) -> None:
    """Raises Unauthenticated unless the token is for exactly this agent, kernel and action, and has not expired."""
    try:
        claims = jwt.decode(token, OctKey.import_key(key), algorithms=["HS256"]).claims
    except (JoseError, ValueError):
        raise Unauthenticated("the data plane token is not valid") from None
    wanted = {"aud": agent_id, "sub": kernel_id, "act": action}
    if any(claims.get(name) != value for name, value in wanted.items()):
        raise Unauthenticated("the data plane token is for something else")
    late_s = time.time() - float(claims.get("exp", 0))
    if late_s > 0:
        raise Unauthenticated(f"the data plane token expired {late_s:.0f} s ago by this node's clock")
