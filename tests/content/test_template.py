from __future__ import annotations

import pytest

from postfleet.content.template import Substitutions, TemplateError, Variable, escape_html, parse

SHARED = {"city": "Delft", "user": {"name": "shared", "plan": "free"}, "n": 5.0, "pi": 39.99, "yes": True}
RECIPIENT = {"user": {"name": "Ann"}, "none": None, "list": [1], "text": "a b"}


def rendered(source: str) -> str:
    return Substitutions(SHARED, RECIPIENT, "ann@example.org", "Ann Other").join(parse(source, "text"))


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("plain", "plain"),
        ("{{text}}{{ text\n}}", "a ba b"),
        ("{ { text } }", "{ { text } }"),
        ("[{{missing}}] [{{none}}] [{{list}}] [{{user}}]", "[] [] [] []"),
        ("{{user.name}}/{{user.plan}}/{{user.name.deeper}}", "Ann//"),
        ("{{city}} {{n}} {{pi}} {{yes}}", "Delft 5 39.99 true"),
        ("{{email}} {{address.email}} {{email_id}} {{address.name}}", "ann@example.org " * 3 + "Ann Other"),
        ("{{{text}}}", "a b"),
        ("{color:{{city}}}", "{color:Delft}"),
        ("@media print{p{margin:0}}", "@media print{p{margin:0}}"),
    ],
)
def test_renders(source: str, expected: str) -> None:
    """Paths are looked up in the recipient's data, then the transmission's; everything else is text."""
    assert rendered(source) == expected


@pytest.mark.parametrize(
    ("source", "line", "reason"),
    [
        ("{{if x}}", 1, "syntax error near 'if x'"),
        ("a\nb\n{{ each children }}", 3, "syntax error near 'each children'"),
        ("{{ a or b }}", 1, "syntax error near 'a or b'"),
        ("{{end}}", 1, "syntax error near 'end'"),
        ("{{a['b']}}", 1, "syntax error near 'a['b']'"),
        ("{{#states}}", 1, "syntax error near '#states'"),
        ("{{{x}} y", 1, "syntax error near 'x'"),
        ("{{}}", 1, "syntax error near ''"),
        ("{{__class__.__mro__[1]}}", 1, "syntax error near '__class__.__mro__[1]'"),
        ("\n{{x", 2, "substitution statement missing ending '}}'"),
        ("{{naïve}}", 1, "syntax error near 'naïve'"),
    ],
)
def test_refuses_what_it_cannot_do(source: str, line: int, reason: str) -> None:
    """Any other construct in double braces is refused with the line where it begins."""
    with pytest.raises(TemplateError) as caught:
        parse(source, "html")
    assert str(caught.value) == f"Error while compiling part html: line {line}: {reason}"
    assert (caught.value.part, caught.value.line) == ("html", line)


def test_no_attributes() -> None:
    """A path reaches into JSON objects only, never into Python's."""
    assert rendered("[{{__class__.__mro__}}{{text.__len__}}{{user.keys}}]") == "[]"


def test_escapes_the_six_characters() -> None:
    """HTML values lose all characters that could end text, an attribute or a tag."""
    assert escape_html("<b>\"'&/") == "&lt;b&gt;&quot;&#x27;&amp;&#x2F;"


def test_fragments() -> None:
    """Text and variables alternate, and three braces are remembered."""
    assert parse("a{{b.c}}d{{{e}}}", "text") == ("a", Variable(("b", "c")), "d", Variable(("e",), True))
