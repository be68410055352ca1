"""The fleet's configuration: every key, the samples of the specification, and what they come to."""

import re
from pathlib import Path
from typing import Any

import msgspec
import pytest
import tomli_w
from msgspec import inspect as kinds

from llmspell_fleet.config import fleet as config
from llmspell_fleet.config import refusals
from llmspell_fleet.config.fleet import DeclaredKernel, FleetConfig
from llmspell_fleet.config.tables import FleetFile, FleetTable, FleetTenantTable, TenantLimitsTable
from llmspell_fleet.model.ids import TenantId
from llmspell_fleet.model.isolation import uids_of
from llmspell_fleet.model.pool import Autoscale
from llmspell_fleet.model.requests import LimitsChange
from llmspell_fleet.model.tenant import MIB, Limits, TenantSpec
from llmspell_fleet.policy.restart import RestartPolicy
from llmspell_kernel import settings
from llmspell_kernel.config import KernelConfig
from llmspell_kernel.errors import MisuseError, RefusedError
from llmspell_kernel.settings import ConfigurationError, Key
from support.repository import ROOT

SPEC = ROOT / "tests" / "data" / "spec"
KEYS = list(settings.keys(FleetFile))
TABLES = [field.encode_name for field in msgspec.structs.fields(FleetFile)]
IN_THE_SAMPLE = {
    *("fleet", "load_balancing", "multi_tenant", "limits", "security", "metrics", "monitoring"),
    *("service_discovery", "logging", "service"),
}


def _dotted(key: Key) -> str:
    return ".".join(key.path)


def _load(tmp_path: Path, text: str, environ: dict[str, str] | None = None) -> FleetConfig:
    path = tmp_path / "fleet.toml"
    path.write_text(text)
    return config.load_fleet_config(str(path), environ=environ or {})


def _problems(tmp_path: Path, text: str) -> tuple[str, ...]:
    with pytest.raises(ConfigurationError) as refusal:
        _load(tmp_path, text)
    return refusal.value.problems


def _document(path: tuple[str, ...], value: Any) -> str:
    """A file that holds one key alone; `*` becomes a name of the user's, and kernels get the name they need."""
    nested: Any = value
    for depth in range(len(path) - 1, -1, -1):
        nested = {"mine" if path[depth] == "*" else path[depth]: nested}
        if path[:depth] in _LISTS:
            nested = [_LISTS[path[:depth]] | nested]
    return tomli_w.dumps(nested)


_LISTS: dict[tuple[str, ...], dict[str, Any]] = {
    ("fleet", "kernels"): {"name": "k1"},
    ("fleet", "tenants"): {"id": "t1"},
}
"""Lists of tables, with what each of them has to have."""


def _named(path: tuple[str, ...]) -> str:
    """How a problem with a key begins."""
    *tables, name = ("mine" if part == "*" else part for part in path)
    if path[:2] in _LISTS:
        tables[1] += "[0]"
    return f"[{'.'.join(tables)}] {name}: "


def _wrong_value(key: Key) -> Any:
    """A value of a type that `key` does not take."""
    kind, extra = settings.unwrap(key.kind)
    if extra.get("unit") or isinstance(kind, kinds.IntType | kinds.FloatType | kinds.BoolType):
        return "certainly not"
    return 5


_RIGHT = {
    "security.uid_range": "5-6",
    "security.allowed_origins": ["http://localhost:8888"],
    "security.allowed_hosts": ["fleet.example.com"],
    "service_discovery.enabled": None,  # needs a provider
    "service_discovery.provider": None,  # says nothing while discovery is off
    "metrics.exporter": None,  # there is only one
    "limits.memory_bytes": "1GB",
    "limits.max_message_bytes": "1MB",
    "limits.max_message_size": "1MB",
    "fleet.kernels.limits.memory_bytes": "1GB",
    "fleet.kernels.limits.max_message_bytes": "1MB",
    "fleet.tenants.limits.memory_bytes": "1GB",
    "fleet.tenants.limits.max_message_bytes": "1MB",
    "fleet.tenants.restart": "never",
    "fleet.tenants.strategy": "sticky",
    "fleet.tenants.isolation_level": "none",
    "fleet.tenants.autoscale.busy_share": None,  # says nothing while max is 0
    "fleet.tenants.autoscale.min": None,
    "fleet.tenants.autoscale.up_after": None,
    "fleet.tenants.autoscale.down_after": None,
    "fleet.restart.first_delay": "1s",
    "fleet.autoscale.busy_share": 0.5,
    "fleet.max_age_variance": 0.5,
    "fleet.tenants.max_age_variance": 0.5,
    "fleet.kernels.max_age_variance": 0.5,
    "fleet.kernels.depends_on.*": None,  # names another kernel
}


