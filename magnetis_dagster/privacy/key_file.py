"""Create and read the file with the privacy key of a development home."""

import os
import secrets
from contextlib import suppress
from pathlib import Path

from magnetis_dagster.errors import PermanentError
from magnetis_dagster.privacy.caller_key import InvalidPrivacyKey, PrivacyKeys
from magnetis_dagster.private_files import private_file, private_folder, restrict_to_owner

KEY_FILE = "privacy.key"
"""Name of the file in the home. It has the format of MAGNETIS_PRIVACY_KEY."""


class UnusableKeyFile(PermanentError):
    """The key file cannot be read, or its content is malformed."""


def generate_key(id_: str = "1") -> str:
    """Return a new key in the format of MAGNETIS_PRIVACY_KEY: 256 random bits."""
    return f"{id_}:{secrets.token_urlsafe(32)}"


def load_or_create_key(home: Path) -> PrivacyKeys:
    """Return the keys in the key file of `home`; create the file with mode 600 if it is missing.

    Processes that start at the same time use the same key. A file that others can read is
    restricted to its owner.

    Raises: UnusableKeyFile; ForeignFolder if `home` belongs to another user.
    """
    path = private_folder(home) / KEY_FILE
    if not path.exists():
        fresh = path.with_name(f".{KEY_FILE}.{os.getpid()}.{secrets.token_hex(4)}")
        try:
            with private_file(fresh, os.O_WRONLY | os.O_EXCL) as descriptor:
                os.write(descriptor, f"{generate_key()}\n".encode())
                os.fsync(descriptor)
            # a link fails if another process was faster, and never shows half a file
            with suppress(FileExistsError):
                path.hardlink_to(fresh)
        except OSError as error:
            raise UnusableKeyFile(
                f"The privacy key {path} cannot be created ({error.strerror}). Make the folder "
                "writable, or set MAGNETIS_PRIVACY_KEY."
            ) from None
        finally:
            fresh.unlink(missing_ok=True)
    return read_key_file(path)


def read_key_file(path: Path) -> PrivacyKeys:
    """Return the keys in a file. Raises: UnusableKeyFile, which names the file."""
    try:
        with suppress(PermissionError):
            restrict_to_owner(path)
        return PrivacyKeys.parse(path.read_text(encoding="ascii"))
    except OSError as error:
        problem = error.strerror or type(error).__name__
    except UnicodeDecodeError:
        problem = "expected ASCII text"
    except InvalidPrivacyKey as error:
        problem = str(error)
    raise UnusableKeyFile(
        f"The privacy key {path} is unusable: {problem}. Restore it from your copy: the caller "
        "keys of stored rows do not match those of another key."
    )
