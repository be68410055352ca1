"""The configuration tables whose parts are not built yet: accepted, typed as their samples show, reported.

Defaults are "off": a table that asks for nothing is not worth a report. A table moves to `config` with its
part.
"""

from typing import Literal

import msgspec

from llmspell_kernel.settings import Amount, Count, Duration, Port, Secret


class DapTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[dap]``: the debug adapter."""

    enabled: bool = False
    host: str = "127.0.0.1"
    port: Port = 0


class LspTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[lsp]``: the language server."""

    enabled: bool = False
    transport: Literal["tcp", "stdio", "pipe"] = "tcp"
    host: str = "127.0.0.1"
    port: Port = 0


class ReplCompletionTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[repl.completion]``."""

    enabled: bool = False
    fuzzy_matching: bool = False
    show_documentation: bool = False
    max_suggestions: Count = 20


class ReplMediaTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[repl.media]``."""

    image_display: Literal["inline", "external", "none"] = "none"
    max_image_size_mb: Amount = 10
    audio_player: str = "default"
    video_player: str = "default"


class ReplTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[repl]``: the line-based face, and the terminal client's habits."""

    enabled: bool = False
    transport: Literal["tcp", "unix"] = "tcp"
    host: str = "127.0.0.1"
    port: Port = 0
    history_file: str | None = None
    history_size: Count = 10_000
    auto_save_interval: Duration = 60
    startup_script: str | None = None
    color_output: bool = True
    syntax_highlighting: bool = True
    completion: ReplCompletionTable = ReplCompletionTable()
    media: ReplMediaTable = ReplMediaTable()


class DebugBreakpointsTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[debug.breakpoints]``."""

    files: tuple[str, ...] = ()
    on_error: bool = False
    on_function: tuple[str, ...] = ()


class DebugRemoteTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[debug.remote]``."""

    enabled: bool = False
    server: str | None = None
    auth_required: bool = True
    auth_token: Secret | None = None
    tls_enabled: bool = False
    tls_cert: str | None = None


class DebugRecordingTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[debug.recording]``."""

    enabled: bool = False
    auto_save: bool = False
    output_dir: str | None = None
    max_sessions: Count = 10
    retention_days: Amount = 7
    compress: bool = True


class DebugProfilingTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[debug.profiling]``."""

    auto_profile: bool = False
    flamegraph_output: str | None = None
    memory_tracking: bool = False
    cpu_tracking: bool = False


class DebugTracingTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[debug.tracing]``."""

    enabled: bool = False
    endpoint: str | None = None
    sample_rate: Amount = 1.0
    export_timeout: Duration = 30


class DebugTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[debug]``."""

    enabled: bool = False
    level: Literal["off", "error", "warn", "info", "debug", "trace"] = "info"
    interactive: bool = False
    modules: str | None = None
    breakpoints: DebugBreakpointsTable = DebugBreakpointsTable()
    remote: DebugRemoteTable = DebugRemoteTable()
    recording: DebugRecordingTable = DebugRecordingTable()
    profiling: DebugProfilingTable = DebugProfilingTable()
    tracing: DebugTracingTable = DebugTracingTable()


class HealthTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[health]``: the health endpoint and its alerts."""

    enabled: bool = False
    port: Port = 0
    check_interval_secs: Duration = 30
    enable_alerts: bool = False
    alert_webhook: Secret | None = None


class MetricsTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[metrics]``."""

    enabled: bool = False
    exporter: Literal["prometheus"] = "prometheus"
    port: Port = 0
    namespace: str = "llmspell"


class WorkspaceTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[workspace]``: what the language server indexes."""

    paths: tuple[str, ...] = ()
    index_on_startup: bool = False


class HotReloadTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[hot_reload]``."""

    enabled: bool = False
    debounce_ms: Amount = 500


class LintingTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[linting]``."""

    enabled: bool = False
    rules: tuple[str, ...] = ()


class CompletionTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[completion]``: the editor's completion; Jupyter's is always on."""

    max_suggestions: Count = 20
    include_snippets: bool = False
    smart_imports: bool = False


class ExtensionRegistryTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[extension_registry]``."""

    enabled: bool = False
    publish_to: str | None = None


class ProviderTable(msgspec.Struct, frozen=True, kw_only=True):
    """``[providers.NAME]``: a language model that scripts may ask."""

    model: str | None = None
    api_key_env: str | None = None
    base_url: str | None = None


class PlannedTables(msgspec.Struct, frozen=True, kw_only=True):
    """The tables of parts that are not built yet and mean the same in a kernel's file and in a fleet's."""

    dap: DapTable = DapTable()
    lsp: LspTable = LspTable()
    repl: ReplTable = ReplTable()
    debug: DebugTable = DebugTable()
    workspace: WorkspaceTable = WorkspaceTable()
    hot_reload: HotReloadTable = HotReloadTable()
    linting: LintingTable = LintingTable()
    completion: CompletionTable = CompletionTable()
    extension_registry: ExtensionRegistryTable = ExtensionRegistryTable()
    providers: dict[str, ProviderTable] = {}
