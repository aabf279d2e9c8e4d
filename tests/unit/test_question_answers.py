"""An answer as its program or agent reads it: what a person wrote, and nothing that nobody said."""

import pytest

from turbo.domain.question import Answered, Question, QuestionKind, Single


def read(answer: str, *texts: str) -> dict[str, str]:
    return Answered(Question(QuestionKind.QUESTION, "", tuple(map(Single, texts))), answer).by_question()


@pytest.mark.parametrize("number", ["9" * 5000, "1e400", "-0.10", "12345678901234567890.5"])
def test_number_is_read_as_it_was_written(number: str) -> None:
    assert read(f'{{"A": {number}, "B": ["x", {number}, true]}}', "A", "B") == {"A": number, "B": f"x, {number}, true"}
    assert read(f'{{"A": {number}}}', "A") == {"A": number}


@pytest.mark.parametrize(
    "answer",
    [
        '{"A": null}', '{"A": {"a": [1, {}]}}', '{"A": ""}', '{"A": " "}', '{"A": []}', '{"A": [""]}', '{"A": [[1]]}',
        '{"A": NaN}', '{"A": "x", "B": "y"}', '{"A": "x"', "null",
    ],
)  # fmt: skip
def test_object_that_answers_nothing_is_text(answer: str) -> None:
    assert read(answer, "A") == {"A": answer}


@pytest.mark.parametrize(
    ("answer", "told"),
    [('{"A": "x"}', "x"), ('{"A": ["x", "y"]}', "x, y"), ('{"A": false}', "false"), ('{"A": [true, 2]}', "true, 2")],
)
def test_object_answers_one_question_as_several(answer: str, told: str) -> None:
    assert read(answer, "A") == {"A": told}
