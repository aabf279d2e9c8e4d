"""The beat handler: what each heartbeat brought back, handed to the parts that act on it. On the event loop."""

import logging

from turbo.db.lane import Lane
from turbo.maintenance.leadership import Leadership
from turbo.worker.crowding import Crowding
from turbo.worker.heartbeat import BEAT_DEADLINE, Beat
from turbo.worker.listener import Listener
from turbo.worker.question_gate import QuestionGate
from turbo.worker.recovery import Recovery

log = logging.getLogger(__name__)


class BeatHandler:
    def __init__(
        self,
        listener: Listener,
        lanes: tuple[Lane, ...],
        leadership: Leadership,
        recovery: Recovery,
        crowding: Crowding,
        questions: QuestionGate,
    ) -> None:
        """`lanes`: those of claims and results, which must not wait for a server that the database has left."""
        self._listener = listener
        self._lanes = lanes
        self._leadership = leadership
        self._recovery = recovery
        self._crowding = crowding
        self._questions = questions

    def __call__(self, beat: Beat) -> None:
        if beat.moved_to is not None or beat.after_silence:
            self._listener.leave(beat.moved_to)
            for lane in self._lanes:
                lane.leave(beat.moved_to, waiting=0.0 if beat.moved_to else BEAT_DEADLINE)
        self._leadership.update(beat.answer.leads)
        self._crowding.measured(beat.answer.queue_usage)
        self._questions.measured(beat.answer.older)
        if beat.answer.died:
            log.warning("marked dead, no beat within their lease: %s", ", ".join(beat.answer.died))
        if not beat.answer.alive:
            self._recovery.come_back()
        if beat.answer.to_rescue:
            self._recovery.rescue()
