-- Has this database ever been migrated?
select to_regclass('public.turbo_migrations') is not null
