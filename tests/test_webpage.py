"""Pages that need no network: what others named is text, and nothing runs but our own script."""

import base64
import hashlib
import json
import re

import pytest

from ganctl import webpage

HOSTILE = "</script><script>alert('1')</script>\u2028<!--&amp;\"\x1b[31m"


def test_text_is_text_in_elements_and_attributes() -> None:
    shown = webpage.text(HOSTILE)
    assert not set("<>\"'\x1b\u2028") & set(shown)
    assert "&amp;amp;" in shown


def test_data_cannot_end_their_block_and_are_read_back_as_they_were() -> None:
    value = {"name": HOSTILE, HOSTILE: [1.5, None]}
    block = webpage.data_block("x", value)
    inside = re.fullmatch(r'<script type="application/json" id="x">(.*)</script>', block)
    assert inside is not None
    assert not set("<>&") & set(inside[1])
    assert json.loads(inside[1]) == value
    with pytest.raises(ValueError, match="JSON"):
        webpage.data_block("x", float("nan"))


def test_the_policy_forbids_all_but_the_inline_style_and_script() -> None:
    made = webpage.page(HOSTILE, "<p>", "p{}", "1;")
    policy = re.search(r'content="(default-src[^"]*)"', made)
    assert policy is not None
    assert "default-src 'none'" in policy[1]
    assert "unsafe" not in policy[1]
    for kind, content in (("style", "p{}"), ("script", "1;")):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{kind}-src 'sha256-{digest}'" in policy[1]
    assert made.count("<script>") == 1
    with pytest.raises(AssertionError, match="end tag"):
        webpage.page("x", "", "", "'</script>'")
