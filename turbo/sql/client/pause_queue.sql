-- Client.pause_queue: nothing of it is claimed from this commit on (sql/tasks/claim.sql looks); a trigger tells the workers.
insert into public.agent_queues as q (queue, paused, paused_at, paused_by, reason)
values (%(queue)s, true, now(), session_user, %(reason)s)
on conflict (queue) do update
   set paused = true, paused_at = now(), paused_by = session_user, reason = excluded.reason
 where not q.paused
