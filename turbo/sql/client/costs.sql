-- Client.costs: what runs used since a moment, by task type, account, queue, model, submitter or day, the costliest first (days in
-- their order); and a last row with the total. of_all: on that row how many lines there are, without the limit; null on the others.
-- Reads the rows since that moment by the index on their time (null: all of them). A run is counted once for each executor, however
-- many models it used; its fencing token names it. unpriced: runs of which some tokens have no cost.
with run as (
  select case %(by)s::text
           when 'type' then u.task_type
           when 'account' then u.account
           when 'queue' then u.queue
           when 'model' then u.model
           when 'submitter' then coalesce(u.submitted_by, '')
           when 'day' then to_char(u.at at time zone %(timezone)s::text, 'YYYY-MM-DD')
         end as name,
         u.fencing_token, u.executor,
         sum(u.input_tokens) as input_tokens, sum(u.output_tokens) as output_tokens, sum(u.cache_read_tokens) as cache_read_tokens,
         sum(u.cache_write_tokens) as cache_write_tokens, sum(u.cost_usd) as cost_usd,
         bool_or(u.cost_usd is null and u.input_tokens + u.output_tokens + u.cache_read_tokens + u.cache_write_tokens > 0) as unpriced
    from public.agent_usage u
   where u.at >= coalesce(%(since)s::timestamptz, '1970-01-01 00:00:00+00')
   group by 1, u.fencing_token, u.executor
), line as (
  select r.name, count(*) as runs, sum(r.input_tokens) as input_tokens, sum(r.output_tokens) as output_tokens,
         sum(r.cache_read_tokens) as cache_read_tokens, sum(r.cache_write_tokens) as cache_write_tokens, sum(r.cost_usd) as cost_usd,
         count(*) filter (where r.unpriced) as unpriced, null::bigint as of_all
    from run r
   group by r.name
), whole as (
  select bool_or(r.unpriced) as unpriced from run r group by r.fencing_token, r.executor
), everything as (
  select ''::text as name, (select count(*) from whole) as runs, sum(l.input_tokens) as input_tokens,
         sum(l.output_tokens) as output_tokens, sum(l.cache_read_tokens) as cache_read_tokens,
         sum(l.cache_write_tokens) as cache_write_tokens, sum(l.cost_usd) as cost_usd,
         (select count(*) from whole w where w.unpriced) as unpriced, count(*) as of_all
    from line l
)
select left(l.name, 2048) as name, l.runs, least(coalesce(l.input_tokens, 0), 9223372036854775807)::bigint as input_tokens,
       least(coalesce(l.output_tokens, 0), 9223372036854775807)::bigint as output_tokens,
       least(coalesce(l.cache_read_tokens, 0), 9223372036854775807)::bigint as cache_read_tokens,
       least(coalesce(l.cache_write_tokens, 0), 9223372036854775807)::bigint as cache_write_tokens,
       l.cost_usd::double precision as cost_usd, l.unpriced, l.of_all
  from ((select * from line l
          order by case when %(by)s::text = 'day' then l.name end desc, l.cost_usd desc nulls last,
                   l.input_tokens + l.output_tokens + l.cache_write_tokens desc, l.name
          limit %(limit)s)
        union all
        select * from everything) l
