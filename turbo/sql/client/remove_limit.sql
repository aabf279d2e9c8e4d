-- Client.limits.remove: one task of the key runs at a time again. What runs goes on.
delete from public.agent_limits l where l.concurrency_key = %(concurrency_key)s::text
