-- Says that somebody follows this task: while a session holds this lock, workers send a notification with each batch of its transcript
-- (transcripts/write). Shared, so any number may follow. False: another session has it for itself; then only the poll finds what is new.
-- Asked on a session of one's own only: pid tells whether it is one, or a pooler's.
select pg_backend_pid() as pid, pg_try_advisory_lock_shared(1953854050, hashtext(%(task_id)s::text::public.turbo_task_id::text)) as followed
