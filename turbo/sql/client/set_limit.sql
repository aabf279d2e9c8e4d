-- Client.limits.set: the same insert that a person may type; the triggers of agent_limits judge it, and wake the workers. A limit of this
-- key is changed; if nothing differs, it is left as it is.
insert into public.agent_limits as l (concurrency_key, running)
values (%(concurrency_key)s::text, %(running)s::integer)
on conflict (concurrency_key) do update set running = excluded.running
 where l.running is distinct from excluded.running
