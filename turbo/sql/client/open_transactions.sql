-- Client.follow, after it was registered (client/wait): a transaction that was open then may end a task and tell nobody, because it looked
-- for waiters before. snapshot: which are open now, or, with the parameter, were open then. over: all of those are over by now, and what
-- they wrote can be seen.
select s.asked::text as snapshot,
       not exists (select from pg_snapshot_xip(s.asked) x(xid) where not pg_visible_in_snapshot(x.xid, pg_current_snapshot())) as over
  from (select coalesce(%(snapshot)s::text::pg_snapshot, pg_current_snapshot()) as asked) s
