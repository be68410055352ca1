"""The `llmspell` command run inside the tests' own process: for commands that only ask and print."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import pytest

from llmspell_cli import main as cli
from support.fake_fleet import TOKENS
from support.served_fleet import ServedFleet


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return msgspec.json.decode(self.out)


@dataclass(frozen=True, slots=True)
class Commands:
    """Runs commands about one fleet with its admin's token."""

    served: ServedFleet
    folder: Path
    captured: pytest.CaptureFixture[str]

    def __call__(self, *arguments: str, who: str = "admin") -> Done:
        token = self.folder / f"{who}.token"
        token.write_text(TOKENS[who])
        return end(self.captured, *arguments, "--url", self.served.unix, "--token-file", str(token))


def end(captured: pytest.CaptureFixture[str], *arguments: str) -> Done:
    """Run a command to its end."""
    with pytest.raises(SystemExit) as ended:
        cli.main(list(arguments))
    assert isinstance(ended.value.code, int)
    out, err = captured.readouterr()
    return Done(ended.value.code, out, err)
