-- turbo: compatible-from 3
-- Whether a claim may take a task of this conversation: none of it runs, and no other claim is taking one of it. A function, because a
-- subquery costs every claim 2 %, also those that meet no such task; a call that is not reached costs half a percent.
create or replace function public.turbo_take_conversation(number bigint) returns boolean
language plpgsql set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  return not exists (select from public.agent_tasks r where r.status = 'running' and r.conversation = number)
         and public.turbo_take_key('conversation ' || number::text);
end $$;

-- What names the directory of a task that goes on with no other: null, its id; or the name that its conversation has. A task that has the
-- id of the deleted first task of a conversation does not work in that one's directory: it gets a conversation of its own, and with it
-- a name that nobody else has. Called for a claimed task.
create or replace function public.turbo_directory_of(task public.turbo_task_id) returns text
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
declare
  number bigint;
begin
  if (select true from public.agent_conversations c where c.first = task::text and c.directory is not null limit 1)
     and (select true from public.agent_conversations c where c.task_id = task) is null then
    insert into public.agent_conversations (task_id, place, first) values (task, 0, task::text)
    on conflict do nothing returning conversation into number;
    update public.agent_conversations c set first = task::text || '~' || number where c.task_id = task and c.conversation = number;
    update public.agent_tasks t set conversation = number, turbo_rev = t.turbo_rev + 1 where t.task_id = task and number is not null;
  end if;
  return (select c.first from public.agent_conversations c where c.task_id = task);
end $$;
revoke all on function public.turbo_directory_of(public.turbo_task_id) from public;
-- Whoever may write a claim is a worker: turbo_worker, where turbo migrate --roles made it, and roles with grants by hand.
do $$
declare
  worker record;
begin
  for worker in
    select distinct p.grantee from information_schema.column_privileges p
     where p.table_schema = 'public' and p.table_name = 'agent_tasks' and p.column_name = 'fencing_token'
       and p.privilege_type = 'UPDATE'
  loop
    execute format('grant execute on function public.turbo_directory_of(public.turbo_task_id) to %1$s',
                   case worker.grantee when 'PUBLIC' then 'public' else quote_ident(worker.grantee) end);
  end loop;
end $$;

-- A task that depends on others, or goes on with a conversation, has become pending in a queue that an older worker serves: by its retry, an
-- answer, a rescue, or because a person moved it there. That worker would run it beside its conversation, or without what it needs. So it
-- is blocked, and the settler lets it go once no such worker lives.
create or replace function public.turbo_put_back(task text) returns void
language plpgsql security definer set search_path = pg_catalog, pg_temp set enable_seqscan = off as $$
begin
  update public.agent_tasks t set status = 'blocked', turbo_rev = t.turbo_rev + 1
   where t.task_id = task::public.turbo_task_id and t.status = 'pending';
  insert into public.agent_actions (task_id, action_type, success, actor, from_status, to_status, detail)
  values (task::public.turbo_task_id, 'blocked', true, session_user, 'pending', 'blocked', '{"reason": "an older worker serves its queue"}');
  insert into public.agent_unsettled (task_id) values (task::public.turbo_task_id);
end $$;
revoke all on function public.turbo_put_back(text) from public;

-- One trigger in place of two, turbo_wake_update and turbo_wake_key_update: the server parses a trigger's clause from its stored text
-- for every statement, and each cost a claim of one task, or a result, 3 %. So that clause is as short as it can be, and the rest is here.
-- A task has become pending, or a run with a key, or of a conversation, is over. Of a conversation the last thousand tasks are looked at.
create or replace function public.turbo_wake_change() returns trigger
language plpgsql security definer set search_path = pg_catalog, pg_temp as $$
begin
  -- Not one that was blocked: the settler and the judge of hand edits look at that themselves.
  if new.status = 'pending' and old.status is distinct from 'blocked' and num_nonnulls(new.needs, new.continues, new.conversation) > 0
     and (old.status is distinct from new.status or old.queue is distinct from new.queue)
     and new.queue = any (public.turbo_older_queues()) then
    perform public.turbo_put_back(new.task_id::text);
    return null;
  end if;
  if old.status is not distinct from new.status then return null; end if;
  -- turbo.woken: the statement wakes the queues itself, each once (turbo/sql/settle/settle.sql)
  if new.status = 'pending' and current_setting('turbo.woken', true) is distinct from 'on' then perform public.turbo_wake(new.queue::text); end if;
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
