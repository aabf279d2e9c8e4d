-- turbo: compatible-from 3
-- Each database has an identity of its own. What a worker keeps on its host's disk is tied to it: results must never reach
-- another database, whatever a DSN, a service file or a new database of the same name lead to.
insert into public.turbo_meta (key, value)
values ('database_id', to_jsonb(gen_random_uuid()::text))
on conflict (key) do nothing;

-- A function, so that no role needs another grant to read it: a database whose roles are not turbo's own goes on working.
-- It is no secret.
create or replace function public.turbo_database_id() returns text
language sql stable security definer set search_path = pg_catalog, pg_temp
as $$ select m.value #>> '{}' from public.turbo_meta m where m.key = 'database_id' $$;
grant execute on function public.turbo_database_id() to public;
comment on function public.turbo_database_id() is
  'the identity of this database: workers tie what they keep on disk to it';
