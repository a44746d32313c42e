"""The key pair of a gang: its kernels reach each other by SSH, and nobody else has it."""

from __future__ import annotations

import base64

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_ssh_private_key,
)

FOLDER = "/run/moorage/ssh"
VARIABLE = "MOORAGE_SSH_DIR"
_HOSTS = "main*,sub*"
_CONFIG = f"""Host main* sub*
    IdentityFile {FOLDER}/id_ed25519
    UserKnownHostsFile {FOLDER}/known_hosts
    StrictHostKeyChecking yes
"""


def made() -> bytes:
    """A new private key, in OpenSSH's form."""
    return Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption())


def files(private: bytes) -> dict[str, str]:
    """Path → content in base64. The pair is the host's key too, so that the hosts of the gang are known."""
    public = load_ssh_private_key(private, None).public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    line = public.decode()
    contents = {
        "id_ed25519": private,
        "id_ed25519.pub": f"{line}\n".encode(),
        "authorized_keys": f"{line}\n".encode(),
        "known_hosts": f"{_HOSTS} {line}\n".encode(),
        "config": _CONFIG.encode(),
    }
    return {f"{FOLDER}/{name}": base64.b64encode(content).decode() for name, content in contents.items()}
