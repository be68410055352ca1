"""The kernel's configuration: every key, the samples of the specification, and what they come to."""

from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w
from msgspec import inspect as kinds

from llmspell_kernel import config, settings
from llmspell_kernel.config import KernelConfig
from llmspell_kernel.limits import MIB, KernelLimits
from llmspell_kernel.options import LogOptions, ServeOptions
from llmspell_kernel.settings import ConfigurationError, Key
from support.repository import ROOT

SPEC = ROOT / "tests" / "data" / "spec"
SAMPLES = sorted(file for file in SPEC.glob("*.toml") if not file.name.startswith("fleet"))
KEYS = list(settings.keys(KernelConfig))
TABLES = [field.encode_name for field in msgspec.structs.fields(KernelConfig)]


def _dotted(key: Key) -> str:
    return ".".join(key.path)


def _load(tmp_path: Path, text: str) -> KernelConfig:
    path = tmp_path / "kernel.toml"
    path.write_text(text)
    return config.load_config(str(path))


def _problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as refusal:
        _load(tmp_path, text)
    return refusal.value.problems


def _document(path: tuple[str, ...], value: Any) -> str:
    """A file that holds one key alone; `*` becomes a name of the user's."""
    nested: Any = value
    for name in reversed(path):
        nested = {"mine" if name == "*" else name: nested}
    return tomli_w.dumps(nested)


def _wrong_value(key: Key) -> Any:
    """A value of a type that `key` does not take."""
    kind, extra = settings.unwrap(key.kind)
    if extra.get("unit") or isinstance(kind, kinds.IntType | kinds.FloatType | kinds.BoolType):
        return "certainly not"
    return 5


@pytest.mark.parametrize("key", KEYS, ids=_dotted)
def test_a_wrong_type_is_told_with_key_and_expectation(tmp_path: Path, key: Key) -> None:
    (problem,) = _problems(tmp_path, _document(key.path, _wrong_value(key)))

    tables = ".".join("mine" if name == "*" else name for name in key.path[:-1])
    assert problem.startswith(f"[{tables}] {key.path[-1]}: expected {settings.describe(key.kind)}, found ")


@pytest.mark.parametrize("key", KEYS, ids=_dotted)
def test_a_misspelled_key_is_told_with_the_nearest(tmp_path: Path, key: Key) -> None:
    *tables, name = key.path
    misspelled = name[0] + name

    (problem,) = _problems(tmp_path, _document((*tables, misspelled), 1))

    assert misspelled in problem
    assert problem.endswith(f"there is no such key; the nearest is {name}")


@pytest.mark.parametrize("table", TABLES)
def test_a_misspelled_table_is_told_with_the_nearest(tmp_path: Path, table: str) -> None:
    (problem,) = _problems(tmp_path, f"[{table}{table[-1]}]\n")

    assert problem.startswith(f"[{table}{table[-1]}]: there is no such table; the nearest is [{table}]")


@pytest.mark.parametrize("table", TABLES)
def test_a_value_in_place_of_a_table_is_told(tmp_path: Path, table: str) -> None:
    (problem,) = _problems(tmp_path, f"{table} = 5\n")

    assert problem == f"{table}: expected a table, found the number 5"


