-- Adoption, before turbo has created anything: which names that turbo needs are already taken?
select c.relname::text, case c.relkind when 'r' then 'TABLE' when 'p' then 'TABLE' when 'v' then 'VIEW' when 'm' then 'MATERIALIZED VIEW'
                                       when 'S' then 'SEQUENCE' when 'i' then 'INDEX' when 'I' then 'INDEX' else 'object' end
  from pg_class c
 where c.relnamespace = 'public'::regnamespace and c.relname = any (%(relations)s::text[])
union all
select t.typname::text, 'TYPE'
  from pg_type t
 where t.typnamespace = 'public'::regnamespace and t.typname = any (%(types)s::text[])
   and not exists (select from pg_class c where c.reltype = t.oid)
 order by 1
