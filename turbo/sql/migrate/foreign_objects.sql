-- What has one of turbo's names in schema public, and belongs to none of the roles %(trusted)s: (kind, name, owner). The schema
-- itself is one of them, because its owner may drop what is in it. A function counts whatever its arguments are, and so does the
-- type of a column, and every type that it is made of: the owner of a domain may give it a CHECK. An array has its element's owner.
with recursive types as (
  select a.atttypid as oid
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    join pg_attribute a on a.attrelid = c.oid and a.attnum > 0 and not a.attisdropped
   where n.nspname = 'public' and c.relname = any (%(relations)s::text[]) and c.relkind in ('r', 'p')
  union
  select p.oid from types y join pg_type t on t.oid = y.oid cross join lateral (
    select t.typbasetype as oid
    union all
    select t.typelem
    union all
    select a.atttypid from pg_attribute a where a.attrelid = t.typrelid and a.attnum > 0 and not a.attisdropped
    union all
    select g.rngsubtype from pg_range g where g.rngtypid = t.oid
    union all
    select g.rngtypid from pg_range g where g.rngmultitypid = t.oid) p
   where p.oid <> 0
)
select 'schema' as kind, n.nspname::text as name, pg_get_userbyid(n.nspowner)::text as owner
  from pg_namespace n
 where n.nspname = 'public' and pg_get_userbyid(n.nspowner) <> all (%(trusted)s::text[])
union all
select case c.relkind when 'r' then 'table' when 'p' then 'table' when 'v' then 'view' when 'm' then 'materialized view'
                      when 'S' then 'sequence' when 'i' then 'index' when 'I' then 'index' when 'f' then 'foreign table'
                      else 'type' end,
       format('public.%%I', c.relname), pg_get_userbyid(c.relowner)
  from pg_class c join pg_namespace n on n.oid = c.relnamespace
 where n.nspname = 'public' and c.relname = any (%(relations)s::text[]) and pg_get_userbyid(c.relowner) <> all (%(trusted)s::text[])
union all
select 'function', p.oid::regprocedure::text, pg_get_userbyid(p.proowner)
  from pg_proc p join pg_namespace n on n.oid = p.pronamespace
 where n.nspname = 'public' and p.proname = any (%(functions)s::text[]) and pg_get_userbyid(p.proowner) <> all (%(trusted)s::text[])
union all
select 'type', format('public.%%I', t.typname), pg_get_userbyid(t.typowner)
  from pg_type t join pg_namespace n on n.oid = t.typnamespace
 where n.nspname = 'public' and t.typname = any (%(types)s::text[]) and pg_get_userbyid(t.typowner) <> all (%(trusted)s::text[])
   and t.typrelid = 0
union all
select 'type', format_type(t.oid, null), pg_get_userbyid(t.typowner)
  from types y join pg_type t on t.oid = y.oid
 where t.typcategory <> 'A' and pg_get_userbyid(t.typowner) <> all (%(trusted)s::text[])
 order by 1, 2
