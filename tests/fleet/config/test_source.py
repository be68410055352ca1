"""Where a fleet's configuration comes from: its own file, or what was applied since that was changed last."""

from pathlib import Path

import pytest

from llmspell_fleet.config.source import ConfigSource
from llmspell_fleet.options import FleetOptions
from llmspell_fleet.paths import FleetPaths
from llmspell_kernel.errors import MisuseError, RefusedError

AT = "2026-01-01T00:00:00Z"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    path = tmp_path / "fleet.toml"
    path.write_text('[fleet]\nname = "of-the-file"\n')
    return path


def _source(paths: FleetPaths, file: Path | None = None, **options: object) -> ConfigSource:
    given = {"config_file": None if file is None else str(file), **options}
    return ConfigSource(FleetOptions(**given), paths)  # type: ignore[arg-type]


def test_the_file_holds_until_something_was_applied(paths: FleetPaths, file: Path) -> None:
    source = _source(paths, file)
    assert (source.load().name, source.said) == ("of-the-file", "")

    source.keep('[fleet]\nname = "applied"\n', AT)

    assert source.load().name == "applied"
    assert AT in source.said
    assert _source(paths, file).load().name == "applied", "the next controller's too"
    assert Path(paths.applied_file).stat().st_mode & 0o777 == 0o600, "it may hold a secret"


def test_a_file_with_another_content_is_the_newest_word(paths: FleetPaths, file: Path) -> None:
    source = _source(paths, file)
    source.keep('[fleet]\nname = "applied"\n', AT)
    before = file.read_text()
    file.write_text('[fleet]\nname = "newer"\n')

    assert source.load().name == "newer"
    assert "holds again" in source.said
    assert Path(paths.applied_file).exists(), "to look changes nothing"
    source.tidy()

    file.write_text(before)
    assert (source.load().name, source.said) == ("of-the-file", ""), "what was applied is forgotten"


def test_another_file_is_another_content_too(paths: FleetPaths, file: Path) -> None:
    _source(paths).keep('[fleet]\nname = "applied"\n', AT)

    assert _source(paths).load().name == "applied", "where there is no file, until there is one"
    assert _source(paths, file).load().name == "of-the-file"


def test_a_file_with_a_mistake_is_told_and_nothing_is_forgotten(paths: FleetPaths, file: Path) -> None:
    source = _source(paths, file)
    source.keep('[fleet]\nname = "applied"\n', AT)
    before = file.read_text()

    file.write_text("[fleet\n")
    with pytest.raises(MisuseError, match="not TOML"):
        source.load()
    file.unlink()
    with pytest.raises(MisuseError, match="cannot be read"):
        source.load()

    file.write_text(before)
    assert source.load().name == "applied"


def test_what_is_kept_and_damaged_is_told_with_what_to_do(paths: FleetPaths, file: Path) -> None:
    source = _source(paths, file)
    source.keep("", AT)
    Path(paths.applied_file).write_text('{"text": 7}')

    with pytest.raises(RefusedError, match=r"applied\.json should hold .* damaged .* remove it"):
        source.load()


def test_the_command_line_is_on_top_of_what_is_applied(paths: FleetPaths, file: Path) -> None:
    source = _source(paths, file, port=7, is_rerooted=frozenset({"log"}))

    config = source.parse('[fleet]\nport = 8\n[logging]\nfile = "/elsewhere/mine.log"\n')

    assert (config.port, config.log_file) == (7, f"{paths.logs}/mine.log")
    with pytest.raises(RefusedError, match="TLS"):
        source.parse("[security]\ntls_enabled = true\n")


def test_messages_about_what_is_applied_name_it_and_not_the_fleet_s_own_file(paths: FleetPaths, file: Path) -> None:
    source = _source(paths, file)

    with pytest.raises(MisuseError, match=r"^the configuration: \[fleet\] nam"):
        source.parse("[fleet]\nnam = 5\n")
    with pytest.raises(MisuseError, match=r"^other\.toml: \[fleet\] nam"):
        source.parse("[fleet]\nnam = 5\n", name="other.toml")
    source.keep("[fleet]\nnam = 5\n", AT)
    with pytest.raises(MisuseError, match=rf"^the configuration that was applied at {AT}: \[fleet\] nam"):
        source.load()


@pytest.mark.parametrize("text", ["", " ", "\n\t\r\n"])
def test_nothing_is_no_configuration(paths: FleetPaths, text: str) -> None:
    with pytest.raises(MisuseError, match=r"^standard input: expected the text .* found nothing.*`\[fleet\]`"):
        _source(paths).parse(text, name="standard input")
    assert _source(paths).parse("[fleet]").declared == (), "that is how it is meant"


def test_relative_paths_are_the_fleet_s_own_and_not_a_client_s(paths: FleetPaths, tmp_path: Path) -> None:
    source = _source(paths, directory=str(tmp_path))

    assert source.parse('[logging]\nfile = "mine.log"\n').log_file == str(tmp_path / "mine.log")
