-- Adoption: waiting rows that another program's column postpones. turbo does not know that column, and would run them at once.
select k.key, count(*)
  from public.agent_tasks t
 cross join lateral jsonb_each_text(to_jsonb(t)) k
 where t.status::text in ('pending', 'scheduled') and k.key = any (%(columns)s::text[]) and k.value::timestamptz > now()
 group by k.key
 order by k.key
