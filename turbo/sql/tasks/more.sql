-- What a claimed task brings besides its text: its last question and the answer, and those before. Sent for tasks of which the
-- claim says `more`. earlier_runs: what the runs since the first question used, the last one included; from output_data, which
-- the next result replaces. earlier: the newest first, by the token of the run that asked, because a clock may step back; also those
-- of before a retry by hand, which began another series (turbo.domain.question leaves them out).
select t.task_id::text as task_id, t.question, t.answer,
       (select jsonb_agg(jsonb_build_object('question', e.detail -> 'question', 'answer', e.detail -> 'answer') order by e.place)
          from (select a.detail, row_number() over (
                         order by abs(greatest(a.fencing_token, -9223372036854775807)) desc nulls last,
                                  a.detail -> 'question' -> 'number' desc, a.executed_at desc) as place
                  from public.agent_actions a
                 where a.task_id = t.task_id and a.action_type in ('answered', 'unanswered', 'edited', 'reasserted')
                   and a.detail -> 'question' ->> 'kind' in ('question', 'approval')
                 order by place
                 limit 21) e) as earlier,
       case when jsonb_typeof(t.output_data) = 'object'
            then case jsonb_typeof(t.output_data -> 'earlier_runs') when 'array' then t.output_data -> 'earlier_runs' else '[]' end
                 || jsonb_strip_nulls(jsonb_build_object('usage', t.output_data -> 'usage', 'worker_id', t.output_data -> 'worker_id',
                                                         'execution_time', t.output_data -> 'execution_time')) end as earlier_runs
  from public.agent_tasks t
 where t.task_id = any (%(task_id)s::text[]::public.turbo_task_id[])
