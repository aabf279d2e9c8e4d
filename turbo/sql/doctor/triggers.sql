-- Doctor: every trigger and rule on the tables that have turbo's triggers. enabled: fires in an ordinary session (O or A).
select c.relname::text as table, t.tgname::text as name, t.tgenabled in ('O', 'A') as enabled,
       p.pronamespace::regnamespace::text || '.' || p.proname as does
  from pg_trigger t
  join pg_class c on c.oid = t.tgrelid
  join pg_proc p on p.oid = t.tgfoid
 where not t.tgisinternal and c.oid = any (%(tables)s::text[]::regclass[]::oid[])
union all
select c.relname::text, r.rulename::text, r.ev_enabled in ('O', 'A'), 'a rule'
  from pg_rewrite r
  join pg_class c on c.oid = r.ev_class
 where c.relkind in ('r', 'p') and c.oid = any (%(tables)s::text[]::regclass[]::oid[])
 order by 1, 2
