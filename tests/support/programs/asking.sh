# Asks $2 questions, one a run: the program of tasks that ask, in the soak and beside kills. What it is told, it writes into the
# ledger $1; an answer is A<…>.
told=$(grep -o 'A<[^>]*>' | sort -u | tr '\n' ' ')
number=$(printf '%s' "$told" | wc -w)
printf '%s told %s\n' "$TURBO_TASK_ID" "$told" >>"$1"
if [ "$number" -lt "$2" ]; then
  printf '{"ask": {"text": "%s.q%s"}}' "$TURBO_TASK_ID" "$((number))"
  exit 76
fi
printf '{"told": "%s"}' "${told% }"
