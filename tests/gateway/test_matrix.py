"""Who may do what, on every route, over HTTP: a hand-written table against what the gateway really allows.

Each asker tries each route on its own thing, on that of somebody in its project, in its domain, and in another domain.
What one may not even see answers 404, what one may see but not do 403; anything else counts as allowed.
"""

from __future__ import annotations

ASKERS = ("root", "mona", "dora", "pia", "ada")
ALL, ALPHA, ONE, OWN, NONE = (
    ("own", "ben", "cleo", "dan"), ("own", "ben", "cleo"), ("own", "ben"), ("own",), (),
)  # fmt: skip

# Whose things each asker may do it on: root, mona, dora, pia, ada.
MAY: dict[str, tuple[tuple[str, ...], ...]] = {
    "session:read": (ALL, ALL, ALPHA, ONE, OWN),
    "session:delete": (ALL, OWN, ALPHA, ONE, OWN),
    "session:logs": (ALL, OWN, ALPHA, ONE, OWN),
    "session:execute": (ALL, OWN, ALPHA, OWN, OWN),
}
