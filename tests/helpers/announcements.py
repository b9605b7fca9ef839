"""Lines on stderr that say what takes long (`tasks.data.progress`): a slow machine prints them, a fast one does not."""


def without_announcements(stderr: str) -> str:
    lines = stderr.splitlines(keepends=True)
    return "".join(line for line in lines if not (line.startswith("  ") and line.endswith(" ...\n")))
