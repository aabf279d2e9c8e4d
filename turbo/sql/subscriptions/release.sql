-- A worker that stops gives up what it holds: another one takes it at once.
update public.agent_subscriptions s set holder = null, held_until = null
 where s.name in (select h.name from public.agent_subscriptions h where h.holder = %(worker)s::text for update skip locked)
