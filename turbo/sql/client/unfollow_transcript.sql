-- Gives back what client/follow_transcript took: nobody follows this task on this session any more.
select pg_advisory_unlock_shared(1953854050, hashtext(%(task_id)s::text::public.turbo_task_id::text)) as unfollowed
