-- Did an attempt cut short leave this index behind INVALID?
select not i.indisvalid
  from pg_index i
 where i.indexrelid = to_regclass(%(index)s)
