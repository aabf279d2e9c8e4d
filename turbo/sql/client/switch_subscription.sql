-- Client.subscriptions.pause and resume. Safe to repeat. `known`: whether there is such a subscription.
with switched as (
  update public.agent_subscriptions s set enabled = %(enabled)s::bool
   where s.name = %(name)s::text and s.enabled is distinct from %(enabled)s::bool returning s.name
)
select exists (select from switched) as changed, exists (select from public.agent_subscriptions s where s.name = %(name)s::text) as known
