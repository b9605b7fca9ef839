"""A data set from the Hugging Face hub, as a local folder at one commit.

Branches move, so a name such as `main` is resolved to the commit that it points to, and results are tied to that
commit. Whether the hub can be reached is tested by a short connection before anything large is imported: the
client itself retries for minutes, and a name look-up can hang.
"""

import contextlib
import os
import socket
import threading
from pathlib import Path
from urllib.parse import urlsplit

PROBE_SECONDS = 0.8
PROXIES = ("HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY")
OTHERWISE = "use data.source=embedded or local, or download it first on a machine with access"


def snapshot(id: str, revision: str | None) -> tuple[Path, str]:
    """Folder and commit of the data set `id` at `revision` (a commit, tag or branch; None = main)."""
    offline = _is_set("HF_HUB_OFFLINE") or not reachable(os.environ.get("HF_ENDPOINT") or "https://huggingface.co")
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    wanted = f"hub data set {id!r} at {revision or 'main'}"
    try:
        folder = snapshot_download(id, repo_type="dataset", revision=revision, local_files_only=offline)
    except LocalEntryNotFoundError:
        reason = "HF_HUB_OFFLINE is set" if _is_set("HF_HUB_OFFLINE") else "the hub cannot be reached"
        raise ValueError(f"{wanted} is not in the local cache and {reason}: {OTHERWISE}") from None
    except Exception as error:  # a wrong name, no permission, a broken download: many types, several libraries
        raise ValueError(f"{wanted}: {_line(error)}: check data.id and data.revision, or {OTHERWISE}") from error
    return Path(folder), Path(folder).name  # a snapshot's folder is named after its commit


def reachable(endpoint: str) -> bool:
    """Whether something answers at the endpoint. Through a proxy only the client can tell."""
    if any(os.environ.get(name) or os.environ.get(name.lower()) for name in PROXIES):
        return True
    address = urlsplit(endpoint)
    answered: list[bool] = []

    def connect() -> None:
        with contextlib.suppress(OSError, ValueError):
            port = address.port or (80 if address.scheme == "http" else 443)
            socket.create_connection((address.hostname or endpoint, port), timeout=PROBE_SECONDS).close()
            answered.append(True)

    thread = threading.Thread(target=connect, daemon=True)  # because looking up a name has no timeout
    thread.start()
    thread.join(PROBE_SECONDS)
    return bool(answered)


def _is_set(variable: str) -> bool:
    return os.environ.get(variable, "").upper() in ("1", "ON", "YES", "TRUE")


def _line(error: Exception) -> str:
    """The first line of a message, short enough to read."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)[:200]
