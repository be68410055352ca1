"""Where a fleet's configuration comes from: its file, or what was applied to it since that file was last changed."""

import hashlib
import os

import msgspec

from llmspell_fleet.config.fleet import FleetConfig, apply_command_line, load_fleet_config, rerooted
from llmspell_fleet.config.refusals import isolated
from llmspell_fleet.options import FleetOptions
from llmspell_fleet.paths import FleetPaths
from llmspell_fleet.policy.isolation import missing
from llmspell_fleet.spawner.surveying import survey
from llmspell_kernel.errors import MisuseError, RefusedError
from llmspell_kernel.safe_files import read_private, write_private

_LARGEST_BYTES = 64 * 1024 * 1024


class Applied(msgspec.Struct, frozen=True):
    """A configuration that was applied to a running fleet; kept in the state directory."""

    text: str
    """TOML."""
    at: str
    """ISO 8601 in UTC."""
    file_sha256: str
    """Of the fleet's own file at that time, in hexadecimal; "" = it had none."""


class ConfigSource:
    """Reads a fleet's configuration, with what the command line says on top."""

    def __init__(self, options: FleetOptions, paths: FleetPaths) -> None:
        self._options = options
        self._paths = paths
        self.said = ""
        """What there is to say of where the configuration comes from, for people; "" = nothing."""

    def load(self) -> FleetConfig:
        """What holds. The newest word counts: what was applied, unless the file has another content since.

        MisuseError, RefusedError: it cannot be meant, or must not be.
        """
        applied, self.said = self._applied(), ""
        if applied is not None and applied.file_sha256 == self._file_sha256():
            file = self._options.config_file
            since = f", since {file} is as it was then" if file else ""
            self.said = f"the configuration that was applied at {applied.at} holds{since}"
            return self._read(applied.text, f"the configuration that was applied at {applied.at}")
        config = self._read()
        if applied is not None:
            self.said = (
                f"{self._options.config_file or 'no file'} holds again, and not what was applied at {applied.at}"
            )
        return config

    def tidy(self) -> None:
        """What was loaded holds from now on: forget what was applied before it."""
        applied = self._applied()
        if applied is not None and applied.file_sha256 != self._file_sha256():
            os.unlink(self._paths.applied_file)

    def parse(self, text: str, *, name: str = "") -> FleetConfig:
        """What `text` in the place of the file comes to; raises as `load`, with `name` for where it is from."""
        name = name or "the configuration"
        if not text.strip():
            # A pipe that failed says nothing too, and every declared kernel would end.
            raise MisuseError(
                f"{name}: expected the text of a configuration, found nothing: nothing is changed. "
                "For the defaults, and no declared kernels, send the one line `[fleet]`"
            )
        return self._read(text, name)

    def keep(self, text: str, at: str) -> None:
        """From now on that is the configuration, until the fleet's file has another content."""
        applied = Applied(text, at, self._file_sha256())
        write_private(self._paths.applied_file, msgspec.json.encode(applied), what="applied configuration")

    def _applied(self) -> Applied | None:
        path = self._paths.applied_file
        try:
            content = read_private(path, what="applied configuration", limit_bytes=_LARGEST_BYTES)
            return msgspec.json.decode(content, type=Applied)
        except FileNotFoundError:
            return None
        except msgspec.MsgspecError as fault:
            raise RefusedError(
                f"{path} should hold the configuration that was applied last, and is damaged ({fault}): remove it, and "
                "the fleet's own file holds again"
            ) from None

    def _file_sha256(self) -> str:
        if self._options.config_file is None:
            return ""
        try:
            with open(self._options.config_file, "rb") as stream:
                return hashlib.sha256(stream.read()).hexdigest()
        except OSError:
            return "unreadable"

    def _read(self, text: str | None = None, name: str | None = None) -> FleetConfig:
        options, paths = self._options, self._paths
        config = load_fleet_config(
            options.config_file, environ=os.environ, text=text, source=name, directory=options.directory
        )
        config = apply_command_line(config, port=options.port)
        config, moved = rerooted(
            config,
            runtime_dir=paths.runtime if "runtime" in options.is_rerooted else None,
            log_dir=paths.logs if "log" in options.is_rerooted else None,
        )
        uid = config.uids[1]
        config = isolated(config, missing=lambda: missing(survey(uid)), allow_weaker=options.allow_weaker_isolation)
        return msgspec.structs.replace(config, notices=(*moved, *config.notices))
