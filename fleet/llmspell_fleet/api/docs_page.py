"""The interface as a page: one HTML document without scripts, made from the OpenAPI document."""

import base64
import hashlib
import html
import json
import re
from typing import Any, Final

import msgspec

Json = dict[str, Any]

_STYLE: Final = """
:root { color-scheme: light dark; --line: light-dark(#d9dde3, #333a45); --soft: light-dark(#f4f6f8, #1c2129);
  --ink: light-dark(#1b2028, #e3e7ee); --dim: light-dark(#5a6472, #9aa5b5); --page: light-dark(#ffffff, #14181e);
  --get: light-dark(#0b6b3a, #5fd39a); --post: light-dark(#0a58b5, #7db7ff); --patch: light-dark(#8a5200, #f0b45c);
  --delete: light-dark(#b3261e, #ff8f86); }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 2rem 1.25rem 6rem; max-width: 62rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, sans-serif; }
h1 { font-size: 1.7rem; margin: 0; } h2 { margin: 3rem 0 .25rem; font-size: 1.25rem; text-transform: capitalize; }
p { margin: .4rem 0; } .dim { color: var(--dim); } a { color: var(--post); }
nav { display: flex; flex-wrap: wrap; gap: .4rem 1.2rem; margin: 1rem 0; text-transform: capitalize; }
code, pre { font-family: ui-monospace, monospace; font-size: .9em; }
pre { background: var(--soft); border: 1px solid var(--line); border-radius: .4rem;
  padding: .7rem .9rem; overflow-x: auto; }
details { border: 1px solid var(--line); border-radius: .5rem; margin: .5rem 0; }
summary { cursor: pointer; padding: .55rem .8rem; display: flex; flex-wrap: wrap; gap: .2rem .8rem;
  align-items: baseline; }
summary:hover { background: var(--soft); } summary .what { color: var(--dim); }
details > div { padding: .2rem 1rem 1rem; border-top: 1px solid var(--line); overflow-x: auto; }
.method { font: 700 .78rem ui-monospace, monospace; min-width: 4rem; }
.get { color: var(--get); } .post { color: var(--post); } .patch { color: var(--patch); }
.delete { color: var(--delete); }
summary code { overflow-wrap: anywhere; } td:first-child, td:last-child:not(:nth-child(3)) { white-space: nowrap; }
table { border-collapse: collapse; width: 100%; margin: .3rem 0 .8rem; font-size: .93rem; }
th, td { text-align: left; padding: .3rem .7rem .3rem 0; border-bottom: 1px solid var(--line); vertical-align: top; }
th { color: var(--dim); font-weight: 600; } h3 { font-size: .95rem; margin: 1rem 0 .1rem; }
"""
_POLICY: Final = (
    "default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)
_CODE: Final = re.compile(r"`([^`]+)`")


class Page(msgspec.Struct, frozen=True):
    """A page, and the Content-Security-Policy that it needs: its own style, and nothing else."""

    html: bytes
    content_policy: str


def page(document: Json, origin: str = "http://127.0.0.1:9550") -> Page:
    """The page; its examples ask at `origin`."""
    digest = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    return Page(_render(document, origin).encode(), _POLICY.format(digest=digest))


def _render(document: Json, origin: str) -> str:
    groups: dict[str, list[str]] = {tag["name"]: [] for tag in document["tags"]}
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            groups[operation["tags"][0]].append(_operation(document, method, path, operation, origin))
    info = document["info"]
    sections = "".join(
        f'<section id="{tag["name"]}"><h2>{tag["name"]}</h2><p class="dim">{_prose(tag["description"])}</p>'
        f"{''.join(groups[tag['name']])}</section>"
        for tag in document["tags"]
    )
    links = "".join(f'<a href="#{name}">{name}</a>' for name in groups)
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f"<title>{_text(info['title'])}</title><style>{_STYLE}</style></head><body><header>"
        f'<h1>{_text(info["title"])}</h1><p class="dim">version {_text(info["version"])} · '
        '<a href="/openapi.json">openapi.json</a></p>'
        f"<p>{_prose(info['description'])} Put a token into the shell for the examples, as in "
        "<code>TOKEN=$(cat …/admin.token)</code>.</p>"
        f"</header><nav>{links}</nav><main>{sections}</main></body></html>\n"
    )


