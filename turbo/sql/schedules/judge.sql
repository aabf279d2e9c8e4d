-- Count what became of the tasks of schedules, and pause schedules that failed too often (turbo_judge_slots): when a task has failed,
-- and before retention deletes tasks. Waits for no lock. Returns the names of those that were paused now.
select public.turbo_judge_slots() as paused
