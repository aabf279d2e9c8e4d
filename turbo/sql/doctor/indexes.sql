-- Doctor: which of these indexes are there, and whole.
select i.name, coalesce(x.indisvalid and x.indisready, false) as valid, x.indexrelid is not null as present
  from unnest(%(names)s::text[]) i(name)
  left join pg_index x on x.indexrelid = to_regclass(i.name)
 order by 1