def _right_value(key: Key) -> Any:
    """A value that is accepted and not the default."""
    if _dotted(key) in _RIGHT:
        return _RIGHT[_dotted(key)]
    kind, _ = settings.unwrap(key.kind)
    default: Any = FleetFile()
    for part in key.path:
        default = getattr(default, part, None)
    match kind:
        case kinds.BoolType():
            return not default
        case kinds.LiteralType():
            return next(value for value in kind.values if value != default)
        case kinds.VarTupleType(item_type=kinds.LiteralType(values=values)):
            return [values[0]]
        case kinds.VarTupleType():
            return ["x"]
        case kinds.IntType() | kinds.FloatType():
            return 8  # no default of any key
    return "x"


@pytest.mark.parametrize("key", KEYS, ids=_dotted)
def test_a_wrong_type_is_told_with_key_and_expectation(tmp_path: Path, key: Key) -> None:
    (problem,) = _problems(tmp_path, _document(key.path, _wrong_value(key)))

    assert problem.startswith(f"{_named(key.path)}expected {settings.describe(key.kind)}, found ")


@pytest.mark.parametrize("key", [key for key in KEYS if key.path[-1] != "*"], ids=_dotted)
def test_a_misspelled_key_is_told_with_the_nearest(tmp_path: Path, key: Key) -> None:
    *tables, name = key.path
    if name == "*":
        return  # any name will do
    misspelled = name[0] + name

    (problem, *missing) = _problems(tmp_path, _document((*tables, misspelled), 1))

    assert problem == f"{_named((*tables, misspelled))}there is no such key; the nearest is {name}"
    assert not missing


@pytest.mark.parametrize("table", [*TABLES, "fleet.restart", "debug.remote"])
def test_a_misspelled_table_is_told_with_the_nearest(tmp_path: Path, table: str) -> None:
    (problem,) = _problems(tmp_path, f"[{table}{table[-1]}]\n")

    assert problem.startswith(f"[{table}{table[-1]}]: there is no such table; the nearest is [{table}]")


def test_a_misspelled_list_of_kernels_is_told_with_the_nearest(tmp_path: Path) -> None:
    (problem,) = _problems(tmp_path, '[[fleet.kernel]]\nname = "k1"')

    assert problem == "[fleet] kernel: there is no such key; the nearest is kernels"


@pytest.mark.parametrize("key", [key for key in KEYS if _RIGHT.get(_dotted(key), True)], ids=_dotted)
def test_no_key_is_without_effect_and_without_a_word(tmp_path: Path, key: Key) -> None:
    alone = tomli_w.dumps({"fleet": {key.path[1]: [_LISTS[key.path[:2]]]}}) if key.path[:2] in _LISTS else ""

    assert _load(tmp_path, _document(key.path, _right_value(key))) != _load(tmp_path, alone)


def test_a_kernel_s_file_may_be_part_of_a_fleet_s(tmp_path: Path) -> None:
    kernel_s = {key.path for key in settings.keys(KernelConfig)}

    assert kernel_s <= {key.path for key in KEYS}
    assert _load(tmp_path, (ROOT / "configs" / "kernel.toml").read_text()).port == 9550


def test_nothing_written_asks_for_nothing_that_is_not_there() -> None:
    defaults = config.load_fleet_config(None, environ={})

    assert defaults == FleetConfig()
    assert (defaults.notices, defaults.degraded) == ((), {})
    assert refusals.refusals(defaults) == []
    assert defaults.hosts == ("localhost", "127.0.0.1", "::1")


