"""The user cache: everything costly, kept by content and never computed twice.

::

    ROOT/                      DREAMPOSE_CACHE, else the user's cache folder
    ├── cache-version          the format's number; another one is refused, never wiped
    ├── subjects/ID/           subject.json and weights, ID = key(photos, base, settings)
    ├── bases/NAME/            trained and imported bases
    ├── poses/KEY.poses        extracted pose sequences
    ├── data/KEY/              prepared training frames
    ├── edits/KEY/             what a model made of a photo and an instruction
    ├── partial/ID/            resumable work on a subject; partial/.tmp-* are writes in flight
    ├── locks/                 one file per lock that is held now
    ├── used/                  one empty file per entry; its time says when the entry was used last
    ├── sums/                  the checksums of an entry's files, as they were published
    ├── places/                one file per subject: the folder of its base on this machine
    ├── trusted-code           the checksums of TorchScript files that may be run
    └── last-subject           the id that `render` takes by default

An entry appears whole or not at all: it is written under partial/ and renamed. Reading never creates anything, so a
read-only cache can be read. Every failure is a StoreError (or a SubjectError) that names the folder and the way out.
"""

from .archive import export_entry, import_entry
from .entries import (
    Entry,
    find_entry,
    find_subject,
    get,
    last_subject,
    list_entries,
    note_place,
    place_of,
    set_last_subject,
)
from .folder import (
    BASE_JSON,
    FOLDERS,
    KINDS,
    SUBJECT_JSON,
    VERSION,
    check,
    ensure,
    file_digest,
    key,
    path_of,
    read_json,
    root,
    storing,
    version,
    within,
    write_json,
)
from .healing import repair, sweep, verify
from .locks import lock
from .pruning import PRUNED_KINDS, clear, prune, remove
from .writing import discard_partial, partial_folder, publish_file, publish_folder, publish_partial, touch

__all__ = [
    "BASE_JSON",
    "FOLDERS",
    "KINDS",
    "PRUNED_KINDS",
    "SUBJECT_JSON",
    "VERSION",
    "Entry",
    "check",
    "clear",
    "discard_partial",
    "ensure",
    "export_entry",
    "file_digest",
    "find_entry",
    "find_subject",
    "get",
    "import_entry",
    "key",
    "last_subject",
    "list_entries",
    "lock",
    "note_place",
    "partial_folder",
    "path_of",
    "place_of",
    "prune",
    "publish_file",
    "publish_folder",
    "publish_partial",
    "read_json",
    "remove",
    "repair",
    "root",
    "set_last_subject",
    "storing",
    "sweep",
    "touch",
    "verify",
    "version",
    "within",
    "write_json",
]
