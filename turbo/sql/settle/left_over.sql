-- Messages whose task was over before they reached it: of one that completed they become follow-ups of their authors, of one that
-- was cancelled they are closed, with a line in the trail. One transaction; two settlers pass each other's messages.
-- Again until moved is 0.
select o.moved, o.follow_ups from public.turbo_left_over(%(worker_id)s::text) o