def test_the_specification_s_fleet_loads_unchanged() -> None:
    loaded = config.load_fleet_config(str(SPEC / "fleet-config.toml"), environ={})

    assert (loaded.name, loaded.max_kernels, loaded.startup_kernels) == ("production-fleet", 10, 3)
    assert loaded.declared[0] == DeclaredKernel(
        name="kernel-01",
        port=9551,
        log_file="/var/log/llmspell/kernel-01.log",
        pid_file="/var/run/llmspell/kernel-01.pid",
        idle_timeout_s=7200,
        limits=LimitsChange(max_clients=20),
    )
    assert [(kernel.name, kernel.port) for kernel in loaded.declared] == [("kernel-01", 9551), ("kernel-02", 9552)]
    assert (loaded.strategy, loaded.probe.interval_s, loaded.monitoring_interval_s) == ("least_loaded", 30, 30)
    assert loaded.isolation_level == "strict"
    assert set(loaded.degraded) == {"alerts", "service_discovery"}
    assert "slack, pagerduty" in loaded.degraded["alerts"]
    assert "consul" in loaded.degraded["service_discovery"]
    said = "\n".join(loaded.notices)
    for part in ("[providers]", "metrics_retention", "alerts are not built", "service discovery is not built"):
        assert said.count(part) == 1


@pytest.mark.parametrize("sample", ["dev-service-config.toml", "service.toml", "llmspell-debug.toml"])
def test_the_specification_s_other_samples_load_as_a_fleet_s(sample: str) -> None:
    loaded = config.load_fleet_config(str(SPEC / sample), environ={"LLMSPELL_DEBUG_TOKEN": "hush"})

    assert loaded.notices
    assert len(set(loaded.notices)) == len(loaded.notices)
    assert "hush" not in repr(loaded)


def test_the_complete_sample_is_understood() -> None:
    loaded = config.load_fleet_config(str(SPEC / "service.toml"), environ={})

    assert (loaded.log_file, loaded.log_rotate_bytes) == ("/var/log/llmspell/service.log", 100 * MIB)
    assert (loaded.daemon, loaded.pid_file) == (True, "/var/run/llmspell.pid")
    assert loaded.allowed_origins == ("http://localhost:*", "https://notebook.example.com")
    assert loaded.limits == Limits(
        memory_bytes=2048 * MIB, cpu_percent=200, max_clients=100, max_message_bytes=10 * MIB
    )
    assert [reason.partition(" is ")[0] for reason in refusals.refusals(loaded)] == ["[security] tls_enabled"]


@pytest.mark.parametrize(
    ("case", "text", "replicas"),
    [
        ("nothing said", "", 2),
        ("a number", "[fleet]\nstartup_kernels = 5", 5),
        ("none", "[fleet]\nstartup_kernels = 0", 0),
        ("room for one", "[fleet]\nmax_kernels = 1", 1),
        ("those declared", '[[fleet.kernels]]\nname = "a"', 1),
        ("more than those declared", '[fleet]\nstartup_kernels = 3\n[[fleet.kernels]]\nname = "a"', 3),
        ("fewer than those declared", '[fleet]\nstartup_kernels = 0\n[[fleet.kernels]]\nname = "a"', 1),
    ],
)
def test_the_default_tenant_has_its_declared_kernels_and_unnamed_ones(
    tmp_path: Path, case: str, text: str, replicas: int
) -> None:
    loaded = _load(tmp_path, text)

    assert loaded.startup_kernels == replicas, case
    assert bool(loaded.notices) == (case == "fewer than those declared")


def test_a_declared_kernel_differs_from_the_others_where_it_says_so(tmp_path: Path) -> None:
    loaded = _load(
        tmp_path,
        """
        [limits]
        memory_bytes = "1GB"
        [[fleet.kernels]]
        name = "big"
        max_clients = 3
        [fleet.kernels.limits]
        cpu_percent = 150
        execution_timeout_s = "1h"
        """,
    )

    (kernel,) = loaded.declared
    assert kernel.limited(loaded.limits) == Limits(
        memory_bytes=1024 * MIB, max_clients=3, cpu_percent=150, execution_timeout_s=3600
    )


