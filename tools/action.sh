#!/usr/bin/env bash
# The scan of the GitHub Action (action.yml): CONFIG and OUT in, a job summary and outputs out, the scan's own exit code.
set -uo pipefail
words=(scan --config "$CONFIG" --format "sarif,junit,markdown")
[ -n "${OUT:-}" ] && words+=(--out "$OUT")
code=0
naa-fast "${words[@]}" || code=$?
report=${OUT:-naa-report}
# Of one scan the report folder itself, of several those in it.
shopt -s nullglob
for summary in "$report/report.md" "$report"/*/report.md; do
    [ -f "$summary" ] && cat "$summary" >>"$GITHUB_STEP_SUMMARY"
done
sarif=$report/report.sarif
[ -f "$sarif" ] || sarif=
# A line break in a name would make an output of its own.
{ echo "exit-code=$code"; echo "report=${report//[$'\r\n']/}"; echo "sarif=${sarif//[$'\r\n']/}"; } >>"$GITHUB_OUTPUT"
exit "$code"
