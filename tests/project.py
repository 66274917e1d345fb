"""The repository as a user has it: a copy with tiny params under git and DVC, all that it writes beside it."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path


class Project:
    def __init__(self, folder: Path) -> None:
        self.folder = folder
        beside = folder.parent
        self.env = os.environ | {
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
            "LTDI_STORE": str(beside / "store"),
            "LTDI_DEVICE": os.environ.get("LTDI_DEVICE", "cpu"),
            "LTDI_DATA": str(beside / "no data"),
            "BUDGET": "",
            "DVC_SITE_CACHE_DIR": str(beside / "site"),
            "DVC_GLOBAL_CONFIG_DIR": str(beside / "global"),
            "DVC_SYSTEM_CONFIG_DIR": str(beside / "system"),
            "GIT_CONFIG_GLOBAL": os.devnull,
            "GIT_CONFIG_NOSYSTEM": "1",
        }

    @classmethod
    def copy(cls, repository: Path, folder: Path, *, without: tuple[str, ...]) -> "Project":
        """A copy of what git knows but for the paths that begin so."""
        command = ["git", "ls-files", "--cached", "--others", "--exclude-standard"]
        for name in subprocess.run(
            command, cwd=repository, capture_output=True, text=True, check=True
        ).stdout.splitlines():
            if not name.startswith(without) and (repository / name).is_file():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy(repository / name, folder / name)
        return cls(folder)

    def commit(self, message: str) -> None:
        if not (self.folder / ".git").exists():
            for arguments in (
                ["init", "-q"],
                ["config", "user.name", "test"],
                ["config", "user.email", "test@localhost"],
            ):
                self.run("git", *arguments)
        self.run("git", "add", "-A")
        self.run("git", "commit", "-qm", message)

    def run(self, *command: str) -> str:
        ended = subprocess.run(command, cwd=self.folder, env=self.env, capture_output=True, text=True)
        assert ended.returncode == 0, ended.stdout + ended.stderr
        return ended.stdout

    def repro(self, *command: str) -> list[str]:
        """The stages that ran."""
        return re.findall(
            r"^Running stage '(?:bench/dvc.yaml:)?([\w@-]+)'", self.run("dvc", *(command or ["repro"])), re.MULTILINE
        )
