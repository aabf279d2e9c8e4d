-- Adoption's backfill: since when is the table turbo's, how far ahead of the database's clock were its created_at, and is
-- it done? Null without an adopted agent_tasks.
select (select (m.value #>> '{}') from public.turbo_meta m where m.key = 'adopted_at') as adopted_at,
       (select (m.value #>> '{}')::float8 from public.turbo_meta m where m.key = 'created_at_ahead') as ahead,
       exists (select from public.turbo_meta m where m.key = 'backfilled') as done
