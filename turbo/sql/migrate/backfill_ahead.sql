-- Adoption's backfill, once: by how many seconds the newest created_at of a waiting row is ahead of the database's clock.
-- A timestamp without zone may be in its writers' zone. More than 14 hours is no zone offset, and does not count.
insert into public.turbo_meta (key, value)
select 'created_at_ahead', to_jsonb(coalesce(greatest(0, extract(epoch from max(t.created_at::timestamptz) - %(adopted_at)s::timestamptz)), 0)::float8)
  from public.agent_tasks t
 where t.status in ('pending', 'scheduled') and t.created_at::timestamptz < %(adopted_at)s::timestamptz + interval '14 hours'
on conflict (key) do nothing
