"""One HTML file that needs no network: its style, script and data are in it, and nothing else runs.

The content policy forbids all but the inline style and script whose digests it names, and pictures
in the file itself. What is put into a page goes through `text`, or as JSON through `data_block`:
names of runs, classes and files are anybody's.
"""

import base64
import hashlib
import html
import json
from importlib.resources import files


def text(value: object) -> str:
    """`value` as text in HTML, also in an attribute; control characters are spelled out."""
    shown = "".join(c if c.isprintable() or c == "\n" else repr(c)[1:-1] for c in str(value))
    return html.escape(shown)


def data_block(name: str, value: object) -> str:
    """A block that the script finds under `name`; plain JSON values, infinite ones excluded."""
    document = json.dumps(value, separators=(",", ":"), allow_nan=False)
    for letter in "<>&":  # so that no text in it can end the block
        document = document.replace(letter, f"\\u{ord(letter):04x}")
    return f'<script type="application/json" id="{text(name)}">{document}</script>'


def data_uri(kind: str, content: bytes) -> str:
    """`content` of the MIME type `kind` as an address."""
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def template(package: str, name: str) -> str:
    """A file that lies beside the modules of `package`, for example a script."""
    return (files(package) / name).read_text(encoding="utf-8")


def page(title: str, body: str, style: str, script: str) -> str:
    """The whole file; `body`, `style` and `script` are ours, what others named is escaped in it."""
    policy = "; ".join(
        [
            "default-src 'none'",
            "img-src data: blob:",
            f"style-src {_digest(style)}",
            f"script-src {_digest(script)}",
            "base-uri 'none'",
            "form-action 'none'",
        ]
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="{policy}">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta name="referrer" content="no-referrer">
<title>{text(title)}</title>
<style>{style}</style>
</head>
<body>
{body}
<script>{script}</script>
</body>
</html>
"""


def _digest(content: str) -> str:
    """How a content policy names an inline style or script, which must not end its element."""
    assert "</" not in content, "an inline style or script must not have an end tag in it"
    digest = hashlib.sha256(content.encode()).digest()
    return f"'sha256-{base64.b64encode(digest).decode()}'"
