"""Reports: a `Judgement` in, files for people and machines out. No torch, and no arithmetic a detector should have done.

Start with `write_report` in folder.py. Layer names come from the audited model and are hostile text: nothing shows one to a
person before `words.printable` has been over it, or on a page `units.web_text`.

- folder.py: the report folder, every file whole or not at all
- files.py: the names of its files
- run.py: what was scanned, by which command, and when
- reload.py: the judgement of a folder, to draw it again
- valid.py: whether report.json holds what it should

For people, in words:
- summary.py: all of it
- brief.py: what fits on a screen
- next_steps.py: what to do next
- words.py: text and numbers, safe on a terminal
- units.py: shares and probabilities, and text for a page

The page (templates/ and report.css):
- page.py: report.html and the files it needs
- answer.py: the short answer on top
- evidence_view.py: proofs and rows of samples
- layers_view.py: the layers, their charts and tables
- sections.py: findings, what ran, provenance
- heat.py: texts whose tokens deviate
- bars.py: a panel as shapes of a page

Pictures:
- chart.py: signature.png
- chart_panel.py: one layer in it
- chart_style.py: colours and sizes
- strip.py: all layers, a cell each
- panel.py: which bars a layer's chart shows
- plots.py: one layer in a person's own axes
- pictures.py: triggers and the sheet of samples
- drawings.py: small pictures for a page
- shared.py: pixels that triggered samples share
- retained.py: the first samples of a ranking, ready to be drawn

For machines:
- machine.py: report.json (its schema is schema.json)
- table.py: the ranking as lines
- formats.py: the formats for pipelines
- reading.py: report.json as they read it
- sarif.py: SARIF
- junit.py: JUnit XML
- markdown.py: Markdown
- attestation.py: an in-toto statement
"""
