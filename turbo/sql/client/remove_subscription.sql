-- Client.subscriptions.remove: nothing more is delivered. Its holder sees that at its next look.
delete from public.agent_subscriptions s where s.name = %(name)s::text
