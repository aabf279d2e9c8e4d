-- Client.pause_queue: from this commit on nothing in the queue is claimed (tasks/claim.sql checks). A trigger notifies
-- the workers.
insert into public.agent_queues as q (queue, paused, paused_at, paused_by, reason)
values (%(queue)s, true, now(), session_user, %(reason)s)
on conflict (queue) do update
   set paused = true, paused_at = now(), paused_by = session_user, reason = excluded.reason
 where not q.paused
