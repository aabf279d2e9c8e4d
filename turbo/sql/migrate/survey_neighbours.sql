-- Adoption: what else depends on a table, from the catalog alone.
-- what: key_out | key_in | unique | index | trigger | rule | view | partition | publication.
-- columns: those involved. updates: a trigger that an UPDATE of run_after would fire.
select 'key_out' as what, c.conname::text as name, c.confrelid::regclass::text as other,
       array(select a.attname::text from pg_attribute a where a.attrelid = c.conrelid and a.attnum = any (c.conkey)) as columns,
       false as updates
  from pg_constraint c where c.conrelid = to_regclass(%(table)s) and c.contype = 'f' and c.conparentid = 0
union all
select 'key_in', c.conname, c.conrelid::regclass::text,
       array(select a.attname::text from pg_attribute a where a.attrelid = c.conrelid and a.attnum = any (c.conkey)), false
  from pg_constraint c where c.confrelid = to_regclass(%(table)s) and c.contype = 'f' and c.conparentid = 0
union all
select 'unique', i.indexrelid::regclass::text, case when i.indisprimary then 'primary' when i.indpred is not null then 'partial'
                                                    when not (i.indisvalid and i.indimmediate) then 'unusable' else '' end,
       array(select coalesce(a.attname::text, '(expression)') from unnest(i.indkey[0:i.indnkeyatts - 1]) k(attnum)
              left join pg_attribute a on a.attrelid = i.indrelid and a.attnum = k.attnum and k.attnum <> 0), false
  from pg_index i where i.indrelid = to_regclass(%(table)s) and i.indisunique
union all
select 'index', i.indexrelid::regclass::text, '', '{}', false
  from pg_index i where i.indrelid = to_regclass(%(table)s) and not i.indisunique and i.indisvalid
union all
select 'trigger', t.tgname, t.tgfoid::regproc::text,
       array(select a.attname::text from pg_attribute a where a.attrelid = t.tgrelid and a.attnum = any (t.tgattr::int2[])),
       t.tgenabled = 'O' and t.tgtype & 16 <> 0 and cardinality(t.tgattr::int2[]) = 0
  from pg_trigger t
 where t.tgrelid = to_regclass(%(table)s) and not t.tgisinternal and t.tgenabled <> 'D'
   and t.tgname !~ '^(zz_)?turbo_'
union all
select 'rule', r.rulename, case r.ev_type when '1' then 'SELECT' when '2' then 'UPDATE' when '3' then 'INSERT' else 'DELETE' end, '{}', false
  from pg_rewrite r where r.ev_class = to_regclass(%(table)s) and r.rulename <> '_RETURN'
union all
select 'view', v.oid::regclass::text, v.relkind::text,
       array_agg(distinct a.attname::text) filter (where a.attname is not null), false
  from pg_depend d
  join pg_rewrite r on r.oid = d.objid
  join pg_class v on v.oid = r.ev_class and v.relkind in ('v', 'm')
  left join pg_attribute a on a.attrelid = d.refobjid and a.attnum = d.refobjsubid and d.refobjsubid > 0
 where d.classid = 'pg_rewrite'::regclass and d.refclassid = 'pg_class'::regclass and d.refobjid = to_regclass(%(table)s)
 group by v.oid, v.relkind
union all
select 'partition', h.inhrelid::regclass::text, c.relkind::text, '{}', false
  from pg_inherits h join pg_class c on c.oid = h.inhrelid
 where h.inhparent = to_regclass(%(table)s)
union all
select 'publication', p.pubname, '', '{}', false
  from pg_publication p left join pg_publication_rel l on l.prpubid = p.oid and l.prrelid = to_regclass(%(table)s)
 where (p.puballtables or l.oid is not null) and to_regclass(%(table)s) is not null
 order by 1, 2
