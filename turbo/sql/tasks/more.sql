-- What a claimed task brings besides its text: its last question and the answer, and those before; what it needed; the conversation
-- that it goes on with; what people told it. Sent for tasks of which the claim says `more`, and for all while messages are open.
-- earlier_runs: what the runs since the first question used, the last one included; from output_data, which
-- the next result replaces. earlier: the newest first, by the token of the run that asked, because a clock may step back; also those
-- of before a retry by hand, which began another series (turbo.domain.question leaves them out).
-- found: the rows of what it needs, in no order; one that is not there was deleted. Of an output that has more than %(output)s bytes
-- as JSON a text is cut, and any other left out; so are the largest where all together have more than %(outputs)s. Past 64 MB of
-- stored results nothing is even read. Outputs are texts here: a person may have written one that is nested too deep for its reader.
-- untied: it has needs, and nothing was written of them: it came past the triggers (replica role, a restore), and nobody let it run
-- without waiting. It must not run yet: tasks/block.sql.
-- continued: the task before it in its conversation; first: the conversation's first task; directory: what that one's input says of
-- it, or said before it was deleted; earlier: the last tasks before it, with what they were asked, and whether they ran. begun: a run of it was claimed
-- before, so the session may know of this task. session: where a person let the follow-up run before the settler did, that of the
-- conversation's last run.
-- directory: what names the directory of one that goes on with no other; null: its id (turbo_directory_of).
-- messages: the oldest open ones; the worker's desk brings the others (turbo.worker.message_desk).
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
                                                         'execution_time', t.output_data -> 'execution_time')) end as earlier_runs,
       array(select n.need from unnest(t.needs) n(need)) as needs,      -- flat, whatever came past the triggers
       case when t.needs is not null then (
         select jsonb_agg(jsonb_build_object(
                  'task_id', f.task_id, 'status', f.status, 'workspace', f.workspace,
                  'output', case when f.fits then f.output end, 'cut', case when f.whole is null then not f.read else not (f.whole and f.fits) end))
           from (select s.*, coalesce(sum(octet_length(s.output)) over (order by octet_length(s.output), s.task_id), 0)
                             <= %(outputs)s as fits
                   from (select r.task_id::text as task_id, r.status::text as status, r.read, o.*
                           from (select n.task_id, n.status, n.output_data,
                                        coalesce(sum(pg_column_size(n.output_data)) over (order by pg_column_size(n.output_data), n.task_id),
                                                 0) <= 67108864 as read
                                   from public.agent_tasks n
                                  where n.task_id = any (array(select public.turbo_as_task_id(w.id::text) from unnest(t.needs) w(id)))) r
                           left join lateral (
                             select case when octet_length(d.output::text) <= %(output)s then d.output::text
                                         when jsonb_typeof(d.output) = 'string' then to_jsonb(left(d.output #>> '{}', %(output)s))::text
                                    end as output,
                                    octet_length(d.output::text) <= %(output)s as whole,
                                    left(d.workspace::text, %(output)s) as workspace
                               from (select r.output_data -> 'output' as output, r.output_data -> 'workspace' as workspace
                                      where r.read) d) o on true) s) f)
       end as found,
       t.needs is not null
         and (select true from public.agent_dependencies d where d.task_id = t.task_id limit 1) is null
         and (select true from public.agent_actions a
               where a.task_id = t.task_id and (a.action_type = 'unblocked'
                                                or a.action_type = 'edited' and a.to_status in ('pending', 'scheduled'))
               limit 1) is null as untied,
       case when t.continues is not null then (
         select jsonb_build_object(
                  'task_id', coalesce(c.after::text, t.continues), 'first', c.first,
                  'directory', coalesce(
                     (select jsonb_build_object('cwd', left(f.input_data ->> 'cwd', 16385), 'ref', left(f.input_data ->> 'ref', 16385))
                        from public.agent_conversations o
                        join public.agent_tasks f on f.task_id = o.task_id
                       where o.conversation = c.conversation and o.place = 0),
                     (select o.directory from public.agent_conversations o
                       where o.conversation = c.conversation and o.directory is not null limit 1)),
                  'earlier', (select jsonb_agg(jsonb_build_object(
                                       'task_id', e.task_id, 'text', e.text, 'status', e.status, 'ran', e.ran,
                                       'output', case when octet_length(e.output::text) <= %(output)s then e.output::text
                                                      when jsonb_typeof(e.output) = 'string'
                                                        then to_jsonb(left(e.output #>> '{}', %(output)s))::text end,
                                       'cut', octet_length(e.output::text) > %(output)s) order by e.place)
                                from (select o.place, p.task_id::text as task_id, left(p.task_description, %(output)s) as text,
                                             p.output_data -> 'output' as output, p.status::text as status,
                                             p.fencing_token is not null as ran
                                        from public.agent_conversations o
                                        join public.agent_tasks p on p.task_id = o.task_id
                                       where o.conversation = c.conversation and o.place < c.place
                                       order by o.place desc
                                       limit %(earlier)s) e),
                  'begun', (select true from public.agent_actions a
                             where a.task_id = t.task_id and a.action_type = 'claimed' and a.fencing_token <> t.fencing_token
                             limit 1) is not null,
                  'session', case when t.agent_session_id is null
                                       and (select true from public.agent_actions a
                                             where a.task_id = t.task_id and a.action_type in ('unblocked', 'finished') limit 1) is null
                                  then (select p.agent_session_id
                                          from public.agent_conversations o
                                          join public.agent_tasks p on p.task_id = o.task_id
                                         where o.conversation = c.conversation and p.task_id <> t.task_id and p.fencing_token is not null
                                         order by abs(greatest(p.fencing_token, -9223372036854775807)) desc
                                         limit 1) end)
           from (select 1) one
           left join public.agent_conversations c on c.task_id = t.task_id) end as continued,
       (select jsonb_agg(jsonb_build_object('id', m.message_id, 'body', m.body, 'sender', m.created_by) order by m.message_id)
          from (select m.*, sum(octet_length(m.body)) over (order by m.message_id) as upto
                  from (select m.message_id, m.body, m.created_by
                          from public.agent_messages m
                         where m.task_id = t.task_id and m.delivered_at is null
                           and public.turbo_same_task(m.task_born::double precision, extract(epoch from t.created_at)::double precision)
                         order by m.message_id
                         limit 200) m) m
         where m.upto <= 4194304) as messages,
       case when t.continues is null then public.turbo_directory_of(t.task_id::public.turbo_task_id) end as directory
  from public.agent_tasks t
 where t.task_id = any (%(task_id)s::text[]::public.turbo_task_id[])
