-- Doctor: which of these indexes exist and are valid.
select i.name, coalesce(x.indisvalid and x.indisready, false) as valid, x.indexrelid is not null as present
  from unnest(%(names)s::text[]) i(name)
  left join pg_index x on x.indexrelid = to_regclass(i.name)
 order by 1