def test_durations_and_sizes_take_units(tmp_path: Path) -> None:
    loaded = _load(
        tmp_path,
        """
        [fleet]
        start_deadline = "1m"
        lease_ttl = "1h"
        restart = { max_restarts = 0, window = "1h", first_delay = 0, longest_delay = "500ms" }
        [limits]
        storage_bytes = "1GB"
        idle_timeout_s = "2h"
        """,
    )

    assert loaded.restart == RestartPolicy(
        max_restarts=0, window_s=3600, first_delay_s=0, longest_delay_s=0.5, start_deadline_s=60
    )
    assert (loaded.lease_ttl_s, loaded.idle_timeout_s) == (3600, 7200)
    assert loaded.limits.storage_bytes == 1024 * MIB


def test_variables_come_from_the_environment_that_was_given(tmp_path: Path) -> None:
    assert _load(tmp_path, '[fleet]\nname = "${WHO}"', {"WHO": "mine"}).name == "mine"
    with pytest.raises(ConfigurationError, match="the environment variable WHO is not set"):
        _load(tmp_path, '[fleet]\nname = "${WHO}"')


def test_the_environment_s_level_comes_before_the_file_s(tmp_path: Path) -> None:
    assert _load(tmp_path, '[logging]\nlevel = "error"', {"LLMSPELL_LOG_LEVEL": "trace"}).log_level == "debug"
    with pytest.raises(MisuseError, match=r"expected LLMSPELL_LOG_LEVEL to be one of .*, found 'loud'"):
        config.load_fleet_config(None, environ={"LLMSPELL_LOG_LEVEL": "loud"})


def test_paths_are_the_home_s_and_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/people/ada")
    monkeypatch.chdir(tmp_path)

    loaded = _load(
        tmp_path,
        '[logging]\nfile = "~/f.log"\n[service]\npid_file = "f.pid"\n[[fleet.kernels]]\nname="k"\nlog_file="k.log"',
    )

    assert loaded.log_file == "/people/ada/f.log"
    assert loaded.pid_file == str(tmp_path / "f.pid")
    assert loaded.declared[0].log_file == str(tmp_path / "k.log")


def _kernels(*bodies: str) -> str:
    return "".join(f"[[fleet.kernels]]\n{body}\n" for body in bodies)


