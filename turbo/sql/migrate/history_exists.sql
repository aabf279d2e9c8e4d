-- Has this database ever been migrated? A view, or a table with policies, is not turbo's: to read it would run its owner's code.
select exists (select from pg_class c
                where c.oid = to_regclass('public.turbo_migrations') and c.relkind = 'r' and not c.relrowsecurity)
