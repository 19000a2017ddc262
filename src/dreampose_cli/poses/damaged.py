"""What reading a damaged zip file raises: the zip module's own errors, and a dozen of others."""

import zipfile
import zlib

DAMAGED = (
    zipfile.BadZipFile,
    zlib.error,
    ValueError,
    KeyError,
    TypeError,
    EOFError,
    OverflowError,
    NotImplementedError,
    RuntimeError,  # RecursionError too
)
