"""Every exhibit of the failure museum is complete, and the quiz asks for exhibits that exist."""

import re

import editions
import pytest

TEXT = (editions.BOOK / "text" / "17-failure-museum.md").read_text(encoding="utf-8")
EXHIBITS = re.findall(r"^### (\d+)\. (.+?)\n(.*?)(?=^##)", TEXT, flags=re.M | re.S)


def test_exhibits_are_counted_in_order():
    assert [int(number) for number, _, _ in EXHIBITS] == list(range(1, len(EXHIBITS) + 1))
    assert len(EXHIBITS) >= 15


@pytest.mark.parametrize("body", [e[2] for e in EXHIBITS], ids=[e[1] for e in EXHIBITS])
def test_exhibit_is_complete(body):
    assert "```{code-cell}" in body
    for part in ("- *You see*", "- *Cause:*", "- *Fix:*", "- *Met*"):
        assert body.count(part) == 1, part
    met = body.partition("- *Met*")[2]
    assert re.search(r"\(https://github\.com/[\w.-]+/[\w.-]+/(issues|pull)/\d+\)", met)


def test_quiz_and_symptoms_name_exhibits_that_exist():
    answers = re.search(r"show\.check\(\(A, B, C, D, E, F\), \[(.*?)\]\)", TEXT)[1]
    table = TEXT.partition("| What you see |")[2].partition("\n\n")[0]
    named = [int(n) for n in answers.split(",")]
    named += [int(n) for row in table.splitlines()[2:] for n in re.findall(r"\b\d+\b", row)]
    existing = {int(number) for number, _, _ in EXHIBITS}
    assert set(named) <= existing
    # The table of symptoms leads to every room, and nearly everywhere in it.
    assert len(existing - set(named)) <= 2
