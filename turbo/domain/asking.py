"""How a program or a python handler asks: the form it writes its question in, and the exception of a handler.

    {"text": "Which database?", "options": ["PostgreSQL", {"label": "SQLite", "description": "one file"}]}
    {"questions": [{"question": "Which database?", "options": […]}, {"question": "Which version?"}]}

Whoever asks may be an agent, so the form is checked before anything else sees it. What is wrong with it is one clear error;
nothing of a question is cut or replaced, because its exact text is the key of its answer.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from turbo.domain.limits import too_long
from turbo.domain.question import MOST_BYTES, Answered, Choice, Question, QuestionKind, Single

TOP_KEYS = ("text", "options", "questions")
SINGLE_KEYS = ("question", "header", "options", "multi")
OPTION_KEYS = ("label", "description")


class BadQuestion(ValueError):
    """The form is not one of a question. The text says what was found, and what is expected."""


class Ask(Exception):
    """Raised by a python handler to ask a person. The run ends, and its task waits without a slot until somebody answers.

    Then the handler is called again, with the answer in `task.answer`, and all so far in `task.answers`. `options` are
    labels, or `{"label": …, "description": …}`. `questions`, in place of `text`, asks several at once, each
    `{"question": …, "options": […], "header": …, "multi": …}`; the answer is then a JSON object by the questions' texts.
    Raises BadQuestion, a ValueError, for what is not a question.
    """

    def __init__(
        self,
        text: str | None = None,
        options: Sequence[str | Mapping[str, str] | Choice] = (),
        *,
        questions: Sequence[Mapping[str, object]] = (),
    ) -> None:
        form: dict[str, object] = {}
        if text is not None:
            form["text"] = text
        if options:
            form["options"] = _listed(options, _option_form)
        if questions:
            form["questions"] = _listed(questions, _question_form)
        super().__init__(text)
        self.form = form
        self.question = question_of(form)


def ask_of(error: BaseException) -> Ask | None:
    """The question that a handler raised: itself, or as the only one of a group, as asyncio.TaskGroup raises it."""
    if isinstance(error, Ask):
        return error
    if isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        return ask_of(error.exceptions[0])
    return None


def question_of(form: object) -> Question:
    """The question of a form. Raises BadQuestion."""
    if not isinstance(form, dict):
        raise BadQuestion(f"a question is an object with text and options, not {_kind(form)}")
    _known_keys(form, TOP_KEYS, "a question")
    if "questions" not in form:
        asked = [_single({"question": form.get("text"), "options": form.get("options", [])}, "text")]
    elif "options" in form:
        raise BadQuestion("options belong to one of the questions, not beside them")
    elif not isinstance(form["questions"], list) or not form["questions"]:
        raise BadQuestion(f"questions is a list of objects, not {_kind(form['questions'])}")
    else:
        asked = [_single(one, "question") for one in form["questions"]]
    texts = [single.question for single in asked]
    if len(set(texts)) < len(texts):
        raise BadQuestion("two of the questions have the same text, so nobody could answer both")
    text = _text(form["text"], "text") if "text" in form else "\n".join(texts)
    question = Question(QuestionKind.QUESTION, text, tuple(asked))
    if (problem := too_large(question.document())) is not None:
        raise BadQuestion(problem)
    return question


def too_large(document: Mapping[str, object]) -> str | None:
    """The failure, if a question has more bytes than a row takes. A text that only repeats its questions does not count.
    Raises RecursionError and ValueError as `json.dumps`."""
    asked = document.get("questions")
    repeated = isinstance(asked, list) and document.get("text") == "\n".join(str(one["question"]) for one in asked)
    counted = {key: value for key, value in document.items() if not (repeated and key == "text")}
    size = len(json.dumps(counted, ensure_ascii=False, allow_nan=False).encode("utf-8", "surrogatepass"))
    return too_long("the question", size, MOST_BYTES, "bytes")


def pairs(answers: Sequence[Answered]) -> list[dict[str, str | None]]:
    """All questions of a task so far with their answers, in that order, several of one run one by one. null: no answer."""
    found: list[dict[str, str | None]] = []
    for answered in answers:
        if not answered.question.questions:
            found.append({"question": answered.question.text, "answer": answered.answer})
            continue
        given = answered.by_question()
        found += [{"question": one.question, "answer": given.get(one.question)} for one in answered.question.questions]
    return found


def answers_to_json(answers: Sequence[Answered]) -> list[dict[str, object]]:
    """For another process; see `answers_from_json`."""
    return [
        {
            "question": one.question.document()
            | {
                "number": one.question.number,
                "asked_at": one.question.asked_at,
                "answer_by": one.question.answer_by,
                "expired": one.question.expired,
            },
            "answer": one.answer,
        }
        for one in answers
    ]


def answers_from_json(answers: Sequence[Mapping[str, Any]]) -> tuple[Answered, ...]:
    return tuple(Answered(Question.from_document(one["question"]), one["answer"]) for one in answers)


def _single(form: object, key: str) -> Single:
    if not isinstance(form, dict):
        raise BadQuestion(f"each of questions is an object, not {_kind(form)}")
    _known_keys(form, SINGLE_KEYS, "one of questions")
    options = form.get("options", [])
    if not isinstance(options, list):
        raise BadQuestion(f"options is a list, not {_kind(options)}")
    multi = form.get("multi", False)
    if not isinstance(multi, bool):
        raise BadQuestion(f"multi is true or false, not {_kind(multi)}")
    header = form.get("header", "")
    return Single(
        question=_text(form.get("question"), key),
        header=header if header == "" else _text(header, "header"),
        options=tuple(_choice(option) for option in options),
        multi=multi,
    )


def _choice(option: object) -> Choice:
    if isinstance(option, str):
        return Choice(_text(option, "an option"))
    if not isinstance(option, dict):
        raise BadQuestion(f"an option is text, or an object with label and description, not {_kind(option)}")
    _known_keys(option, OPTION_KEYS, "an option")
    description = option.get("description", "")
    return Choice(
        label=_text(option.get("label"), "the label of an option"),
        description="" if description == "" else _text(description, "the description of an option"),
    )


def _text(value: object, what: str) -> str:
    if not isinstance(value, str):
        raise BadQuestion(f"{what} is missing" if value is None else f"{what} is text, not {_kind(value)}")
    if not value.strip():
        raise BadQuestion(f"{what} is empty")
    if "\0" in value:
        raise BadQuestion(f"{what} contains a NUL character, which the database cannot store")
    try:
        value.encode()
    except UnicodeEncodeError:
        raise BadQuestion(f"{what} contains half a character (a lone surrogate)") from None
    return value


def _known_keys(form: Mapping[Any, object], known: Sequence[str], what: str) -> None:
    unknown = [repr(key)[:60] for key in form if key not in known]
    if unknown:
        raise BadQuestion(f"{what} has the unknown key {unknown[0]}; known: {', '.join(known)}")


def _kind(value: object) -> str:
    names: dict[type, str] = {dict: "an object", list: "a list", str: "text", bool: "true or false", type(None): "null"}
    return names.get(type(value), "a number" if isinstance(value, int | float) else type(value).__name__)


def _listed(several: Any, form: Callable[[object], object]) -> object:
    """Text is a sequence too; `question_of` refuses what is none."""
    is_list = isinstance(several, Iterable) and not isinstance(several, str | bytes | Mapping)
    return [form(one) for one in several] if is_list else several


def _question_form(question: object) -> object:
    return dict(question) if isinstance(question, Mapping) else question


def _option_form(option: object) -> object:
    if isinstance(option, Choice):
        return {"label": option.label, "description": option.description}
    return dict(option) if isinstance(option, Mapping) else option
