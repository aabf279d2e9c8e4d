"""What a worker says is wrong with it: replaced, cleared, bounded."""

from turbo.domain.problem import Problem, ProblemKind
from turbo.runtime.problems import LONGEST_TEXT, MOST_PROBLEMS, Problems


def test_report_replaces_and_clear_removes_one_key() -> None:
    problems = Problems()
    problems.report(ProblemKind.EXECUTOR, "a", "first")
    problems.report(ProblemKind.EXECUTOR, "a", "second", "install it")
    problems.report(ProblemKind.EXECUTOR, "b", "other")
    assert problems.current == (
        Problem(ProblemKind.EXECUTOR, "second", "install it"),
        Problem(ProblemKind.EXECUTOR, "other"),
    )
    assert problems.count() == {ProblemKind.EXECUTOR: 2}
    problems.clear(ProblemKind.EXECUTOR, "a")
    problems.clear(ProblemKind.DISK, "never reported")
    assert problems.current == (Problem(ProblemKind.EXECUTOR, "other"),)


def test_worst_kind_comes_first() -> None:
    problems = Problems()
    problems.report(ProblemKind.EXECUTOR, "x", "small")
    problems.report(ProblemKind.LOOP_BLOCKED, "x", "large")
    assert [problem.what for problem in problems.current] == ["large", "small"]


def test_many_and_long_problems_are_bounded_and_counted() -> None:
    problems = Problems()
    for number in range(1000):
        problems.report(ProblemKind.REFUSED_ROW, str(number), "x" * 10_000)
    assert len(problems.current) == MOST_PROBLEMS
    assert problems.current[-1].what == f"and {1000 - MOST_PROBLEMS + 1} more problems"
    assert max(len(problem.what) for problem in problems.current) == LONGEST_TEXT
    assert problems.count() == {ProblemKind.REFUSED_ROW: 1000}
