"""The exceptions of reading damaged files, besides the system's errors: the readers' own kinds, and a dozen of others."""

import tokenize
import zipfile
import zlib

# numpy reads the head of an array with Python's own parser.
DAMAGED_ARRAY = (ValueError, TypeError, EOFError, SyntaxError, tokenize.TokenError, MemoryError, OverflowError, RecursionError)
DAMAGED = (
    *DAMAGED_ARRAY,
    zipfile.BadZipFile,
    zlib.error,
    KeyError,
    NotImplementedError,
    RuntimeError,
)
