"""Creating a state file with the right owner and modes, and saying who may open one that we cannot.

Rules this file keeps:

* Only the worker creates. A producer that made a missing file would publish into an empty queue that nobody reads.
* SQLite gives ``-wal`` and ``-shm`` the modes of the main file; their group comes from the folder's setgid bit.
* A folder that was there before is changed only if it is ours and holds nothing but our own files: a file in ``/tmp``
  or ``/var/lib`` must never change those.
* The database file is never opened and closed here once it exists: closing any descriptor of it would drop the locks
  that SQLite holds for this process (POSIX locks belong to the process, not to the descriptor).
"""

from __future__ import annotations

import grp
import logging
import os
import pwd
import stat
from dataclasses import dataclass
from pathlib import Path

from greenworker.errors import StateFolderError

logger = logging.getLogger(__name__)

FOLDER_MODE, FILE_MODE = 0o750, 0o640
GROUP_FOLDER_MODE, GROUP_FILE_MODE = 0o2770, 0o660
WAKE_SUFFIX = ".wake"


@dataclass(frozen=True, slots=True)
class Purpose:
    """What a file is for, as errors say it; ``setting`` is where its path comes from."""

    name: str
    setting: str


BROKER_FILE = Purpose("embedded broker", "[broker] url")
RESULTS_FILE = Purpose("results store", "[results] url")


def wake_folder(path: Path) -> Path:
    """Where the bells of those who wait at ``path`` stand."""
    return path.with_name(path.name + WAKE_SUFFIX)


def create_files(path: Path, purpose: Purpose, file_group: str | None) -> None:
    """Make the folder, the file and the wake folder where missing, and open them to ``file_group`` if one is named.

    Raises StateFolderError, saying what stands in the way.
    """
    try:
        gid = None if file_group is None else grp.getgrnam(file_group).gr_gid
    except KeyError:
        raise StateFolderError(f"[broker] file_group: there is no group {file_group!r} on this machine") from None
    try:
        _create_folder(path.parent, gid)
        _create_file(path, gid)
        _create_folder(wake_folder(path), gid)
    except OSError as exc:
        if gid is not None and isinstance(exc, PermissionError) and gid not in {os.getegid(), *os.getgroups()}:
            raise StateFolderError(
                f"{purpose.name}: user {_user(os.geteuid())} cannot give {path} to group {file_group!r} "
                f"([broker] file_group), being no member of it; add the user to the group, or unset file_group"
            ) from exc
        raise StateFolderError(f"{cannot_open(path, purpose, str(exc.strerror))}") from exc


def _create_folder(folder: Path, gid: int | None) -> None:
    mode = FOLDER_MODE if gid is None else GROUP_FOLDER_MODE
    try:
        folder.mkdir(mode=mode & 0o777, parents=True)
    except FileExistsError:
        if gid is not None:
            _open_folder(folder, gid)
        return
    _grant(folder, gid, mode)


def _open_folder(folder: Path, gid: int) -> None:
    """Let the group into a folder that existed, if it is ours alone; otherwise say what is missing."""
    status = folder.stat()
    wanted = stat.S_ISGID | stat.S_IRWXG
    if status.st_gid == gid and status.st_mode & wanted == wanted:
        return
    ours = status.st_uid == os.geteuid() and all(_is_ours(entry.name) for entry in folder.iterdir())
    if ours:
        _grant(folder, gid, GROUP_FOLDER_MODE)
    else:
        group = grp.getgrgid(gid).gr_name
        logger.warning(
            "Group %s cannot produce: %s is %s, and holds other files too, so it is left as it is. "
            "Mend it with: chgrp %s %s && chmod 2770 %s",
            *(group, folder, describe(folder), group, folder, folder),
        )


def _is_ours(name: str) -> bool:
    return name.removesuffix("-wal").removesuffix("-shm").removesuffix(WAKE_SUFFIX).endswith((".db", ".sqlite"))


def _create_file(path: Path, gid: int | None) -> None:
    mode = FILE_MODE if gid is None else GROUP_FILE_MODE
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, mode)
    except FileExistsError:
        status = path.stat()
        if (
            gid is not None
            and status.st_uid == os.geteuid()
            and (status.st_gid != gid or status.st_mode & 0o777 != mode)
        ):
            _grant(path, gid, mode)
        return
    try:
        if gid is not None:
            os.fchown(descriptor, -1, gid)
        os.fchmod(descriptor, mode)
    finally:
        os.close(descriptor)


def _grant(path: Path, gid: int | None, mode: int) -> None:
    # Only what differs: a hardened service may not set the setgid bit (RestrictSUIDSGID), a folder in one inherits it.
    if gid is not None and path.stat().st_gid != gid:
        os.chown(path, -1, gid)
    if stat.S_IMODE(path.stat().st_mode) != mode:
        path.chmod(mode)  # after chown, which may clear the setgid bit; not left to the umask


def check_access(path: Path, purpose: Purpose) -> None:
    """Raise StateFolderError unless this process may read and write an existing file at ``path``."""
    try:
        exists = path.exists()
    except PermissionError as exc:
        raise StateFolderError(cannot_open(path, purpose, "permission denied")) from exc
    if not exists:
        raise StateFolderError(
            f"{purpose.name}: {path} does not exist, and only the worker creates it. Start the worker first, or name "
            f"its file in {purpose.setting} (GREENWORKER_CONFIG names the INI file that the service uses)"
        )
    if not os.access(path, os.R_OK | os.W_OK, effective_ids=True):
        raise StateFolderError(cannot_open(path, purpose, "permission denied"))
    if not os.access(path.parent, os.W_OK | os.X_OK, effective_ids=True):  # SQLite makes -wal and -shm beside it
        raise StateFolderError(cannot_open(path, purpose, "its folder is not writable"))


def cannot_open(path: Path, purpose: Purpose, reason: str) -> str:
    """One line: which file, as which user, who owns it, and how to mend it."""
    return (
        f"{purpose.name}: cannot open {path} as user {_user(os.geteuid())}: {reason}; {_nearest(path)}. Join the group "
        f"that [broker] file_group of the worker names, or name another file in {purpose.setting} "
        f"(GREENWORKER_CONFIG names the INI file that the service uses)"
    )


def describe(path: Path) -> str:
    """``user:group, mode 0640`` of what is at ``path``. Raises OSError."""
    status = path.stat()
    return f"{_user(status.st_uid)}:{_group(status.st_gid)}, mode {stat.S_IMODE(status.st_mode):04o}"


def _nearest(path: Path) -> str:
    """The owner and mode of the file, or of the first folder above it that can be seen."""
    for place in (path, *path.parents):
        try:
            return f"{place} belongs to {describe(place)}"
        except OSError:
            continue
    return "nothing on the way to it can be read"


def _user(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _group(gid: int) -> str:
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return str(gid)
