"""The one adapter to files: folders of this machine, shared ones, and stores that fsspec reaches.

A path is a `pathlib.Path`, or for a URL (`s3://bucket/run`) a `upath.UPath`, which has the same
methods. Use the functions of this package instead of these methods: they retry, take names
literally and report errors in one way. No function needs a store to rename or to append: a file is
written in one piece, and a folder of several files is complete when its marker exists. The marker
is written last and removed first.

    files.py    read, write, list, remove
    ranges.py   ranges of a file for Arrow (imported by name: it needs pyarrow)
    errors.py   which errors are retried, and the message for the user
    lock.py     exclusive locks; lease.py: those of stores
    hub.py      the Hub's cache on this machine, for hf:// without a network
"""

# ruff: noqa: F401 - names for other modules

from pipeline.storage.errors import (
    DISK_FULL,
    disk_full_as_user_error,
    errors_as_user_error,
    is_remote,
    retry,
    show,
    user_error,
)
from pipeline.storage.files import (
    Listing,
    exists,
    get,
    listing,
    names,
    open_atomic,
    open_path,
    put,
    read_bytes,
    read_many,
    remove,
    remove_folder,
    size,
    write_atomic,
)
from pipeline.storage.lease import LockedError
from pipeline.storage.lock import Lock, LockState, exclusive_lock, read_lock, try_lock
