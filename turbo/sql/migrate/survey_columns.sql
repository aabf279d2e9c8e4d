-- Adoption: the columns of a table, with domains resolved to their base type.
-- kind: the base type's internal name, or 'enum'. length: of a varchar, null without a limit.
-- domain: its name, if the column's type is a domain. labels: an enum's. comment: '' without one.
with recursive columns as (
  select a.attnum, a.attname, a.atttypid as declared, a.atttypid as type, a.atttypmod as modifier, a.attnotnull as required
    from pg_attribute a
   where a.attrelid = to_regclass(%(table)s) and a.attnum > 0 and not a.attisdropped
  union all
  select c.attnum, c.attname, c.declared, t.typbasetype, t.typtypmod, c.required or t.typnotnull
    from columns c
    join pg_type t on t.oid = c.type and t.typtype = 'd'
)
select c.attname::text as name, format_type(c.declared, a.atttypmod) as type,
       case when t.typtype = 'e' then 'enum' else t.typname::text end as kind,
       case when t.typname in ('varchar', 'bpchar') and c.modifier > 4 then c.modifier - 4 end as length,
       c.required, a.atthasdef or a.attidentity <> '' or b.typdefault is not null as has_default,
       a.attidentity::text as identity, a.attgenerated::text as generated,
       case when b.typtype = 'd' then format_type(c.declared, null) end as domain,
       case when t.typtype = 'e' then format_type(c.type, null) end as enum,
       array(select e.enumlabel::text from pg_enum e where e.enumtypid = c.type order by e.enumsortorder) as labels,
       t.typtype <> 'e' or pg_has_role(t.typowner, 'usage') as may_alter_type,
       coalesce(col_description(a.attrelid, a.attnum), '') as comment
  from columns c
  join pg_attribute a on a.attrelid = to_regclass(%(table)s) and a.attnum = c.attnum
  join pg_type t on t.oid = c.type and t.typtype <> 'd'
  join pg_type b on b.oid = c.declared
 order by c.attnum
