-- What tasks have put out, for a target whose configuration says `include: [output]`. Longer ones are cut in the middle of their text.
select t.task_id::text, case when octet_length(t.output_data::text) <= %(most)s::integer then t.output_data
                             else to_jsonb(left(t.output_data::text, %(most)s::integer)) end as output
  from public.agent_tasks t
 where t.task_id = any (%(task_ids)s::text[]::public.turbo_task_id[])