@pytest.mark.parametrize(
    ("case", "text", "problem"),
    [
        ("a fleet's name that is none", '[fleet]\nname = "My Fleet"', "[fleet] name: expected a name that matches"),
        ("no name", "[[fleet.kernels]]\nport = 1", "[fleet.kernels[0]] name: is missing"),
        ("capitals", _kernels('name = "Kernel"'), "[fleet.kernels[0]] name: expected a name that matches"),
        ("a path", _kernels('name = "../x"'), "found '../x'"),
        ("a line after the name", _kernels('name = "x\\n"'), "found 'x\\n'"),
        ("a look-alike", _kernels('name = "kеrnel"'), "[fleet.kernels[0]] name: expected a name"),  # noqa: RUF001
        ("64 characters", _kernels(f'name = "{"x" * 64}"'), "[fleet.kernels[0]] name: expected a name"),
        ("a name twice", _kernels('name = "a"', 'name = "a"'), "[[fleet.kernels]] name: expected a different one"),
        ("a port twice", _kernels('name = "a"\nport = 5', 'name = "b"\nport = 5'), "found 5 more than once"),
        ("the fleet's port", _kernels('name = "a"\nport = 9550'), "expected another port than the fleet's own"),
        (
            "a kernel that is not there",
            _kernels('name = "a"', 'name = "b"\ndepends_on = { c = "ready" }'),
            "[fleet.kernels[1]] depends_on: expected the name of another kernel that is declared here (a, b), found 'c'",
        ),
        (
            "kernels that wait for each other",
            _kernels(*(f'name = "{a}"\ndepends_on = {{ {b} = "started" }}' for a, b in ("ab", "bc", "ca"))),
            "[[fleet.kernels]] depends_on: they wait for each other: a -> b -> c -> a",
        ),
        (
            "a kernel that waits for itself",
            _kernels('name = "a"\ndepends_on = { a = "ready" }'),
            "they wait for each other: a -> a",
        ),
        (
            "an end that never stays",
            _kernels('name = "a"', 'name = "b"\ndepends_on = { a = "exited_ok" }'),
            "[fleet.kernels[1]] depends_on: a is started again whenever it exits",
        ),
        (
            "a condition that is none",
            _kernels('name = "a"', 'name = "b"\ndepends_on = { a = "healthy" }'),
            'depends_on] a: expected one of "exited_ok", "ready", "started"',
        ),
        ("no port", _kernels('name = "a"\nport = 65536'), "from 0 to 65535"),
        (
            "a log file twice",
            _kernels('name = "a"\nlog_file = "/l"', 'name = "b"\nlog_file = "/l"'),
            "[[fleet.kernels]] log_file: expected a different one",
        ),
        ("a NUL", _kernels('name = "a"\npid_file = "/a\\u0000"'), "expected the path of a file"),
        ("a directory", '[logging]\nfile = "/var/log/"', "[logging] file: expected the path of a file"),
        ("an empty path", '[service]\npid_file = ""', "[service] pid_file: expected the path of a file"),
        ("too many kernels", "[fleet]\nmax_kernels = 2\nstartup_kernels = 3", "expected at least the 3 kernels"),
        ("no kernels at all", "[fleet]\nmax_kernels = 0", "from 1 to 1000000"),
        ("no interval", "[load_balancing]\nhealth_check_interval = 0", "expected at least 100ms, found 0s"),
        ("no deadline", "[fleet]\nstart_deadline = 0", "[fleet] start_deadline: expected at least 1s"),
        ("a lease too long", '[fleet]\nlease_ttl = "2d"', "[fleet] lease_ttl: expected at most 1d, found 2d"),
        ("delays crossed", '[fleet.restart]\nfirst_delay = "1h"', "longest_delay: expected at least first_delay"),
        ("two memory limits", '[limits]\nmemory_bytes = "1GB"\nmax_memory_mb = 5', "keep one of the two"),
        ("two message limits", '[limits]\nmax_message_bytes = "1MB"\nmax_message_size = "1MB"', "keep one of the two"),
        (
            "too little memory",
            "[limits]\nmax_memory_mb = 0.5",
            "[limits] memory_bytes: expected 0 (no bound), or from 1MB",
        ),
        ("too much memory", "[limits]\nmax_memory_mb = 1e12", "[limits] memory_bytes: expected"),
        ("messages too short", "[limits]\nmax_message_bytes = 1", "expected from 64KB to 2GB, found 1B"),
        (
            "a kernel's memory",
            _kernels('name = "a"\nlimits = { memory_bytes = 5 }'),
            "[fleet.kernels[0].limits] memory_bytes: expected 0 (no bound)",
        ),
        ("no clients at all", "[limits]\nmax_clients = 0", "from 1 to 100000"),
        (
            "an unknown strategy",
            '[load_balancing]\nstrategy = "random"',
            'one of "least_loaded", "round_robin", "sticky"',
        ),
        ("an unknown level", '[multi_tenant]\nisolation_level = "full"', 'one of "none", "process", "strict"'),
        ("an unknown channel", '[monitoring]\nalert_channels = ["slcak"]', "[monitoring] alert_channels[0]: expected"),
        ("no provider", "[service_discovery]\nenabled = true", "[service_discovery] provider: is missing"),
        ("any origin", '[security]\nallowed_origins = ["*"]', "expected an origin as browsers send it"),
        ("an origin's path", '[security]\nallowed_origins = ["http://a/"]', "expected an origin as browsers send it"),
        ("a pattern", '[security]\nallowed_origins = ["http://*.a"]', "expected an origin as browsers send it"),
        ("a host's port", '[security]\nallowed_hosts = ["a:80"]', "expected a name or an address without a port"),
        ("any host", '[security]\nallowed_hosts = ["*"]', "expected a name or an address without a port"),
    ],
)
def test_what_cannot_be_meant_is_told(tmp_path: Path, case: str, text: str, problem: str) -> None:
    (found,) = _problems(tmp_path, text)

    assert problem in found, case


