"""Settings for personal data in benchmarks: a secret, and no masking by age.

The days of a benchmark are years old. Importing this module sets the variables for this process and
those that it starts.
"""

import os
import tempfile
from pathlib import Path

from magnetis_dagster.privacy.key_file import generate_key
from magnetis_dagster.privacy.plan import CLASSES

_NEVER = "{mask_after: never}"
if "MAGNETIS_PRIVACY_KEY" not in os.environ:
    rules = ", ".join(f"{name}: {_NEVER}" for name in CLASSES)
    path = Path(tempfile.mkdtemp(prefix="magnetis-plan-")) / "magnetis.yaml"
    path.write_text(f"privacy: {{payload: {_NEVER}, classes: {{{rules}}}}}\n", encoding="utf-8")
    os.environ |= {"MAGNETIS_PRIVACY_KEY": generate_key(), "MAGNETIS_CONFIG": str(path)}
VARIABLES = {name: os.environ[name] for name in ("MAGNETIS_PRIVACY_KEY", "MAGNETIS_CONFIG")}
