-- Adoption and doctor: the columns of a table that a sequence fills (a serial, an identity), and how many numbers are left.
-- total: of the sequence's numbers, those that the column's type can hold. left: not handed out yet; null if this role may
-- not read the sequence.
with filled as (
  select d.refobjsubid as attnum, d.objid as sequence, true as identity
    from pg_depend d
   where d.classid = 'pg_class'::regclass and d.refclassid = 'pg_class'::regclass
     and d.refobjid = to_regclass(%(table)s) and d.deptype = 'i' and d.refobjsubid > 0
  union all
  select v.adnum, d.refobjid, false
    from pg_attrdef v
    join pg_depend d on d.classid = 'pg_attrdef'::regclass and d.objid = v.oid and d.refclassid = 'pg_class'::regclass
   where v.adrelid = to_regclass(%(table)s)
), counted as (
  select a.attname::text as column, format_type(b.oid, null) as type, f.identity,
         (select format('%%I.%%I', n.nspname, k.relname) from pg_class k join pg_namespace n on n.oid = k.relnamespace
            where k.oid = s.seqrelid) as sequence,
         format_type(s.seqtypid, null) as sequence_type, s.seqincrement as step,
         least(s.seqmax, case b.typname when 'int2' then 32767 when 'int4' then 2147483647
                                        else 9223372036854775807 end) as most,
         s.seqstart as start,
         case when has_sequence_privilege(s.seqrelid, 'select, usage')
              then coalesce(pg_sequence_last_value(s.seqrelid), s.seqstart - s.seqincrement) end as last
    from filled f
    join pg_sequence s on s.seqrelid = f.sequence
    join pg_attribute a on a.attrelid = to_regclass(%(table)s) and a.attnum = f.attnum
    join pg_type t on t.oid = a.atttypid
    join pg_type b on b.oid = case when t.typtype = 'd' then t.typbasetype else t.oid end
   where s.seqincrement > 0 and b.typname in ('int2', 'int4', 'int8')
)
select c.column, c.type, c.identity, c.sequence, c.sequence_type, c.most / c.step as total,
       -- greatest() passes over a null
       case when c.last is not null then greatest(c.most - c.last, 0) / c.step end as left
  from counted c
 order by 1
