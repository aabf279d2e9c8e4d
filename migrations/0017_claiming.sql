-- turbo: compatible-from 3
-- Whether a claim may take a task of this conversation: none of it runs, and no other claim is taking one of it. A function, because a
-- subquery costs every claim 2 %, also those that meet no such task; a call that is not reached costs half a percent.
create or replace function public.turbo_take_conversation(number bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return not exists (select from public.agent_tasks r where r.status = 'running' and r.conversation = number)
         and public.turbo_take_key('conversation ' || number::text);
end $$;

-- One trigger in place of two, turbo_wake_update and turbo_wake_key_update: the server parses a trigger's clause from its stored text
-- for every statement, and each cost a claim of one task, or a result, 3 %. So that clause is as short as it can be, and the rest is here.
-- A task has become pending, or a run with a key, or of a conversation, is over. Of a conversation the last thousand tasks are looked at.
create or replace function public.turbo_wake_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  if old.status is not distinct from new.status then return null; end if;
  if new.status = 'pending' then perform public.turbo_wake(new.queue::text); end if;
  if old.status is distinct from 'running' or num_nonnulls(old.concurrency_key, old.conversation) = 0
     or current_setting('turbo.notify', true) = 'off' then return null; end if;
  perform pg_notify('turbo_q_' || i.queue, '')
     from (select distinct q.queue
             from public.agent_workers w cross join lateral unnest(w.queues) q(queue)
            where w.idle and w.heartbeat_at > clock_timestamp() - make_interval(secs => w.lease_seconds)) i
    where (exists (select from public.agent_tasks t
                    where t.status = 'pending' and t.concurrency_key = old.concurrency_key and t.queue = i.queue)
           or old.conversation is not null and i.queue = any (
                array(select (select t.queue from public.agent_tasks t where t.task_id = c.task_id and t.status = 'pending')
                        from (select c.task_id from public.agent_conversations c
                               where c.conversation = old.conversation order by c.place desc limit 1000) c)))
      and pg_notification_queue_usage() <= 0.5;
  return null;
end $$;
revoke all on function public.turbo_wake_change() from public;
create or replace trigger turbo_wake_update after update on public.agent_tasks for each row
  when (new.status = 'pending' or num_nonnulls(old.concurrency_key, old.conversation) > 0)
  execute function public.turbo_wake_change();
drop trigger if exists turbo_wake_key_update on public.agent_tasks;
drop function if exists public.turbo_wake_update();