@pytest.mark.parametrize("sample", SAMPLES, ids=lambda sample: sample.name)
def test_the_specification_s_samples_load_unchanged(sample: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LLMSPELL_DEBUG_TOKEN", "a token")

    assert config.load_config(str(sample)) != config.default_config()


def test_the_specification_s_debug_sample_needs_its_token(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LLMSPELL_DEBUG_TOKEN", raising=False)

    with pytest.raises(ConfigurationError, match=r"\[debug.remote\] auth_token: .* LLMSPELL_DEBUG_TOKEN is not set"):
        config.load_config(str(SPEC / "llmspell-debug.toml"))


def test_the_complete_sample_is_understood_and_what_it_does_not_get_is_said() -> None:
    loaded = config.load_config(str(SPEC / "service.toml"))

    assert loaded.jupyter.ports.in_order() == (8888, 8889, 8890, 8891, 8892)
    assert config.kernel_limits(loaded) == KernelLimits(
        memory_bytes=2048 * MIB, max_clients=100, max_message_size=10 * MIB
    )
    assert config.log_options(loaded) == LogOptions(
        file="/var/log/llmspell/service.log", level="info", rotate_bytes=100 * MIB, rotate_count=10
    )
    said = "\n".join(config.notices(loaded))
    for part in (
        "[dap]",
        "[lsp]",
        "[repl]",
        "[health]",
        "[metrics]",
        "audit_log",
        "max_cpu_percent",
        "session_timeout",
    ):
        assert part in said
    assert [reason.partition(" is ")[0] for reason in config.refusals(loaded)] == [
        "[security] tls_enabled (--tls)",
        "[jupyter] ip (--ip)",
        "[jupyter] key",
    ]


def test_defaults_ask_for_nothing_that_is_not_there() -> None:
    defaults = config.default_config()

    assert config.notices(defaults) == []
    assert config.refusals(defaults) == []
    assert config.kernel_limits(defaults) == KernelLimits()
    assert config.log_options(defaults) == LogOptions()


@pytest.mark.parametrize(
    "table", sorted({key.path[0] for key in KEYS} - {"service", "logging", "jupyter", "runtime", "limits", "security"})
)
def test_each_table_that_is_not_active_is_reported(tmp_path: Path, table: str) -> None:
    key = next(key for key in KEYS if key.path[0] == table)

    loaded = _load(tmp_path, _document(key.path, _right_value(key)))

    (notice,) = config.notices(loaded)
    assert notice.startswith(f"[{table}]: accepted, not active: ")


def _right_value(key: Key) -> Any:
    """A value that is accepted and not the default."""
    kind, _ = settings.unwrap(key.kind)
    if isinstance(kind, kinds.BoolType):
        return True
    if isinstance(kind, kinds.VarTupleType):
        return ["x"]
    return 7 if isinstance(kind, kinds.IntType | kinds.FloatType) else "x"


@pytest.mark.parametrize(
    ("case", "text", "reason"),
    [
        ("no face", "[jupyter]\nenabled = false", "nothing could reach the kernel"),
        ("TLS", "[security]\ntls_enabled = true", "TLS is not built yet"),
        ("every address", '[jupyter]\nip = "0.0.0.0"', "which other machines reach"),
        ("a name", '[jupyter]\nip = "example.com"', "which other machines reach"),
        ("a key that everybody knows", '[jupyter]\nkey = "your-hmac-key-here"', "the sample's placeholder"),
    ],
)
def test_what_is_unsafe_loads_and_is_refused_at_the_start(tmp_path: Path, case: str, text: str, reason: str) -> None:
    (refusal,) = config.refusals(_load(tmp_path, text))

    assert reason in refusal, case


def test_unix_sockets_have_no_address_to_refuse(tmp_path: Path) -> None:
    assert config.refusals(_load(tmp_path, '[jupyter]\ntransport = "ipc"\nip = "0.0.0.0"')) == []


@pytest.mark.parametrize(
    ("case", "text", "problem"),
    [
        ("the same port twice", "[jupyter.ports]\nshell_port = 5\nhb_port = 5", "expected five different ports"),
        ("two memory limits", '[limits]\nmemory_bytes = "1GB"\nmax_memory_mb = 5', "keep one of the two"),
        ("an empty key", '[jupyter]\nkey = ""', "expected a text that is not empty"),
        ("a name that is none", '[service]\nid = "My Kernel"', "[service] id: expected a UUID, or a name of up to 63"),
        ("too little memory", '[limits]\nmemory_bytes = "10KB"', "expected 0 (no bound) or at least 1MB, found 10KB"),
        ("no message at all", "[limits]\nmax_message_size = 0", "expected at least 64KB, found 0B"),
        ("no clients at all", "[limits]\nmax_clients = 0", "at least 1"),
    ],
)
def test_what_contradicts_itself_is_refused(tmp_path: Path, case: str, text: str, problem: str) -> None:
    (found,) = _problems(tmp_path, text)

    assert problem in found, case


def test_limits_take_units(tmp_path: Path) -> None:
    loaded = _load(
        tmp_path,
        '[limits]\nmemory_bytes = "1GB"\nexecution_timeout_s = "5m"\nidle_timeout_s = "1h"\noutput_bytes = 0\n'
        '[runtime]\nmodule_paths = ["/modules", "relative"]',
    )

    assert config.kernel_limits(loaded) == KernelLimits(
        memory_bytes=1024 * MIB,
        execution_timeout_s=300,
        idle_timeout_s=3600,
        output_bytes=0,
        module_paths=("/modules", str(Path("relative").absolute())),
    )


@pytest.mark.parametrize(
    ("written", "level"),
    [
        ("trace", "debug"),
        ("debug", "debug"),
        ("info", "info"),
        ("warn", "warning"),
        ("warning", "warning"),
        ("error", "error"),
    ],
)
def test_each_level_has_its_meaning(tmp_path: Path, written: str, level: str) -> None:
    assert config.log_options(_load(tmp_path, f'[logging]\nlevel = "{written}"')).level == level


def test_a_path_is_the_home_s_and_absolute(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/ada")

    assert config.absolute_path("~/k.log") == "/people/ada/k.log"


def test_a_reload_takes_limits_and_logging_and_keeps_who_the_kernel_is(tmp_path: Path) -> None:
    path = tmp_path / "kernel.toml"
    path.write_text('[limits]\nmax_clients = 5\n[logging]\nlevel = "debug"\n[jupyter]\nip = "127.0.0.2"')
    running = ServeOptions(
        kernel_id="k",
        config_file=str(path),
        overrides=(("limits", "idle_timeout_s", 60.0),),
        log=LogOptions(file="/logs/k.log", owns_stdio=True),
    )

    reloaded = config.reloaded(running)

    assert reloaded == msgspec.structs.replace(
        running,
        limits=KernelLimits(max_clients=5, idle_timeout_s=60),
        log=LogOptions(file="/logs/k.log", owns_stdio=True, level="debug"),
    )


def test_a_reload_without_a_file_keeps_what_the_command_line_said() -> None:
    running = ServeOptions(kernel_id="k", overrides=(("limits", "max_clients", 7),))

    assert config.reloaded(running).limits.max_clients == 7


def test_the_shipped_file_names_every_key() -> None:
    text = (ROOT / "configs" / "kernel.toml").read_text()
    lines = {line.lstrip("# ").partition(" =")[0] for line in text.splitlines() if " = " in line}

    assert {key.path[-1] for key in KEYS} <= lines


def test_the_shipped_file_is_the_one_that_config_init_writes() -> None:
    assert (ROOT / "configs" / "kernel.toml").read_bytes() == (
        ROOT / "cli" / "llmspell_cli" / "kernel.toml"
    ).read_bytes()
