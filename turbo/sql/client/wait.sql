-- Client.follow: registers this client as waiting for these tasks, for 60 seconds (turbo_wait), and names the channel to LISTEN on.
-- Fails on a standby, for a role that may not wait, and on a schema from before: the client looks often then.
select max(public.turbo_wait(w.task_id::text, %(channel)s::text)) as channel from unnest(%(task_id)s::text[]) as w(task_id)