def test_every_problem_is_told_at_once(tmp_path: Path) -> None:
    found = _problems(tmp_path, _kernels('name = "A"\nport = 7', 'name = "b"\nport = 7') + "[monitoring]\ninterval = 0")

    assert [problem.partition(":")[0] for problem in found] == [
        "[fleet.kernels[0]] name",
        "[[fleet.kernels]] port",
        "[monitoring] interval",
    ]


@pytest.mark.parametrize(
    "text",
    [
        _kernels('name = "a"\nport = 9551', 'name = "b"\nport = 9552'),
        _kernels('name = "a"\nport = 0', 'name = "b"\nport = 0'),
        '[security]\nallowed_hosts = ["Fleet.Example.com", "fe80::1"]\nallowed_origins = ["HTTP://[::1]:*", "vscode-webview://a"]',
        "[fleet]\nport = 0",
    ],
)
def test_what_looks_alike_and_is_not_is_accepted(tmp_path: Path, text: str) -> None:
    assert _load(tmp_path, text)


def test_hosts_and_origins_are_compared_in_lower_case(tmp_path: Path) -> None:
    loaded = _load(
        tmp_path,
        '[fleet]\nhost = "127.0.0.2"\n[security]\nallowed_hosts = ["A.example", "LOCALHOST"]\nallowed_origins = ["HTTP://A"]',
    )

    assert loaded.hosts == ("localhost", "127.0.0.1", "::1", "127.0.0.2", "a.example")
    assert loaded.allowed_origins == ("http://a",)


def test_the_command_line_s_port_comes_before_the_file_s() -> None:
    loaded = FleetConfig(declared=(DeclaredKernel(name="a", port=7), DeclaredKernel(name="b", port=0)))

    assert config.apply_command_line(loaded, port=None) == loaded
    assert config.apply_command_line(loaded, port=0).port == 0
    assert config.apply_command_line(loaded, port=8).port == 8
    with pytest.raises(MisuseError, match="--port: expected another port than kernel a's own, found 7"):
        config.apply_command_line(loaded, port=7)


@pytest.mark.parametrize(
    ("case", "loaded", "reason"),
    [
        ("TLS", FleetConfig(tls_enabled=True), "TLS is not built yet"),
        ("every address", FleetConfig(host="0.0.0.0"), "expected an address that only this machine reaches"),
        ("a name", FleetConfig(host="example.com"), "[fleet] host is example.com"),
        ("no address", FleetConfig(host=""), "[fleet] host is empty"),
        ("more isolation than there is", FleetConfig(isolation_level="strict"), "no Landlock. Set it to"),
    ],
)
def test_what_is_unsafe_is_refused_at_the_start(case: str, loaded: FleetConfig, reason: str) -> None:
    with pytest.raises(RefusedError) as refusal:
        refusals.isolated(loaded, missing=lambda: ["no Landlock"], allow_weaker=False)

    assert reason in str(refusal.value), case


def test_weaker_isolation_is_taken_when_allowed_and_health_says_so() -> None:
    asked = FleetConfig(isolation_level="strict", degraded={"alerts": "x"})
    weaker = refusals.isolated(asked, missing=lambda: ["no Landlock"], allow_weaker=True)

    assert weaker.isolation_level == "process"
    assert set(weaker.degraded) == {"alerts", "isolation"}
    assert weaker.notices == (weaker.degraded["isolation"],)
    assert "no Landlock" in weaker.degraded["isolation"]
    assert weaker.allows_weaker


@pytest.mark.parametrize("level", ["none", "process", "strict"])
@pytest.mark.parametrize("allowed", [False, True])
@pytest.mark.parametrize("lacks", [(), ("no Landlock",)])
def test_isolation_that_is_there_stays_as_it_was_asked_for(level: Any, allowed: bool, lacks: tuple[str, ...]) -> None:
    if level == "strict" and lacks:
        return  # see above
    held = refusals.isolated(FleetConfig(isolation_level=level), missing=lambda: list(lacks), allow_weaker=allowed)

    assert (held.isolation_level, held.notices) == (level, ())
    assert set(held.degraded) == ({"isolation"} if allowed and lacks else set()), "what tenants would get is shown"


def test_a_machine_is_surveyed_only_for_who_asks_for_strict() -> None:
    def never() -> list[str]:
        raise AssertionError("surveyed")

    assert refusals.isolated(FleetConfig(), missing=never, allow_weaker=False).isolation_level == "process"


