-- Adoption's backfill: when the table was adopted, how far created_at was ahead of the database's clock, and whether the
-- backfill is done. The first two are null without an adopted agent_tasks.
select (select (m.value #>> '{}') from public.turbo_meta m where m.key = 'adopted_at') as adopted_at,
       (select (m.value #>> '{}')::float8 from public.turbo_meta m where m.key = 'created_at_ahead') as ahead,
       exists (select from public.turbo_meta m where m.key = 'backfilled') as done
