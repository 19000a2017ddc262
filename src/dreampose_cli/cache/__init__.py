"""The user cache: everything costly, kept by content and never computed twice.

::

    ROOT/                      DREAMPOSE_CACHE, else the user's cache folder
    ├── cache-version          the format's number; another one is refused, never wiped
    ├── subjects/ID/           subject.json and weights, ID = key(photos, base, settings)
    ├── bases/NAME/            trained and imported bases
    ├── poses/KEY.poses        extracted pose sequences
    ├── data/KEY/              prepared training frames
    ├── edits/KEY/             what a model made of a photo and an instruction
    ├── partial/ID/            resumable work on a subject
    ├── tmp/                   writes in flight, each in a folder whose lock its process holds
    ├── locks/                 one file per lock that is held now
    ├── used/                  one empty file per entry; its time says when the entry was used last
    ├── sums/                  the checksums of an entry's files, as they were published
    ├── places/                one file per subject: the folder of its base on this machine
    ├── trusted-code           the checksums of TorchScript files that may be run
    └── last-subject           the id that `render` takes by default

An entry appears whole or not at all: it is written under tmp/ and renamed. Reading never creates anything, so a
read-only cache can be read. Every failure is a StoreError (or a SubjectError) that names the folder and the way out.

The cache is an object: `user_cache()` makes the user's from the environment, and everything that reads or writes it is
given it.
"""

from .archive import export_entry, import_entry
from .digests import file_digest, key
from .entries import Entry, read_json
from .folder import BASE_JSON, FOLDERS, KINDS, SUBJECT_JSON, VERSION
from .healing import repair, verify
from .pruning import PRUNED_KINDS, clear, prune, remove
from .store import Cache, user_cache

__all__ = [
    "BASE_JSON",
    "FOLDERS",
    "KINDS",
    "PRUNED_KINDS",
    "SUBJECT_JSON",
    "VERSION",
    "Cache",
    "Entry",
    "clear",
    "export_entry",
    "file_digest",
    "import_entry",
    "key",
    "prune",
    "read_json",
    "remove",
    "repair",
    "user_cache",
    "verify",
]