@pytest.mark.parametrize(
    ("text", "uids"),
    [
        ("200000-265535", (200_000, 265_535)),
        ("5-5", (5, 5)),
        ("0-5", None),
        ("6-5", None),
        ("5", None),
        ("-", None),
        ("a-b", None),
        ("1-4294967294", None),
        ("1 - 2", None),
        ("٣-٤", None),
    ],
)
def test_a_range_of_users_is_two_numbers(text: str, uids: tuple[int, int] | None) -> None:
    assert uids_of(text) == uids


def test_the_permission_for_weaker_isolation_permits_nothing_else() -> None:
    with pytest.raises(RefusedError, match="TLS"):
        refusals.isolated(FleetConfig(isolation_level="strict", tls_enabled=True), missing=list, allow_weaker=True)


def test_the_directories_of_the_command_line_take_the_configured_files_in() -> None:
    loaded = config.load_fleet_config(str(SPEC / "fleet-config.toml"), environ={})

    moved, told = config.rerooted(loaded, runtime_dir="/mine/run", log_dir="/mine/logs")

    assert [(kernel.log_file, kernel.pid_file) for kernel in moved.declared] == [
        ("/mine/logs/kernel-01.log", "/mine/run/kernel-01.pid"),
        ("/mine/logs/kernel-02.log", "/mine/run/kernel-02.pid"),
    ]
    assert told == (
        "--log-dir: /var/log/llmspell/kernel-01.log, /var/log/llmspell/kernel-02.log are in /mine/logs instead",
        "--runtime-dir: /var/run/llmspell/kernel-01.pid, /var/run/llmspell/kernel-02.pid are in /mine/run instead",
    )
    assert config.rerooted(moved, runtime_dir="/mine/run", log_dir="/mine/logs") == (moved, ())


def test_a_directory_that_was_not_given_moves_nothing() -> None:
    loaded = FleetConfig(log_file="/l/a.log", pid_file="/r/a.pid")

    assert config.rerooted(loaded, runtime_dir=None, log_dir=None) == (loaded, ())
    moved, told = config.rerooted(loaded, runtime_dir=None, log_dir="/mine")
    assert (moved.log_file, moved.pid_file) == ("/mine/a.log", "/r/a.pid")
    assert told == ("--log-dir: /l/a.log is in /mine instead",)


def test_the_fleet_s_own_files_are_not_written_twice() -> None:
    moved, _ = config.rerooted(
        FleetConfig(log_file="/l/fleet.log", pid_file="/r/fleet.pid"), runtime_dir="/r", log_dir="/"
    )

    assert (moved.log_file, moved.pid_file) == (None, None)


@pytest.mark.parametrize(
    ("case", "loaded", "other"),
    [
        (
            "two kernels",
            FleetConfig(
                declared=(DeclaredKernel(name="a", log_file="/1/x.log"), DeclaredKernel(name="b", log_file="/2/x.log"))
            ),
            "kernel b's log_file and kernel a's",
        ),
        (
            "a kernel and the fleet",
            FleetConfig(log_file="/1/x.log", declared=(DeclaredKernel(name="a", log_file="/2/x.log"),)),
            "kernel a's log_file and the fleet's",
        ),
        (
            "a kernel and the fleet's own",
            FleetConfig(declared=(DeclaredKernel(name="a", log_file="/2/fleet.log"),)),
            "kernel a's log_file and the fleet's",
        ),
    ],
)
def test_two_files_that_would_become_one_are_refused(case: str, loaded: FleetConfig, other: str) -> None:
    with pytest.raises(RefusedError, match=other):
        config.rerooted(loaded, runtime_dir=None, log_dir="/mine")


def test_a_declared_tenant_may_be_all_that_a_request_may_ask_for() -> None:
    keys = {name.removesuffix("_s") for name in FleetTenantTable.__struct_fields__}
    members = {name.removesuffix("_s") for name in TenantSpec.__struct_fields__}

    assert keys == members, "FleetTenantTable and tenant_of in config/tables.py are to have what TenantSpec has"
    assert set(TenantLimitsTable.__struct_fields__) == set(Limits.__struct_fields__)


