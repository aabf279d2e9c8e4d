-- turbo: compatible-from 3
-- What becomes of a running task whose end a person asked for, once its program is gone. Four statements ask: finish,
-- release, reconcile and rescue. `requested` is agent_tasks.cancel_to: null and 'cancelled' cancel the task, 'pending' and
-- 'scheduled' run it again, at the time the person gave if that is still to come.
-- One expression in SQL and nothing set, so that the planner puts it in place of the call.
create or replace function public.turbo_stopped_status(requested text, run_after timestamptz) returns text
language sql volatile
return case when coalesce(requested, 'cancelled') not in ('pending', 'scheduled') then coalesce(requested, 'cancelled')
            when run_after > clock_timestamp() then 'scheduled'
            else 'pending' end;
