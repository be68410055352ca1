"""Bodies of requests: what they leave out, what they may be, and what their types refuse."""

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from llmspell_fleet.model.requests import (
    ExecuteRequest,
    KernelRequest,
    LeaseChange,
    LimitsChange,
    TenantChange,
    TenantRequest,
)
from llmspell_fleet.model.tenant import Limits

_LIMITS = st.fixed_dictionaries(
    {},
    optional={
        "memory_bytes": st.integers(0, 2**50),
        "execution_timeout_s": st.floats(0, 1e6),
        "max_clients": st.integers(1, 100_000),
        "files": st.integers(0, 1_048_576),
        "executions_per_s": st.floats(0, 1e9),
    },
)


def test_a_change_of_limits_can_name_each_of_them_and_no_others() -> None:
    assert LimitsChange.__struct_fields__ == Limits.__struct_fields__


@given(_LIMITS, _LIMITS)
def test_limits_that_are_not_named_stay(before: dict[str, float], named: dict[str, float]) -> None:
    limits = msgspec.convert(before, Limits)

    changed = msgspec.convert(named, LimitsChange).applied_to(limits)

    assert msgspec.structs.asdict(changed) == {**msgspec.structs.asdict(limits), **named}


def test_zero_is_named() -> None:
    assert LimitsChange(execution_timeout_s=0.0, files=0).applied_to(Limits(files=9)) == Limits(
        execution_timeout_s=0.0, files=0
    )


@pytest.mark.parametrize(
    ("limit", "value"),
    [
        ("memory_bytes", -1),
        ("memory_bytes", 2**50 + 1),
        ("cpu_percent", -0.1),
        ("execution_timeout_s", 1e12),
        ("max_clients", 0),
        ("max_message_bytes", 1023),
        ("files", 1_048_577),
        ("processes", -1),
        ("max_executions", 0),
        ("executions_per_s", -1.0),
    ],
)
def test_a_limit_that_cannot_be_is_refused_by_its_name(limit: str, value: float) -> None:
    with pytest.raises(msgspec.ValidationError, match=rf"\$\.{limit}"):
        msgspec.convert({limit: value}, LimitsChange).applied_to(Limits())


@pytest.mark.parametrize(
    ("record", "least"),
    [
        (TenantRequest, {"id": "t"}),
        (TenantChange, {}),
        (KernelRequest, {"tenant": "t"}),
        (ExecuteRequest, {"code": ""}),
        (LeaseChange, {}),
        (LimitsChange, {}),
    ],
)
def test_each_has_its_least_and_refuses_what_it_does_not_know(
    record: type[msgspec.Struct], least: dict[str, object]
) -> None:
    assert isinstance(msgspec.convert(least, record), record)
    strange: tuple[object, ...] = ({**least, "unknown": 1}, [], "text", None, 1)
    for body in strange:
        with pytest.raises(msgspec.ValidationError):
            msgspec.convert(body, record)
    for member in least:
        with pytest.raises(msgspec.ValidationError, match="missing required field"):
            msgspec.convert({name: value for name, value in least.items() if name != member}, record)


@pytest.mark.parametrize(
    ("record", "body"),
    [
        (TenantRequest, {"id": "t", "replicas": -1}),
        (TenantRequest, {"id": "t", "replicas": 1.5}),
        (TenantRequest, {"id": "t", "replicas": "2"}),
        (TenantRequest, {"id": "t", "replicas": True}),
        (TenantRequest, {"id": "t", "strategy": "random"}),
        (TenantRequest, {"id": "t", "isolation_level": "total"}),
        (TenantRequest, {"id": "t", "idle_timeout_s": -1}),
        (TenantRequest, {"id": "t", "wait_s": 601}),
        (TenantRequest, {"id": "t", "limits": {"memory": 1}}),
        (TenantChange, {"wait_s": -1}),
        (KernelRequest, {"tenant": "t", "port": 65536}),
        (KernelRequest, {"tenant": "t", "port": -1}),
        (KernelRequest, {"tenant": "t", "name": "Capital"}),
        (ExecuteRequest, {"code": None}),
        (ExecuteRequest, {"code": ["return 1"]}),
        (ExecuteRequest, {"code": "", "session": ""}),
        (ExecuteRequest, {"code": "", "session": "x" * 201}),
        (ExecuteRequest, {"code": "", "timeout_s": 0}),
        (ExecuteRequest, {"code": "", "timeout_s": -1}),
        (ExecuteRequest, {"code": "", "timeout_s": 1e12}),
        (ExecuteRequest, {"code": "", "stream": 1}),
        (LeaseChange, {"ttl_s": 0}),
        (LeaseChange, {"ttl_s": 86_401}),
    ],
)
def test_what_cannot_be_meant_is_refused(record: type[msgspec.Struct], body: dict[str, object]) -> None:
    with pytest.raises(msgspec.ValidationError, match=r"\$\."):
        msgspec.convert(body, record)


def test_numbers_without_a_fraction_are_seconds_too() -> None:
    assert msgspec.json.decode(b'{"code":"","timeout_s":2}', type=ExecuteRequest).timeout_s == 2.0