def test_a_declared_tenant_takes_the_rest_from_the_fleet(tmp_path: Path) -> None:
    text = """
        [limits]
        files = 100
        [load_balancing]
        strategy = "sticky"
        [[fleet.tenants]]
        id = "acme"
        [[fleet.tenants]]
        id = "globex"
        replicas = 5
        strategy = "round_robin"
        isolation_level = "none"
        idle_timeout = "1h"
        labels = { env = "prod" }
        [fleet.tenants.limits]
        memory_bytes = "64MB"
        max_clients = 3
        [fleet.tenants.autoscale]
        max = 4
        """

    acme, globex = _load(tmp_path, text).tenants

    assert acme == TenantSpec(id=TenantId("acme"), strategy="sticky", limits=Limits(files=100))
    assert globex == TenantSpec(
        id=TenantId("globex"),
        replicas=4,
        strategy="round_robin",
        isolation_level="none",
        idle_timeout_s=3600,
        labels={"env": "prod"},
        limits=Limits(files=100, memory_bytes=64 * MIB, max_clients=3),
        autoscale=Autoscale(max=4),
    )


@pytest.mark.parametrize(
    ("case", "text", "said"),
    [
        ("no name", '[[fleet.tenants]]\nid = "A"\n', "[fleet.tenants[0]] id: expected a name"),
        ("default", '[[fleet.tenants]]\nid = "default"\n', "tenant default is what"),
        ("twice", '[[fleet.tenants]]\nid = "a"\n[[fleet.tenants]]\nid = "a"\n', "'a' more than once"),
        ("alone", '[multi_tenant]\nenabled = false\n[[fleet.tenants]]\nid = "a"\n', "enabled is false"),
        ("a label", '[[fleet.tenants]]\nid = "a"\nlabels = { a = "x,y" }\n', "'a' = 'x,y'"),
        ("a kernel's label", '[[fleet.kernels]]\nname = "a"\nlabels = { "a b" = "x" }\n', "[fleet.kernels[0]] labels"),
        ("a limit", '[[fleet.tenants]]\nid = "a"\nlimits = { memory_bytes = 5 }\n', "memory_bytes: expected 0"),
        ("scaling", '[[fleet.tenants]]\nid = "a"\nautoscale = { min = 5, max = 2 }\n', "autoscale] max: expected"),
        ("too many", '[fleet]\nmax_kernels = 3\n[[fleet.tenants]]\nid = "a"\nreplicas = 4\n', "the 4 kernels"),
        (
            "labels without end",
            '[[fleet.tenants]]\nid = "a"\nlabels = { ' + ", ".join(f'n{n} = "x"' for n in range(65)) + " }\n",
            "at most 64, found 65",
        ),
    ],
)
def test_what_cannot_be_a_tenant_is_told(tmp_path: Path, case: str, text: str, said: str) -> None:
    (problem,) = _problems(tmp_path, text)

    assert said in problem, case


def test_the_shipped_file_names_every_key_that_has_an_effect() -> None:
    text = (ROOT / "configs" / "fleet.toml").read_text()
    lines = {line.lstrip("# ").partition(" =")[0] for line in text.splitlines() if " = " in line}

    assert {[name for name in key.path if name != "*"][-1] for key in KEYS if key.path[0] in IN_THE_SAMPLE} <= lines
    for table in TABLES:
        assert f"[{table}" in text


def test_what_the_shipped_file_has_commented_out_is_right_too(tmp_path: Path) -> None:
    text = (ROOT / "configs" / "fleet.toml").read_text()
    active = [re.sub(r"^# (?=\w+ = |\[+fleet\.)", "", line) for line in text.splitlines()]
    twice = ("max_memory_mb", "max_cpu_percent", "max_message_size")

    loaded = _load(tmp_path, "\n".join(line for line in active if not line.startswith(twice)))

    assert [kernel.name for kernel in loaded.declared] == ["kernel-01"]
    assert loaded.log_file == "/var/log/llmspell/fleet.log"


def test_what_holds_without_a_file_is_what_an_empty_one_says() -> None:
    assert FleetFile().fleet == FleetTable()
    assert config.fleet_config(FleetFile()) == FleetConfig()
