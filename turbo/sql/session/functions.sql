-- The functions that run when turbo's tables are read or written, and that PostgreSQL does not bring: those of triggers, CHECK
-- constraints, defaults, indexes and policies, and of the columns' types. One row each, with its owner and what calls it.
-- fixed: its names mean the same in every session (it sets search_path itself, or has no names that are looked up when it runs).
-- Asked once per session, at its start, by `turbo migrate` and by `turbo doctor`: the catalog only, 1 ms.
with recursive tables as (
  select c.oid from pg_class c
   where c.relnamespace = (select n.oid from pg_namespace n where n.nspname = 'public') and c.relkind in ('r', 'p')
     and c.relname in ('agent_tasks', 'agent_actions', 'agent_workers', 'agent_leader', 'agent_queues', 'agent_accounts',
                       'agent_progress', 'turbo_key_slots', 'turbo_meta', 'turbo_migrations')
), whole as (
  select t.oid from tables t
  union
  select r.oid from whole w cross join lateral (
    select h.inhrelid as oid from pg_inherits h where h.inhparent = w.oid
    union all
    -- tables whose rows a deletion or a change of ours deletes or changes: their triggers run in the same session
    select k.conrelid from pg_constraint k
     where k.confrelid = w.oid and k.contype = 'f' and (k.confdeltype in ('c', 'n', 'd') or k.confupdtype in ('c', 'n', 'd'))) r
), types as (
  -- what the types of columns are made of: a domain's base, an array's element, a composite type's columns, a range's subtype.
  -- PostgreSQL's own (below 16384) are made of each other
  select a.atttypid as oid from pg_attribute a join whole on whole.oid = a.attrelid
   where a.attnum > 0 and not a.attisdropped and a.atttypid >= 16384
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
   where p.oid >= 16384
), callers as (
  select 'pg_trigger'::regclass as class, g.oid from pg_trigger g join whole on whole.oid = g.tgrelid
   where not g.tgisinternal and g.tgenabled <> 'D'
  union all
  select 'pg_constraint'::regclass, k.oid from pg_constraint k join whole on whole.oid = k.conrelid
  union all
  select 'pg_constraint'::regclass, k.oid from pg_constraint k join types y on y.oid = k.contypid
  union all
  select 'pg_type'::regclass, y.oid from types y    -- a domain's default, a range's canonical form
  union all
  select 'pg_attrdef'::regclass, d.oid from pg_attrdef d join whole on whole.oid = d.adrelid
  union all
  select 'pg_class'::regclass, x.indexrelid from pg_index x join whole on whole.oid = x.indrelid
  union all
  select 'pg_policy'::regclass, p.oid from pg_policy p join whole on whole.oid = p.polrelid
), called as (
  select c.class, c.oid, coalesce(o.oprcode::oid, d.refobjid) as function
    from callers c
    join pg_depend d on d.classid = c.class and d.objid = c.oid and d.refclassid in ('pg_proc'::regclass, 'pg_operator'::regclass)
    left join pg_operator o on d.refclassid = 'pg_operator'::regclass and o.oid = d.refobjid
)
select distinct p.oid::regprocedure::text as function, pg_get_userbyid(p.proowner)::text as owner,
       pg_describe_object(c.class, c.oid, 0) as caller,
       l.lanname in ('internal', 'c') or p.prosqlbody is not null
         or exists (select from unnest(p.proconfig) s where starts_with(s, 'search_path=')) as fixed
  from called c
  join pg_proc p on p.oid = c.function
  join pg_language l on l.oid = p.prolang
 where p.oid >= 16384
 order by 1, 3
