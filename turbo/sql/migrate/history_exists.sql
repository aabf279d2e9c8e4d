-- Was this database ever migrated?
select to_regclass('public.turbo_migrations') is not null
