-- Client.get: one task with all its columns, by primary key.
select t.task_id::text as task_id, t.task_type, t.task_description, t.task_priority, t.input_data, t.status::text as status,
       t.queue, t.output_data, t.error_message, t.failure_kind, t.execution_time_ms, t.assigned_worker_id, t.timeout_seconds,
       t.max_retries, t.retry_count, t.infra_count, t.created_at, t.run_after, t.started_at, t.completed_at,
       t.concurrency_key, t.idempotency_key, t.agent_session_id, t.cancel_requested_at, t.cancel_to, t.question, t.answer, t.prefer_host,
       t.needs, t.on_needs_failed, t.parent_task_id::text as parent_task_id, t.continues, t.submitted_by, t.requires
  from public.agent_tasks t
 where t.task_id = %(task_id)s::text::public.turbo_task_id
