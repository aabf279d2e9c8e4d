-- Which migrations were applied to this database. Called by every migration, --plan and --check; the table exists.
select m.version, m.name, m.checksum, (to_jsonb(m) ->> 'compatible_from')::int as compatible_from
  from public.turbo_migrations m
 order by m.version
