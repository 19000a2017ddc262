"""What building a wheel adds: the manual page, made from the command line's own declarations."""

import sys
from pathlib import Path

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class ManualPage(BuildHookInterface):
    PLUGIN_NAME = "custom"

    def initialize(self, version, build_data):
        if self.target_name != "wheel" or version == "editable":
            return
        source = str(Path(self.root) / "src")
        sys.path.insert(0, source)
        try:
            from dreampose_cli.cli.manual import page
        finally:
            sys.path.remove(source)
        self.file = Path(self.root) / "build" / "dreampose.1"
        self.file.parent.mkdir(exist_ok=True)
        self.file.write_text(page(), encoding="utf-8")
        build_data["shared_data"][str(self.file)] = "share/man/man1/dreampose.1"