def _operation(document: Json, method: str, path: str, operation: Json, origin: str) -> str:
    parts = [f"<p>{_prose(text)}</p>" for text in operation["description"].split("\n\n")]
    if parameters := operation.get("parameters"):
        rows = [
            [f"{one['name']} ({one['in']})", _type(one["schema"]), one.get("description", "")] for one in parameters
        ]
        parts.append(_table("Parameters", ["name", "type", "meaning"], rows))
    example = None
    if (body := operation.get("requestBody")) is not None:
        content = body["content"]["application/json"]
        example = content.get("example")
        parts.append(_members("Body", document, content["schema"]))
    rows = []
    for status, reply in operation["responses"].items():
        kinds = [f"{kind}: {_type(content['schema'])}" for kind, content in reply.get("content", {}).items()]
        rows.append([status, reply["description"], "; ".join(kinds)])
    parts.append(_table("Answers", ["status", "meaning", "content"], rows))
    schema = operation["responses"].get("200", operation["responses"].get("201", {})).get("content", {})
    if "$ref" in (shape := schema.get("application/json", {}).get("schema", {})):
        parts.append(_members("Content", document, shape))
    parts.append(f"<h3>With curl</h3><pre>{_text(_curl(method, path, operation, example, origin))}</pre>")
    return (
        f'<details><summary><span class="method {method}">{method.upper()}</span><code>{_text(path)}</code>'
        f'<span class="what">{_prose(operation["summary"])}</span></summary><div>{"".join(parts)}</div></details>'
    )


def _curl(method: str, path: str, operation: Json, example: Json | None, origin: str) -> str:
    for parameter in operation.get("parameters", ()):
        if parameter["in"] == "path":
            path = path.replace(f"{{{parameter['name']}}}", parameter["example"])
    words = ["curl" if method in {"get", "post"} else f"curl -X {method.upper()}"]
    if operation["security"]:
        words.append('-H "Authorization: Bearer $TOKEN"')
    if example is not None:
        words.append(f"-H 'Content-Type: application/json' -d '{json.dumps(example)}'")
    elif method == "post":
        words.append("-X POST")
    return " \\\n  ".join([*words, origin + path])


def _members(title: str, document: Json, schema: Json) -> str:
    component = _component(document, schema)
    required = set(component.get("required", ()))
    rows = []
    for name, member in component.get("properties", {}).items():
        default = "required" if name in required else json.dumps(member.get("default"))
        rows.append([name, _type(member), member.get("description", ""), default if len(default) < 40 else "see type"])
    return _table(
        title, ["member", "type", "meaning", "default"] if title == "Body" else ["member", "type", "meaning"], rows
    )


def _component(document: Json, schema: Json) -> Json:
    name = schema["$ref"].rpartition("/")[2]
    component: Json = document["components"]["schemas"][name]
    return component


def _type(schema: Json) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2].replace("_", " ").strip()
    if "anyOf" in schema:
        return " or ".join(_type(one) for one in schema["anyOf"])
    if "enum" in schema:
        return ", ".join(map(str, schema["enum"]))
    kind = str(schema.get("format", schema.get("type", "anything")))
    if kind == "array":
        return f"list of {_type(schema.get('items', {}))}"
    bounds = [f"{sign} {schema[key]:,}" for key, sign in _BOUNDS.items() if key in schema]
    return f"{kind} ({', '.join(bounds)})" if bounds else kind


_BOUNDS: Final = {"minimum": "≥", "exclusiveMinimum": ">", "maximum": "≤"}


def _table(title: str, heads: list[str], rows: list[list[str]]) -> str:
    head = "".join(f"<th>{_text(one)}</th>" for one in heads)
    body = "".join(
        "<tr>"
        + "".join(
            f"<td>{'<code>' + _text(one) + '</code>' if at == 0 else _prose(one)}</td>"
            for at, one in enumerate(row[: len(heads)])
        )
        + "</tr>"
        for row in rows
    )
    return f"<h3>{title}</h3><table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _prose(text: str) -> str:
    return _CODE.sub(r"<code>\1</code>", _text(text))


def _text(text: str) -> str:
    return html.escape(text)
